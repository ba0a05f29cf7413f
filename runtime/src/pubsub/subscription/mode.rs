//! The modes of a subscription, with the options of each: broadcast, and the group of the shared and
//! singleton modes.

use std::time::Duration;

use super::super::spec::ExchangeSpec;
use crate::error::Error;
use crate::queue;

/// Default number of events that wait for the reader of a broadcast stream.
const DEFAULT_BUFFER: usize = 1024;

/// The broadcast mode: every subscription receives every event. It has a queue of its own, which
/// exists as long as the subscription.
#[derive(Clone, Debug)]
pub struct Broadcast {
    pub(super) buffer: usize,
    pub(super) overflow: Overflow,
    pub(super) drop_oldest_over: Option<u32>,
}

impl Default for Broadcast {
    fn default() -> Self {
        Self {
            buffer: DEFAULT_BUFFER,
            overflow: Overflow::default(),
            drop_oldest_over: None,
        }
    }
}

/// The behaviour of a broadcast stream whose [buffer](super::Subscribe::buffer) is full because its
/// reader is slower than the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest event in the buffer is dropped, and the reader is told the number of those
    /// ([`Missed::Lagged`](crate::events::Missed::Lagged)). The broker never has to keep events.
    #[default]
    DropOldest,
    /// The broker keeps the further events in the subscription's queue, and so in its memory, up
    /// to [`drop_oldest_over`](super::Subscribe::drop_oldest_over).
    Hold,
}

/// The shared and singleton modes: the members of a named group share the events, and each event
/// goes to one of them.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) spec: queue::QueueSpec,
    pub(super) prefetch: u16,
    pub(super) timeout: Option<Duration>,
}

/// The members of a group that receive events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActiveMembers {
    All,
    /// RabbitMQ's `x-single-active-consumer`.
    One,
}

impl Group {
    /// A group of this name, and the error if the name is invalid.
    pub(super) fn new(
        exchange: &ExchangeSpec,
        group: &str,
        active: ActiveMembers,
    ) -> (Self, Option<Error>) {
        let mut spec = queue::QueueSpec::new(&format!("{}.{group}", exchange.name()));
        spec.codec = Some(exchange.codec);
        spec.single_active = active == ActiveMembers::One;
        let invalid = group
            .is_empty()
            .then(|| Error::invalid("the name of a group cannot be empty"));
        let (prefetch, timeout) = (1, None);
        let group = Self {
            spec,
            prefetch,
            timeout,
        };
        (group, invalid)
    }
}
