//! Options of a publish, set for all publishes of an [`EventPublisher`](super::EventPublisher) or
//! for one.

use std::time::Duration;

/// The options that a publisher's publishes share unless one sets its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublishOptions {
    pub(super) persistent: bool,
    pub(super) mandatory: bool,
    pub(super) safety: Safety,
    pub(super) timeout: Duration,
}

/// The moment at which a publish returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// When the broker has confirmed the event (`basic.ack`).
    Confirmed,
    /// When the event is written to the socket.
    Unconfirmed,
}
