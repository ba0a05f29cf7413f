//! Streams that a method returns, as generated code sends them.

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::returns::MethodError;
use crate::service::{Reply, Request};
use crate::stream::{Produced, produce};
use crate::wire::codec::octets::AsOctets;
use crate::wire::envelope::ReplyStatus;
use crate::wire::status::{Code, Status};

/// An item of which it is known whether it is a `Result`.
pub trait IntoItem<const IS_RESULT: bool> {
    /// The encoded item, or the reply that ends the stream.
    ///
    /// # Errors
    /// It is an error, or cannot be encoded.
    fn encode(&self, request: &Request) -> Result<Bytes, Reply>;
}

impl<T: Serialize> IntoItem<false> for T {
    fn encode(&self, request: &Request) -> Result<Bytes, Reply> {
        encode(request, self)
    }
}

impl<T: Serialize, E: MethodError> IntoItem<true> for Result<T, E> {
    fn encode(&self, request: &Request) -> Result<Bytes, Reply> {
        match self {
            Ok(item) => encode(request, item),
            Err(_) => Err(request.result(self)),
        }
    }
}

fn encode<T: Serialize>(request: &Request, item: &T) -> Result<Bytes, Reply> {
    request.codec().encode(item).map_err(|error| {
        let method = request.method_name();
        let text = format!("an item of `{method}` cannot be encoded: {error}");
        Reply::failed(Status::new(Code::Internal, text))
    })
}

/// Sends the items of a stream to the caller, as its credit allows, and returns the reply that ends the stream.
pub async fn send_items<const IS_RESULT: bool, S>(request: Request, stream: S) -> Reply
where
    S: Stream,
    S::Item: IntoItem<IS_RESULT>,
{
    let method = request.method_name();
    let Some(served) = request.stream() else {
        let text = format!("`{method}` returns a stream, and the caller did not ask for one");
        return Reply::failed(Status::new(Code::FailedPrecondition, text));
    };
    match produce(served.items(), stream, |item| item.encode(&request)).await {
        Produced::Finished => Reply::new(ReplyStatus::Success, request.codec().unit()),
        Produced::Item(reply) => reply,
        Produced::TooLarge { size, limit } => {
            let text = format!("an item of `{method}` has {size} bytes, the limit is {limit}");
            Reply::failed(Status::new(Code::ResourceExhausted, text))
        }
        Produced::Closed => {
            let text = format!("nobody reads the stream of `{method}` any more");
            Reply::failed(Status::new(Code::Cancelled, text))
        }
    }
}

/// A stream whose items are sent as bytes.
pub fn as_octets<S: Stream>(stream: S) -> impl Stream<Item = StreamedOctets<S::Item>> {
    stream.map(StreamedOctets)
}

/// A stream of results whose values are sent as bytes.
pub fn ok_as_octets<T, E, S: Stream<Item = Result<T, E>>>(
    stream: S,
) -> impl Stream<Item = Result<StreamedOctets<T>, E>> {
    stream.map_ok(StreamedOctets)
}

/// An item that is sent as bytes.
#[derive(Debug)]
pub struct StreamedOctets<T>(T);

impl<T> Serialize for StreamedOctets<T>
where
    for<'a> AsOctets<&'a T>: Serialize,
{
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        AsOctets(&self.0).serialize(serializer)
    }
}
