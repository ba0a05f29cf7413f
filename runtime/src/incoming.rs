//! Streams that a method takes as an argument, as generated code accepts them.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::policy::stream::StreamFault;
use crate::service::{Reply, Request};
use crate::stream::{Reader, StreamPart, UPLOAD_WINDOW, UploadControl};
use crate::wire::codec::Codec;
use crate::wire::status::{Code, Status};

/// The items that a caller sends: an argument of a method, which is a [`Stream`] of `Result<T, Error>`.
///
/// A client gives any stream of `T` for it, and polls that stream only while the method reads: at most 32 items are on
/// their way or wait to be read, so that a slow method slows its caller down and holds no more than that in memory.
///
/// ```
/// use futures_util::stream;
/// use lepus::Incoming;
///
/// /// The rows did not come to their end.
/// #[derive(Debug, serde::Serialize, serde::Deserialize)]
/// struct Incomplete;
///
/// #[lepus::service]
/// trait Adder {
///     async fn sum(&self, numbers: Incoming<u64>) -> Result<u64, Incomplete>;
/// }
///
/// struct AdderService;
///
/// impl Adder for AdderService {
///     async fn sum(&self, mut numbers: Incoming<u64>) -> Result<u64, Incomplete> {
///         let mut sum = 0;
///         while let Some(number) = numbers.next().await {
///             sum += number.map_err(|_| Incomplete)?;
///         }
///         // All of them have come.
///         Ok(sum)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError<Incomplete>> {
/// let adder = AdderClient::local(AdderService);
/// assert_eq!(adder.sum(stream::iter(1..=4)).await?, 10);
/// # Ok(())
/// # }
/// ```
///
/// # The end
/// Items come in the order in which the caller has sent them, each once and without a gap. After the last one, the next
/// is `None`: the caller has sent all of them. An error is the last item:
///
/// - [`is_disconnected`](Error::is_disconnected): the caller or this server has lost its connection to the broker, or
///   the caller has died. The error tells how many items came.
/// - [`status`](Error::status): `cancelled` if the caller has given the call up, `unavailable` if the server shuts
///   down.
/// - [`is_decode`](Error::is_decode): an item does not decode, or the caller has broken the rules of streams: items were
///   lost or doubled, or more came than were allowed. The caller gets the status `invalid_argument`, or
///   `resource_exhausted` for an item over the limit of the size.
///
/// The method is told of an error, and is then dropped at its next await, as any method whose caller is gone; its reply
/// is not sent. What has to be done after an error belongs into a `Drop`, or into a task of its own.
///
/// A method may answer before it has read all items, and may drop this at any time: its caller stops sending, and drops
/// its stream.
///
/// # Cancel safety
/// [`next`](Self::next) loses no item if its future is dropped.
pub struct Incoming<T> {
    reader: Reader<Result<(), Error>>,
    control: Arc<dyn UploadControl>,
    codec: Codec,
    method: &'static str,
    /// The items that were read.
    items: u64,
    is_done: bool,
    item: PhantomData<fn() -> T>,
}

impl<T> Incoming<T> {
    /// The number of items that were read.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Ends the request because of an item.
    fn refuse(&self, error: impl fmt::Display) -> Error {
        let method = self.method;
        let text = format!("an item for `{method}` does not decode: {error}");
        self.control
            .refuse(Status::new(Code::InvalidArgument, text.clone()));
        self.after_items(ErrorKind::Decode, &text)
    }

    /// The error that is the last item.
    fn after_items(&self, kind: ErrorKind, reason: &dyn fmt::Display) -> Error {
        let items = self.items;
        Error::new(kind).caused_by(format!("after {items} items: {reason}"))
    }
}

impl<T: DeserializeOwned> Incoming<T> {
    /// The next item; `None` when the caller has sent all of them. After an error, the next one is `None`.
    ///
    /// # Errors
    /// The items have not come to [their end](Self#the-end).
    ///
    /// # Cancel safety
    /// No item is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn decode(&self, read: StreamPart<Result<(), Error>>) -> Option<Result<T, Error>> {
        match read {
            StreamPart::Item(item) => match self.codec.decode(&item) {
                Ok(item) => Some(Ok(item)),
                Err(error) => {
                    let at = self.items;
                    Some(Err(self.refuse(error.at(format_args!("item {at}")))))
                }
            },
            StreamPart::Malformed => Some(Err(self.refuse(StreamFault::Malformed))),
            StreamPart::End(Ok(())) => None,
            StreamPart::End(Err(error)) => Some(Err(
                self.after_items(error.kind().clone(), &error.with_reason())
            )),
        }
    }
}

impl<T: DeserializeOwned> Stream for Incoming<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_done {
            return Poll::Ready(None);
        }
        let control = &this.control;
        let read = ready!(this.reader.poll_read(cx, |total| control.grant(total)));
        let item = read.and_then(|read| this.decode(read));
        match item {
            Some(Ok(_)) => this.items += 1,
            Some(Err(_)) | None => this.is_done = true,
        }
        Poll::Ready(item)
    }
}

impl<T> Drop for Incoming<T> {
    fn drop(&mut self) {
        if !self.is_done {
            self.control.stop();
        }
    }
}

impl<T> Unpin for Incoming<T> {}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("method", &self.method)
            .field("items", &self.items())
            .finish_non_exhaustive()
    }
}

/// Accepts the items that a caller sends.
///
/// # Errors
/// The reply to a caller that sends none.
pub fn accept_items<T: DeserializeOwned>(request: &Request) -> Result<Incoming<T>, Reply> {
    let method = request.method_name();
    let accepted = request
        .stream()
        .and_then(|stream| Arc::clone(stream).accept());
    let Some(upload) = accepted else {
        let text = format!(
            "`{method}` takes a stream, which its caller does not send, or which was taken before"
        );
        return Err(Reply::failed(Status::new(Code::FailedPrecondition, text)));
    };
    Ok(Incoming {
        reader: Reader::new(upload.inbox, UPLOAD_WINDOW),
        control: upload.control,
        codec: request.codec(),
        method,
        items: 0,
        is_done: false,
        item: PhantomData,
    })
}
