//! A job as its handler sees it, and the signal that its handler should stop.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::link::{Channel, Session};
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

/// The signal that a handler should stop: its connection is lost, or the broker has closed its
/// channel, so that the job will be delivered again whatever it does; or its worker is shutting down.
#[derive(Clone, Debug)]
pub struct Cancellation {
    /// Weak, because a handler may keep its job for long. The job would keep the channel open, and
    /// with it all unsettled deliveries there.
    channel: Weak<Channel>,
    session: Arc<Session>,
    stop: watch::Receiver<StopSignal>,
}

/// The state of a pool that its handlers watch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StopSignal {
    pub(super) is_draining: bool,
    /// The number of channels that were lost. A change wakes the handlers, and each checks its own
    /// channel.
    pub(super) lost_channels: u64,
}

impl Cancellation {
    pub(super) fn new(channel: &Arc<Channel>, stop: watch::Receiver<StopSignal>) -> Self {
        Self {
            channel: Arc::downgrade(channel),
            session: Arc::clone(channel.session()),
            stop,
        }
    }

    /// Completes when the handler should stop. Cancel-safe.
    pub async fn wait(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = self.session.down() => {}
            // An error means that the worker has been dropped.
            _ = stop.wait_for(|stop| stop.is_draining || self.is_lost()) => {}
        }
    }

    /// Whether the channel is closed, so that the job cannot be settled and is delivered again.
    pub(crate) fn is_lost(&self) -> bool {
        self.channel
            .upgrade()
            .is_none_or(|channel| !channel.is_open())
    }

    /// Whether the handler should stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // An error means that the worker has been dropped.
        let is_dropped = self.stop.has_changed().is_err();
        self.is_lost() || is_dropped || self.stop.borrow().is_draining
    }
}
