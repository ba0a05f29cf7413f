//! A job as its handler sees it, and before its payload is decoded.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::cancellation::Cancellation;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::wire::codec::Codec;
use crate::wire::message::{MessageInfo, message_accessors};

/// A job that a handler works on.
///
/// ```
/// use lepus::{Job, reject, retry_after, jobs::JobError};
/// use std::time::Duration;
///
/// async fn send(job: Job<String>) -> Result<(), JobError> {
///     let address = job.payload();
///     if !address.contains('@') {
///         return Err(reject(format!("`{address}` is no address")));
///     }
///     if job.attempt() == 1 {
///         return Err(retry_after(Duration::from_secs(60), "greylisted"));
///     }
///     println!("{:?} is sent to {address}", job.message_id());
///     Ok(())
/// }
/// # let _ = send;
/// ```
#[derive(Clone, Debug)]
pub struct Job<T> {
    pub(super) payload: T,
    pub(super) body: Bytes,
    pub(super) context: Context,
    pub(super) cancellation: Cancellation,
}

/// A job before its payload is decoded.
#[derive(Clone, Debug)]
pub(crate) struct RawJob {
    pub(crate) body: Bytes,
    pub(crate) context: Context,
    pub(crate) cancellation: Cancellation,
}

impl<T> Job<T> {
    fn info(&self) -> &MessageInfo {
        self.context.message()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// The payload, taken out.
    #[must_use]
    pub fn into_payload(self) -> T {
        self.payload
    }

    message_accessors! {
        bytes key exchange content_type message_id timestamp app_id headers header trace redelivered
        attempt
    }

    /// The signal that the handler should stop, to be awaited or asked.
    #[must_use]
    pub fn cancelled(&self) -> Cancellation {
        self.cancellation.clone()
    }
}

/// The codec of a payload: the one that its content type names, or the queue's own if it names none.
///
/// # Errors
/// The content type is unknown.
pub(crate) fn payload_codec(own: Codec, content_type: Option<&str>) -> Result<Codec, String> {
    own.for_content_type(content_type)
        .map_err(|name| format!("content type `{name}` is not understood, the queue's is {own}"))
}

/// Decodes a payload for a caller who is told the error.
pub(super) fn decode_payload<T: DeserializeOwned>(
    own: Codec,
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<T, Error> {
    let codec = payload_codec(own, content_type)
        .map_err(|reason| Error::new(ErrorKind::Decode).caused_by(reason))?;
    codec
        .decode(body)
        .map_err(|error| Error::new(ErrorKind::Decode).caused_by(error))
}
