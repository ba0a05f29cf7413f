//! Latencies of many calls: a summary, and a histogram.

use std::time::Duration;

use serde::Serialize;

use crate::duration::show;

/// The longest bar of a histogram, in characters.
const BAR: usize = 40;

/// A summary of latencies, in nanoseconds.
#[derive(Serialize)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    min_ns: u64,
    mean_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p95_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    histogram: Vec<Bucket>,
}

/// The latencies up to a bound, without those of the buckets before.
#[derive(Serialize)]
struct Bucket {
    up_to_ns: u64,
    count: usize,
}

impl Summary {
    /// `None` if there is no latency.
    pub(crate) fn of(mut latencies: Vec<Duration>) -> Option<Self> {
        latencies.sort_unstable();
        let (first, last) = (*latencies.first()?, *latencies.last()?);
        let count = latencies.len();
        // The smallest latency that is not exceeded by this share of them.
        let rank = |share: f64| ((count as f64 * share).ceil() as usize).clamp(1, count) - 1;
        let quantile = |share| latencies.get(rank(share)).map_or(0, |it| nanos(*it));
        let total: u128 = latencies.iter().map(Duration::as_nanos).sum();
        let mean = total / count as u128;
        Some(Self {
            count,
            min_ns: nanos(first),
            mean_ns: u64::try_from(mean).unwrap_or(u64::MAX),
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p95_ns: quantile(0.95),
            p99_ns: quantile(0.99),
            max_ns: nanos(last),
            histogram: histogram(&latencies),
        })
    }

    /// The lines of the summary for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let show = |nanos: u64| show(Duration::from_nanos(nanos));
        let figures = [
            ("min", self.min_ns),
            ("mean", self.mean_ns),
            ("p50", self.p50_ns),
            ("p90", self.p90_ns),
            ("p95", self.p95_ns),
            ("p99", self.p99_ns),
            ("max", self.max_ns),
        ];
        let figures = figures.map(|(name, nanos)| format!("{name} {}", show(nanos)));
        let mut lines = vec![figures.join(", "), String::new()];
        let most = self
            .histogram
            .iter()
            .map(|bucket| bucket.count)
            .max()
            .unwrap_or(1);
        for bucket in &self.histogram {
            let length = (bucket.count * BAR).div_ceil(most.max(1));
            let (bound, bar) = (show(bucket.up_to_ns), "#".repeat(length));
            lines.push(format!("up to {bound:>8}  {bar:<BAR$}  {}", bucket.count));
        }
        lines
    }
}

/// Buckets whose bounds are 1, 2 and 5 times a power of ten, from the first to the last that is not empty.
fn histogram(sorted: &[Duration]) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut begin = 0;
    for bound in bounds() {
        let end = sorted.partition_point(|latency| nanos(*latency) <= bound);
        if end > begin || !buckets.is_empty() {
            buckets.push(Bucket {
                up_to_ns: bound,
                count: end - begin,
            });
        }
        begin = end;
        if end == sorted.len() {
            break;
        }
    }
    buckets
}

/// From a microsecond on; the last bound is above all latencies.
fn bounds() -> impl Iterator<Item = u64> {
    let powers = (3..=18).map(|power| 10_u64.pow(power));
    powers
        .flat_map(|power| [power, 2 * power, 5 * power])
        .chain([u64::MAX])
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up() {
        let latencies: Vec<Duration> = (1..=100).rev().map(Duration::from_micros).collect();
        let summary = Summary::of(latencies).unwrap();
        let figures = [
            summary.min_ns,
            summary.p50_ns,
            summary.p95_ns,
            summary.p99_ns,
            summary.max_ns,
        ];
        assert_eq!(figures, [1_000, 50_000, 95_000, 99_000, 100_000]);
        assert_eq!((summary.count, summary.mean_ns), (100, 50_500));
        let buckets: Vec<(u64, usize)> = summary
            .histogram
            .iter()
            .map(|bucket| (bucket.up_to_ns, bucket.count))
            .collect();
        assert_eq!(
            buckets,
            [
                (1_000, 1),
                (2_000, 1),
                (5_000, 3),
                (10_000, 5),
                (20_000, 10),
                (50_000, 30),
                (100_000, 50)
            ]
        );
        assert!(summary.lines().last().unwrap().ends_with("50"));
    }

    #[test]
    fn no_latency_has_no_summary() {
        assert!(Summary::of(Vec::new()).is_none());
        assert_eq!(Summary::of(vec![Duration::MAX]).unwrap().max_ns, u64::MAX);
        assert_eq!(
            Summary::of(vec![Duration::ZERO]).unwrap().histogram.len(),
            1
        );
    }
}
