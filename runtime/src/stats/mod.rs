//! Counters and gauges of a connection, and those of each method that it serves.

mod histogram;
mod method;

pub use histogram::DurationHistogram;
pub(crate) use method::MethodCounters;
pub use method::{HandlerKind, HandlerOutcome, MethodStats};

use std::sync::atomic::{AtomicU64, Ordering};

/// Gauges and counters of a connection at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Gauge: calls that wait for their reply.
    pub pending_calls: u64,
    /// Gauge: streams that are open over this connection, at its clients and at its servers.
    pub open_streams: u64,
    /// Gauge: deliveries whose handler runs.
    pub running: u64,
    /// Gauge: deliveries that are not settled, whether their handler runs, has yet to run or has ended.
    pub unsettled: u64,
    /// Gauge: open channels, of both sessions.
    pub channels: u64,
    /// Counter: replies to unknown or finished calls, which were dropped.
    pub dropped_replies: u64,
    /// Counter: replies of this connection's servers that were returned, because the reply queue of the client
    /// was gone.
    pub returned_replies: u64,
    /// Counter: requests that were past their deadline when they were delivered, and were not run.
    pub expired_requests: u64,
    /// Counter: requests whose handler was stopped, or not begun, because its caller has given the call up.
    pub cancelled_requests: u64,
    /// Counter: redelivered requests that may have been executed and were not run again, because their methods are not
    /// idempotent.
    pub not_run_again: u64,
    /// Counter: deliveries that were refused: an unknown method or content type, or arguments or a payload that
    /// do not decode.
    pub malformed: u64,
    /// Counter: events of a type that their subscriber does not know, which were skipped.
    pub skipped_events: u64,
    /// Counter: events that were dropped because their reader was slow.
    pub lagged_events: u64,
    /// Counter: handlers that panicked.
    pub panics: u64,
    /// Counter: jobs that were published for another attempt.
    pub retried: u64,
    /// Counter: jobs that were dead-lettered.
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
    pending_calls, open_streams, running, unsettled, channels, dropped_replies, returned_replies,
    expired_requests, cancelled_requests, not_run_again, malformed, skipped_events, lagged_events, panics, retried,
    dead_lettered,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_all(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn remove(&self) {
        self.remove_all(1);
    }

    pub(crate) fn remove_all(&self, count: usize) {
        // A `usize` has at most 64 bits on all platforms.
        self.0.fetch_sub(count as u64, Ordering::Relaxed);
    }
}
