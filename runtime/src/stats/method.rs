//! Figures of one method of a service, one task, or the jobs or events of one queue.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::Counter;
use super::histogram::{DurationHistogram, HistogramCounters};
use crate::wire::status::Code;

/// The kind of what a handler handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerKind {
    /// Requests to a service.
    Request,
    /// Jobs of a work queue, or tasks.
    Job,
    /// Events of a subscription that gives them to a handler.
    Event,
}

/// The end of a request, job or event as it is counted and [observed](crate::observe::Observe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerOutcome {
    /// A value, or a job that is done.
    Ok,
    /// The method's own error, or the error of a job's handler.
    OwnError,
    /// A status: of the handler, of a layer, or of Lepus, which refuses a request that it cannot handle.
    Status(Code),
    /// The handler was stopped at its deadline.
    Stopped,
    /// The handler panicked.
    Panicked,
    /// The handler was dropped before its end: its caller has given the call up, its connection was lost, or its
    /// program ended. A call that its caller has given up.
    Cancelled,
}

impl HandlerOutcome {
    /// The outcome as a code: `ok`, `application` for the method's own error, or the name of a [`Code`]. That of a
    /// panic is `internal`, as its caller gets it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::OwnError => "application",
            Self::Status(code) => code.as_str(),
            Self::Stopped => Code::DeadlineExceeded.as_str(),
            Self::Panicked => Code::Internal.as_str(),
            Self::Cancelled => Code::Cancelled.as_str(),
        }
    }

    /// Whether it is neither a success nor the answer of a handler that works: for an error rate.
    #[must_use]
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Ok | Self::OwnError)
    }
}

/// Figures of a method since the connection was opened: of a method of a service, of a task, or of all jobs or
/// events of one queue. [`Connection::stats_by_method`](crate::Connection::stats_by_method) returns them.
///
/// Each request, job and event that is delivered counts once in [`requests`](Self::requests), and once it has ended
/// in [`duration`](Self::duration) and, unless it succeeded, in one of the errors. One that is delivered again counts
/// again.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MethodStats {
    /// Requests, jobs or events.
    pub kind: HandlerKind,
    /// The name of the service, of the work queue or the group's queue, or of the exchange of a broadcast
    /// subscription; without the namespace.
    pub service: String,
    /// The name of the method or the task. `_OTHER` for those that the service does not have; empty for jobs and
    /// events that have no methods.
    pub method: String,
    /// Counter: requests, jobs or events that were to be handled.
    pub requests: u64,
    /// Gauge: those of them whose handler runs.
    pub in_flight: u64,
    /// Counter: the method's own errors, and errors of jobs' handlers.
    pub own_errors: u64,
    /// Counters: statuses by their codes, of the handler, of layers, and of requests that Lepus has refused. Codes that
    /// did not occur are left out.
    pub statuses: Vec<(Code, u64)>,
    /// Counter: handlers that were stopped at their deadline.
    pub stopped: u64,
    /// Counter: handlers that were dropped before their end: their callers have given the calls up, or they ended with
    /// their connection or their server. Those that were not begun because of the former are among them.
    pub cancelled: u64,
    /// Counter: handlers that panicked.
    pub panics: u64,
    /// Counter: requests, jobs or events that the broker had delivered before.
    pub redelivered: u64,
    /// Counter: requests that were past their deadline when they were delivered. They are not counted in
    /// `requests`.
    pub expired: u64,
    /// Counter: jobs or events that were published for another attempt.
    pub retried: u64,
    /// Counter: jobs or events that were dead-lettered.
    pub dead_lettered: u64,
    /// The time from the delivery, or from the start of the handler if that was later, to the end of the handler.
    pub duration: DurationHistogram,
    /// The time from the sending of the message to its delivery. Clocks differ: a negative time counts as none.
    ///
    /// It is known of a message with the header `timestamp_in_ms`, which RabbitMQ's interceptor for timestamps or the
    /// sender sets. Otherwise, of jobs and events of Lepus, it is known to the second. It is recorded for the first
    /// attempt alone, and not for jobs that were pushed with a delay.
    pub queue_wait: DurationHistogram,
    /// The last error as a code: `application` for the method's own error, or the name of a [`Code`].
    pub last_error: Option<&'static str>,
}

/// The number of codes. Their discriminants are smaller.
const CODES: usize = 16;
/// `last_error` without an error, with the method's own error, and with a code, whose discriminant is added.
const NO_ERROR: u8 = 0;
const OWN_ERROR: u8 = 1;
const FIRST_CODE: u8 = 2;

/// The live counters of a method. They are found once for a dispatcher or a pool, and shared.
#[derive(Debug)]
pub(crate) struct MethodCounters {
    pub(crate) kind: HandlerKind,
    pub(crate) service: String,
    pub(crate) method: String,
    requests: Counter,
    own_errors: Counter,
    statuses: [Counter; CODES],
    stopped: Counter,
    cancelled: Counter,
    panics: Counter,
    redelivered: Counter,
    pub(crate) expired: Counter,
    pub(crate) retried: Counter,
    pub(crate) dead_lettered: Counter,
    duration: HistogramCounters,
    queue_wait: HistogramCounters,
    last_error: AtomicU8,
}

impl MethodCounters {
    pub(crate) fn new(kind: HandlerKind, service: &str, method: &str) -> Self {
        Self {
            kind,
            service: service.to_owned(),
            method: method.to_owned(),
            requests: Counter::default(),
            own_errors: Counter::default(),
            statuses: Default::default(),
            stopped: Counter::default(),
            cancelled: Counter::default(),
            panics: Counter::default(),
            redelivered: Counter::default(),
            expired: Counter::default(),
            retried: Counter::default(),
            dead_lettered: Counter::default(),
            duration: HistogramCounters::default(),
            queue_wait: HistogramCounters::default(),
            last_error: AtomicU8::new(NO_ERROR),
        }
    }

    pub(crate) fn started(&self, redelivered: bool, queue_wait: Option<Duration>) {
        self.requests.add();
        if redelivered {
            self.redelivered.add();
        }
        if let Some(wait) = queue_wait {
            self.queue_wait.record(wait);
        }
    }

    pub(crate) fn ended(&self, outcome: HandlerOutcome, duration: Duration) {
        self.duration.record(duration);
        let error = match outcome {
            HandlerOutcome::Ok => return,
            HandlerOutcome::OwnError => {
                self.own_errors.add();
                OWN_ERROR
            }
            HandlerOutcome::Status(code) => {
                if let Some(counter) = self.statuses.get(code as usize) {
                    counter.add();
                }
                error_of(code)
            }
            HandlerOutcome::Stopped => {
                self.stopped.add();
                error_of(Code::DeadlineExceeded)
            }
            HandlerOutcome::Panicked => {
                self.panics.add();
                error_of(Code::Internal)
            }
            // Not an error of the method.
            HandlerOutcome::Cancelled => return self.cancelled.add(),
        };
        self.last_error.store(error, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> MethodStats {
        // Read first: one that ends meanwhile then counts as in flight, and the difference is not negative.
        let duration = self.duration.read();
        let requests = self.requests.get();
        let statuses = Code::all().zip(&self.statuses);
        let statuses = statuses.map(|(code, counter)| (code, counter.get()));
        MethodStats {
            kind: self.kind,
            service: self.service.clone(),
            method: self.method.clone(),
            requests,
            in_flight: requests.saturating_sub(duration.count()),
            own_errors: self.own_errors.get(),
            statuses: statuses.filter(|(_, count)| *count > 0).collect(),
            stopped: self.stopped.get(),
            cancelled: self.cancelled.get(),
            panics: self.panics.get(),
            redelivered: self.redelivered.get(),
            expired: self.expired.get(),
            retried: self.retried.get(),
            dead_lettered: self.dead_lettered.get(),
            duration,
            queue_wait: self.queue_wait.read(),
            last_error: match self.last_error.load(Ordering::Relaxed) {
                NO_ERROR => None,
                OWN_ERROR => Some(HandlerOutcome::OwnError.as_str()),
                code => Code::all()
                    .nth(usize::from(code - FIRST_CODE))
                    .map(Code::as_str),
            },
        }
    }
}

fn error_of(code: Code) -> u8 {
    FIRST_CODE + code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn counters() -> MethodCounters {
        MethodCounters::new(HandlerKind::Request, "calculator", "divide")
    }

    #[test]
    fn every_outcome_is_counted_where_it_belongs() {
        let counters = counters();
        let outcomes = [
            HandlerOutcome::Ok,
            HandlerOutcome::OwnError,
            HandlerOutcome::Stopped,
            HandlerOutcome::Panicked,
            HandlerOutcome::Status(Code::Unimplemented),
            HandlerOutcome::Status(Code::Unimplemented),
            HandlerOutcome::Cancelled,
        ];
        for outcome in outcomes {
            counters.started(false, None);
            counters.ended(outcome, MILLI);
        }
        counters.started(true, Some(20 * MILLI));
        let stats = counters.read();
        assert_eq!(
            (stats.requests, stats.in_flight, stats.redelivered),
            (8, 1, 1)
        );
        assert_eq!((stats.own_errors, stats.stopped), (1, 1));
        assert_eq!((stats.panics, stats.cancelled), (1, 1));
        assert_eq!(stats.statuses, [(Code::Unimplemented, 2)]);
        assert_eq!(stats.last_error, Some("unimplemented"));
        assert_eq!(
            (stats.duration.count(), stats.queue_wait.buckets[2]),
            (7, 1)
        );
    }

    #[test]
    fn every_code_has_a_counter_and_a_last_error() {
        for code in Code::all() {
            let counters = counters();
            counters.started(false, None);
            counters.ended(HandlerOutcome::Status(code), MILLI);
            let stats = counters.read();
            assert_eq!(stats.statuses, [(code, 1)]);
            assert_eq!(stats.last_error, Some(code.as_str()));
        }
        assert_eq!(Code::all().count(), CODES);
        assert_eq!(counters().read().last_error, None);
    }
}
