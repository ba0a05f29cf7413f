//! Counters and gauges of a connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a connection has in hand and what it has seen, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that wait for their reply.
    pub pending_calls: u64,
    /// Deliveries that a handler works on.
    pub running: u64,
    /// Deliveries that are not settled yet: with their handler, before it or behind it.
    pub unsettled: u64,
    /// Channels that are held, of both sessions.
    pub channels: u64,
    /// Replies that nobody waited for any more: late, doubled, or for an unknown call.
    pub dropped_replies: u64,
    /// Replies of our servers that came back because their caller was gone.
    pub returned_replies: u64,
    /// Requests that were past their deadline when they came, and were not run.
    pub expired_requests: u64,
    /// Deliveries that could not be understood: no method, no arguments, no job.
    pub malformed: u64,
    /// Events of a type that their subscriber does not know, and skipped.
    pub skipped_events: u64,
    /// Events that were dropped here because their reader was slow.
    pub lagged_events: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Jobs sent back for another attempt.
    pub retried: u64,
    /// Jobs that ended in a dead-letter queue.
    pub dead_lettered: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    pending_calls, running, unsettled, channels, dropped_replies, returned_replies,
    expired_requests, malformed, skipped_events, lagged_events, panics, retried, dead_lettered,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self) {
        self.remove_all(1);
    }

    pub(crate) fn remove_all(&self, count: usize) {
        // No machine counts more than 64 bits.
        self.0.fetch_sub(count as u64, Ordering::Relaxed);
    }
}
