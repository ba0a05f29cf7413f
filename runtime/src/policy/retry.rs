//! Retry policies: the number of attempts and the delays between them. Pure: the random number is passed in.
//! Whether a job gets another attempt is decided in `settle.rs`.

use std::time::Duration;

use crate::clock;

/// Attempts and the delays between them: exponential backoff with a cap and jitter.
///
/// The default is 5 attempts, 1 s before the second, doubling, capped at 5 minutes, with a
/// jitter of 20 %.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    attempts: u32,
    first: Duration,
    factor: f64,
    max: Duration,
    jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: 0.2,
        }
    }
}

impl RetryPolicy {
    /// One attempt, no retry.
    #[must_use]
    pub fn never() -> Self {
        Self {
            attempts: 1,
            ..Self::default()
        }
    }

    /// Sets the number of attempts, including the first. At least 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the delay before the second attempt, and the longest delay. A first delay of zero stays zero,
    /// whatever the factor.
    #[must_use]
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.first = first;
        self.max = max.max(first);
        self
    }

    /// Sets the factor from one delay to the next. At least 1; default 2.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = if factor.is_finite() {
            factor.max(1.0)
        } else {
            1.0
        };
        self
    }

    /// Sets the share of a delay that is random, from 0 (none) to 1 (all of it). Default 0.2.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = if share.is_finite() {
            share.clamp(0.0, 1.0)
        } else {
            0.0
        };
        self
    }

    /// The number of attempts, including the first.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// The delay after attempt `attempt` (the first is 1), without jitter. `None` after the last attempt.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        (attempt < self.attempts).then(|| self.step(attempt))
    }

    /// The delay after attempt `attempt`, even if it was the last one. The jitter, for which `random` is from 0
    /// to 1, only shortens the delay, so that it never exceeds the longest one.
    #[must_use]
    pub fn jittered(&self, attempt: u32, random: f64) -> Duration {
        clock::fraction_of(
            self.step(attempt),
            1.0 - self.jitter * random.clamp(0.0, 1.0),
        )
    }

    /// All distinct delays of the policy, without jitter, the shortest first.
    #[must_use]
    pub fn delays(&self) -> Vec<Duration> {
        let mut delays = Vec::new();
        for attempt in 1..self.attempts {
            let delay = self.step(attempt);
            if delays.last() != Some(&delay) {
                delays.push(delay);
            }
            // They never get shorter, and there may be billions of attempts.
            if delay == self.max || delay.is_zero() || self.factor <= 1.0 {
                break;
            }
        }
        delays
    }

    fn step(&self, attempt: u32) -> Duration {
        if self.first.is_zero() {
            // The power below grows to infinity, and zero times infinity is no number.
            return Duration::ZERO;
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * self.factor.powi(exponent);
        // A delay beyond the cap may be beyond what a Duration holds, too.
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.max)
            .clamp(self.first, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_cap_and_end() {
        let policy = RetryPolicy::default()
            .attempts(5)
            .backoff(SECOND, 3 * SECOND);
        let delays: Vec<_> = (1..=5).map(|attempt| policy.delay(attempt)).collect();
        let second = |n| Some(n * SECOND);
        assert_eq!(delays, [second(1), second(2), second(3), second(3), None]);
        assert_eq!(policy.delays(), [SECOND, 2 * SECOND, 3 * SECOND]);
        assert_eq!(RetryPolicy::never().delay(1), None);
    }

    #[test]
    fn the_shortest_and_the_longest_delays_are_what_they_are() {
        let many = RetryPolicy::default().attempts(u32::MAX);
        for attempt in [1, 2, 1_025, 2_000, u32::MAX] {
            let at_once = many.clone().backoff(Duration::ZERO, SECOND);
            assert_eq!(at_once.jittered(attempt, 0.5), Duration::ZERO, "{attempt}");
            let never = many.clone().backoff(Duration::MAX, Duration::MAX);
            assert_eq!(never.jittered(attempt, 0.0), Duration::MAX, "{attempt}");
            assert!(never.jittered(attempt, 1.0) < Duration::MAX);
        }
        let tiny = many.backoff(Duration::from_nanos(1), Duration::MAX);
        assert_eq!(tiny.delays().len(), 95);
    }

    proptest! {
        #[test]
        fn every_policy_has_a_delay_for_every_attempt(
            first: Duration,
            max: Duration,
            attempt: u32,
            factor: f64,
            jitter: f64,
            random: f64,
        ) {
            let policy = RetryPolicy::default()
                .attempts(u32::MAX)
                .backoff(first, max)
                .factor(factor)
                .jitter(jitter);
            let most = max.max(first);
            prop_assert!(policy.jittered(attempt, random) <= most);
            prop_assert!(policy.delay(attempt).is_none_or(|delay| delay >= first && delay <= most));
        }

        #[test]
        fn no_delay_passes_the_cap(attempt in 0u32.., random in 0.0..=1.0f64, factor in 0.0..1e300f64) {
            let policy = RetryPolicy::default().attempts(u32::MAX).factor(factor);
            prop_assert!(policy.jittered(attempt, random) <= Duration::from_secs(300));
        }
    }
}
