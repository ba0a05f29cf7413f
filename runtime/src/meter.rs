//! Meters: what a handler does is counted in the figures of its method, and told to the observer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::observe::{Handled, Moved, Observe, SpanEnd, Starting, TelemetrySpan};
use crate::stats::{HandlerKind, HandlerOutcome, MethodCounters, MethodStats};
use crate::sync::lock;
use crate::wire::message::SentAt;

/// The name of methods that a service does not have. There is one meter for all of them, because a peer chooses
/// their names.
pub(crate) const OTHER: &str = "_OTHER";

/// The arrival of a message that is to be handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) redelivered: bool,
    /// The time from the sending of the message to its delivery. `None` if it is not known, or for a redelivery.
    pub(crate) queue_wait: Option<Duration>,
}

impl Arrived {
    /// The arrival of a message that was sent at this time.
    pub(crate) fn new(at: Instant, redelivered: bool, sent_at: Option<SentAt>) -> Self {
        let waited = sent_at.and_then(|sent_at| Some(sent_at.elapsed(clock::unix_millis()?)));
        Self {
            at,
            redelivered,
            queue_wait: waited.filter(|_| !redelivered),
        }
    }
}

/// The meter of one method, task or queue.
pub(crate) struct Meter {
    pub(crate) counters: MethodCounters,
    observe: Option<Arc<dyn Observe>>,
}

/// The meters of a connection.
#[derive(Default)]
pub(crate) struct Meters {
    observe: Option<Arc<dyn Observe>>,
    /// In the order in which they were first asked for.
    meters: Mutex<Vec<Arc<Meter>>>,
}

impl Meters {
    pub(crate) fn new(observe: Option<Arc<dyn Observe>>) -> Self {
        Self {
            observe,
            meters: Mutex::default(),
        }
    }

    /// The meter of a method. It takes a lock: a dispatcher keeps its meters.
    pub(crate) fn of(&self, kind: HandlerKind, service: &str, method: &str) -> Arc<Meter> {
        let mut meters = lock(&self.meters);
        let is_same = |meter: &&Arc<Meter>| {
            let counters = &meter.counters;
            counters.kind == kind && counters.service == service && counters.method == method
        };
        if let Some(meter) = meters.iter().find(is_same) {
            return Arc::clone(meter);
        }
        let meter = Arc::new(Meter {
            counters: MethodCounters::new(kind, service, method),
            observe: self.observe.clone(),
        });
        meters.push(Arc::clone(&meter));
        meter
    }

    /// The figures of all methods. The meter `_OTHER` is left out while it has counted nothing.
    pub(crate) fn read(&self) -> Vec<MethodStats> {
        let meters = lock(&self.meters);
        let stats = meters.iter().map(|meter| meter.counters.read());
        stats
            .filter(|it| it.method != OTHER || it.requests + it.expired > 0)
            .collect()
    }
}

impl Meter {
    /// Counts a request, job or event as started. It counts as cancelled if the result is dropped before it is
    /// [ended](Metered::ended).
    pub(crate) fn start(self: &Arc<Self>, arrived: Arrived) -> Metered {
        let Arrived {
            at,
            redelivered,
            queue_wait,
        } = arrived;
        self.counters.started(redelivered, queue_wait);
        if let Some(observe) = &self.observe {
            observe.starting(&Starting {
                kind: self.counters.kind,
                service: &self.counters.service,
                method: &self.counters.method,
                redelivered,
                queue_wait,
            });
        }
        Metered {
            meter: Some(Arc::clone(self)),
            since: at,
        }
    }

    fn ended(&self, outcome: HandlerOutcome, duration: Duration) {
        self.counters.ended(outcome, duration);
        let Some(observe) = &self.observe else {
            return;
        };
        let handled = Handled {
            kind: self.counters.kind,
            service: &self.counters.service,
            method: &self.counters.method,
            outcome,
            duration,
        };
        match self.counters.kind {
            HandlerKind::Request => observe.served(&handled),
            HandlerKind::Job | HandlerKind::Event => observe.job(&handled),
        }
    }

    /// Counts a job that was published for another attempt or as a dead letter.
    pub(crate) fn moved(&self, is_dead: bool) {
        let counters = &self.counters;
        if is_dead {
            counters.dead_lettered.add();
        } else {
            counters.retried.add();
        }
        if let Some(observe) = &self.observe {
            observe.moved(&Moved {
                kind: counters.kind,
                queue: &counters.service,
                is_dead,
            });
        }
    }
}

/// A request, job or event that was started.
pub(crate) struct Metered {
    /// `None` once the end is counted.
    meter: Option<Arc<Meter>>,
    /// The time from which its duration counts.
    since: Instant,
}

impl Metered {
    /// Counts the end, and tells it to the span of the telemetry system, if there is one.
    pub(crate) fn ended(mut self, outcome: HandlerOutcome, span: Option<&dyn TelemetrySpan>) {
        if let Some(span) = span {
            let message_id = None;
            span.ended(&SpanEnd {
                outcome,
                message_id,
            });
        }
        if let Some(meter) = self.meter.take() {
            meter.ended(outcome, self.since.elapsed());
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if let Some(meter) = self.meter.take() {
            meter.ended(HandlerOutcome::Cancelled, self.since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_one_meter() {
        let meters = Meters::default();
        let first = meters.of(HandlerKind::Request, "calculator", "divide");
        let again = meters.of(HandlerKind::Request, "calculator", "divide");
        assert!(Arc::ptr_eq(&first, &again));
        meters.of(HandlerKind::Job, "calculator", "divide");
        let other = meters.of(HandlerKind::Request, "calculator", OTHER);
        assert_eq!(meters.read().len(), 2);
        other.counters.expired.add();
        let methods = meters.read();
        let methods: Vec<_> = methods
            .iter()
            .map(|stats| (stats.kind, stats.method.as_str()))
            .collect();
        let expected = [
            (HandlerKind::Request, "divide"),
            (HandlerKind::Job, "divide"),
            (HandlerKind::Request, OTHER),
        ];
        assert_eq!(methods, expected);
    }

    #[test]
    fn what_is_dropped_was_cancelled() {
        let meters = Meters::default();
        let meter = meters.of(HandlerKind::Job, "resize", "");
        let metered = meter.start(Arrived::new(Instant::now(), true, None));
        let stats = || meters.read().remove(0);
        assert_eq!((stats().in_flight, stats().redelivered), (1, 1));
        drop(metered);
        assert_eq!((stats().in_flight, stats().cancelled), (0, 1));
        let metered = meter.start(Arrived::new(Instant::now(), false, None));
        metered.ended(HandlerOutcome::Ok, None);
        assert_eq!((stats().requests, stats().cancelled), (2, 1));
    }
}
