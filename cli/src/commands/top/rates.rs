//! Rates: what has changed between two samples.

use std::collections::BTreeMap;

use lepus::control::ServedKind;

use super::sample::{Figures, Sample};
use crate::figures::{self, Estimate};

/// A line of the screen: what is served under one name, by all instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServedRow {
    pub(super) name: String,
    pub(super) kind: ServedKind,
    pub(super) instances: usize,
    pub(super) in_flight: u64,
    /// Requests, jobs or events a second. `None` before the second sample.
    pub(super) rate: Option<f64>,
    /// Errors a second.
    pub(super) error_rate: Option<f64>,
    pub(super) p95: Option<Estimate>,
    /// Errors since the instances were started.
    pub(super) errors: u64,
}

/// The lines of a sample. `before` is the one before it.
pub(super) fn rows(before: Option<&Sample>, now: &Sample) -> Vec<ServedRow> {
    let mut rows: BTreeMap<&str, Sum> = BTreeMap::new();
    for ((name, id), figures) in &now.served {
        let key = (name.clone(), id.clone());
        let old = before.and_then(|before| before.served.get(&key));
        rows.entry(name).or_default().add(old, figures);
    }
    let seconds = before.map(|before| now.at.duration_since(before.at).as_secs_f64());
    let seconds = seconds.filter(|seconds| *seconds > 0.0);
    let rows = rows.into_iter().map(|(name, sum)| sum.row(name, seconds));
    rows.collect()
}

/// The figures of all instances of a name.
#[derive(Default)]
struct Sum {
    total: Figures,
    instances: usize,
    /// Since the sample before. An instance that is new counts from its start.
    requests: u64,
    errors: u64,
    latency: Vec<u64>,
}

impl Sum {
    fn add(&mut self, before: Option<&Figures>, now: &Figures) {
        self.instances += 1;
        self.total.kind = now.kind;
        self.total.in_flight = self.total.in_flight.saturating_add(now.in_flight);
        self.total.errors = self.total.errors.saturating_add(now.errors);
        let none = Figures::default();
        let before = before.unwrap_or(&none);
        let since = |now: u64, before: u64| now.saturating_sub(before);
        self.requests = self
            .requests
            .saturating_add(since(now.requests, before.requests));
        self.errors = self.errors.saturating_add(since(now.errors, before.errors));
        let latency = figures::since(&before.latency, &now.latency);
        figures::add(&mut self.latency, &latency);
    }

    fn row(self, name: &str, seconds: Option<f64>) -> ServedRow {
        let rate = |count: u64| Some(count as f64 / seconds?);
        ServedRow {
            name: name.to_owned(),
            kind: self.total.kind,
            instances: self.instances,
            in_flight: self.total.in_flight,
            rate: rate(self.requests),
            error_rate: rate(self.errors),
            p95: seconds.and_then(|_| Estimate::of(&self.latency, 0.95)),
            errors: self.total.errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sample(at: Instant, served: &[(&str, &str, u64, u64, &[u64])]) -> Sample {
        let served = served.iter().map(|(name, id, requests, errors, latency)| {
            let figures = Figures {
                kind: ServedKind::Service,
                requests: *requests,
                errors: *errors,
                in_flight: 1,
                latency: latency.to_vec(),
            };
            (((*name).to_owned(), (*id).to_owned()), figures)
        });
        Sample {
            at,
            served: served.collect(),
            queues: BTreeMap::new(),
        }
    }

    #[test]
    fn rates_are_those_since_the_sample_before() {
        let start = Instant::now();
        let first = sample(start, &[("fib", "a", 100, 10, &[100])]);
        let now = start + Duration::from_secs(2);
        let second = sample(
            now,
            &[
                ("fib", "a", 120, 10, &[100, 0, 20]),
                // A new instance.
                ("fib", "b", 10, 4, &[10]),
                ("greeter", "a", 0, 0, &[]),
            ],
        );
        let only = rows(None, &first);
        assert_eq!((only[0].rate, only[0].p95), (None, None));
        let rows = rows(Some(&first), &second);
        assert_eq!(rows.len(), 2);
        let fib = &rows[0];
        assert_eq!(
            (fib.name.as_str(), fib.instances, fib.in_flight),
            ("fib", 2, 2)
        );
        assert_eq!((fib.rate, fib.error_rate), (Some(15.0), Some(2.0)));
        assert_eq!(fib.errors, 14);
        assert!(matches!(fib.p95, Some(Estimate::About(p95)) if p95 > Duration::from_millis(10)));
        assert_eq!((rows[1].rate, rows[1].p95), (Some(0.0), None));
    }

    #[test]
    fn an_instance_whose_counters_begin_anew_has_no_negative_rate() {
        let start = Instant::now();
        let first = sample(start, &[("fib", "a", 100, 10, &[100])]);
        let second = sample(start + Duration::from_secs(1), &[("fib", "a", 3, 0, &[3])]);
        assert_eq!(rows(Some(&first), &second)[0].rate, Some(0.0));
    }
}
