//! Histograms of durations, with fixed buckets.

use std::time::Duration;

use super::Counter;

/// The number of buckets of a histogram.
const BUCKETS: usize = 15;

/// A histogram of durations: the number of them in each of fifteen buckets, and their sum.
///
/// The buckets are the same for all histograms, so that those of several connections can be added up. They
/// are the ones that OpenTelemetry recommends for durations of requests.
///
/// ```
/// use lepus::amqp::DurationHistogram;
///
/// let histogram = DurationHistogram::default();
/// for (bound, count) in DurationHistogram::BOUNDS.iter().zip(histogram.buckets) {
///     println!("up to {bound:?}: {count}");
/// }
/// assert_eq!((histogram.count(), histogram.mean()), (0, None));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DurationHistogram {
    /// The number of durations in each bucket. A bucket has those up to its [bound](Self::BOUNDS) and over that
    /// of the bucket before it; the last one has those over 10 s.
    pub buckets: [u64; BUCKETS],
    /// The sum of the durations.
    pub sum: Duration,
}

impl DurationHistogram {
    /// The upper bounds of the buckets, from 5 ms to 10 s. The last bucket has none.
    pub const BOUNDS: [Duration; BUCKETS - 1] = [
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(75),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_millis(750),
        Duration::from_secs(1),
        Duration::from_millis(2500),
        Duration::from_secs(5),
        Duration::from_millis(7500),
        Duration::from_secs(10),
    ];

    /// The number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean of the durations; `None` if there are none.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        let nanos = self.sum.as_nanos().checked_div(count.into())?;
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }
}

/// The live counters of a histogram.
#[derive(Debug, Default)]
pub(super) struct HistogramCounters {
    buckets: [Counter; BUCKETS],
    nanos: Counter,
}

impl HistogramCounters {
    pub(super) fn record(&self, duration: Duration) {
        let bucket = DurationHistogram::BOUNDS.partition_point(|bound| *bound < duration);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add();
        }
        // A sum of nanoseconds overflows after 584 years.
        self.nanos
            .add_all(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn read(&self) -> DurationHistogram {
        let mut buckets = [0; BUCKETS];
        for (bucket, counter) in buckets.iter_mut().zip(&self.buckets) {
            *bucket = counter.get();
        }
        DurationHistogram {
            buckets,
            sum: Duration::from_nanos(self.nanos.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_includes_its_bound() {
        let counters = HistogramCounters::default();
        for (duration, bucket) in [
            (Duration::ZERO, 0),
            (Duration::from_millis(5), 0),
            (Duration::from_nanos(5_000_001), 1),
            (Duration::from_secs(10), 13),
            (Duration::from_nanos(10_000_000_001), 14),
            (Duration::MAX, 14),
        ] {
            let before = counters.read().buckets;
            counters.record(duration);
            let after = counters.read().buckets;
            let changed: Vec<_> = (0..BUCKETS)
                .filter(|at| before[*at] != after[*at])
                .collect();
            assert_eq!(changed, [bucket], "{duration:?}");
        }
        assert_eq!(counters.read().count(), 6);
    }

    #[test]
    fn the_mean_is_that_of_all_durations() {
        let counters = HistogramCounters::default();
        assert_eq!(counters.read().mean(), None);
        for millis in [1, 3, 20] {
            counters.record(Duration::from_millis(millis));
        }
        let histogram = counters.read();
        assert_eq!(histogram.sum, Duration::from_millis(24));
        assert_eq!(histogram.mean(), Some(Duration::from_millis(8)));
        assert!(DurationHistogram::BOUNDS.is_sorted());
    }
}
