//! Backoff between attempts at something that is tried until it succeeds. Pure: the caller passes the
//! random number and the time in.

use std::time::Duration;

use crate::policy::retry::RetryPolicy;

/// Time without a failure after which the next failure counts as the first one again.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// Counts the failures in a row, and gives the delay after each.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
}

impl Backoff {
    /// A backoff without failures yet, with the delays and the jitter of `policy`. Its number of
    /// attempts is ignored.
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        Self {
            policy: policy.clone(),
            failures: 0,
        }
    }

    /// Counts a failure and returns the delay before the next attempt. `random` is from 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        self.count();
        self.policy.jittered(self.failures, random)
    }

    /// Counts a failure whose delay the caller chooses.
    pub(crate) fn count(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// The number of failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The delays and the jitter.
    pub(crate) fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Forgets the failures, after an attempt that succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Forgets the failures if what was started had worked for at least five seconds, and returns whether
    /// it had. Something that fails right after each start is held back longer each time.
    pub(crate) fn reset_if_stable(&mut self, worked_for: Duration) -> bool {
        let is_stable = worked_for >= STABLE_AFTER;
        if is_stable {
            self.reset();
        }
        is_stable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_until_a_stable_period() {
        let second = Duration::from_secs(1);
        let policy = RetryPolicy::never()
            .backoff(second, 60 * second)
            .jitter(0.0);
        let mut backoff = Backoff::new(&policy);
        assert_eq!(backoff.next(0.0), second);
        assert_eq!(backoff.next(0.0), 2 * second);
        assert!(!backoff.reset_if_stable(4 * second));
        backoff.count();
        assert_eq!(backoff.failures(), 3);
        assert_eq!(backoff.next(0.0), 8 * second);
        assert!(backoff.reset_if_stable(5 * second));
        assert_eq!(backoff.next(0.0), second);
        backoff.reset();
        assert_eq!(backoff.next(0.0), second);
    }
}
