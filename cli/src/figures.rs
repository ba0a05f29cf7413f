//! Figures of histograms that programs answer with: estimates of quantiles.

use std::time::Duration;

use crate::duration::show;

/// The upper bounds of the buckets in milliseconds; those above are in one more bucket.
const BOUNDS: [f64; 14] = [
    5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1_000.0, 2_500.0, 5_000.0, 7_500.0,
    10_000.0,
];

/// An estimate of a quantile, from the bucket that it is in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Estimate {
    /// In the first bucket.
    Below(Duration),
    /// Between the bounds of its bucket, as if that were filled evenly.
    About(Duration),
    /// In the last bucket, which has no upper bound.
    Above(Duration),
}

impl Estimate {
    /// The quantile of a histogram. `None` if it is empty.
    pub(crate) fn of(buckets: &[u64], share: f64) -> Option<Self> {
        let total: u64 = buckets
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count));
        if total == 0 {
            return None;
        }
        let wanted = total as f64 * share;
        let (mut lower, mut seen) = (0.0, 0.0);
        for (bound, count) in BOUNDS.iter().zip(buckets) {
            let count = *count as f64;
            if count > 0.0 && seen + count >= wanted {
                let within = lower + (bound - lower) * (wanted - seen) / count;
                return Some(if lower == 0.0 {
                    Self::Below(millis(*bound))
                } else {
                    Self::About(millis(within))
                });
            }
            seen += count;
            lower = *bound;
        }
        Some(Self::Above(millis(lower)))
    }

    /// The number for programs: the estimate, or the bound.
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::Below(duration) | Self::About(duration) | Self::Above(duration) => duration,
        }
    }

    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.duration().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The text for people: `< 5.00 ms`, `~ 180 ms`, `> 10.0 s`.
    pub(crate) fn text(self) -> String {
        let sign = match self {
            Self::Below(_) => '<',
            Self::About(_) => '~',
            Self::Above(_) => '>',
        };
        format!("{sign} {}", show(self.duration()))
    }
}

/// Adds the counters of a histogram to those of another.
pub(crate) fn add(sum: &mut Vec<u64>, buckets: &[u64]) {
    if sum.len() < buckets.len() {
        sum.resize(buckets.len(), 0);
    }
    for (sum, count) in sum.iter_mut().zip(buckets) {
        *sum = sum.saturating_add(*count);
    }
}

/// The counters of a histogram since an earlier one. One that has become smaller has begun anew, and counts 0.
pub(crate) fn since(before: &[u64], now: &[u64]) -> Vec<u64> {
    let before = before.iter().copied().chain(std::iter::repeat(0));
    let pairs = now.iter().zip(before);
    pairs
        .map(|(now, before)| now.saturating_sub(before))
        .collect()
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_estimated_within_its_bucket() {
        assert_eq!(Estimate::of(&[], 0.95), None);
        assert_eq!(Estimate::of(&[0; 15], 0.95), None);
        let ms = Duration::from_millis;
        assert_eq!(Estimate::of(&[100], 0.95), Some(Estimate::Below(ms(5))));
        // Ninety up to 5 ms, ten between 100 and 250 ms.
        let buckets = [90, 0, 0, 0, 0, 0, 10];
        assert_eq!(Estimate::of(&buckets, 0.95), Some(Estimate::About(ms(175))));
        let mut slow = [0; 15];
        slow[14] = 1;
        assert_eq!(Estimate::of(&slow, 0.5), Some(Estimate::Above(ms(10_000))));
    }

    #[test]
    fn histograms_are_subtracted() {
        assert_eq!(since(&[1, 2], &[1, 5, 7]), [0, 3, 7]);
        assert_eq!(since(&[9, 1, 1], &[3]), [0]);
    }

    #[test]
    fn histograms_are_added() {
        let mut sum = vec![1];
        add(&mut sum, &[1, 2]);
        add(&mut sum, &[u64::MAX]);
        assert_eq!(sum, [u64::MAX, 2]);
    }
}
