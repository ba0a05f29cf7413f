//! Settlement of jobs: the decision table from a verdict, an attempt and a retry policy to an
//! acknowledgement, a retry or a dead letter. Pure.

use std::time::Duration;

use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::{Judgement, Retry, Verdict};

/// The least number of attempts at a job whose task its worker does not have. With the default backoff they
/// take eight minutes, in which a rolling deployment gets far enough for a worker that has the task.
const UNKNOWN_TASK_ATTEMPTS: u32 = 10;

/// The decision on a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    Ack,
    /// It goes back to the queue.
    Requeue,
    /// Publish it for this attempt after this delay, then acknowledge.
    Retry {
        attempt: u32,
        delay: Duration,
        error: String,
    },
    /// Publish it to the dead-letter queue, then acknowledge.
    DeadLetter {
        reason: Reason,
        error: String,
    },
}

/// The reason for which a job is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its last attempt failed.
    Attempts,
    /// Its handler rejected it, or it does not decode.
    Rejected,
    /// Its last delivery ended without a settlement, because the worker or its connection was lost.
    Abandoned,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The decision after the handler has returned.
pub(crate) fn after(verdict: Verdict, attempt: u32, policy: &RetryPolicy, random: f64) -> Decision {
    let (error, retry, attempts) = match verdict.0 {
        Judgement::Done => return Decision::Ack,
        Judgement::Requeue => return Decision::Requeue,
        Judgement::Failed { error, retry } => (error, retry, policy.max_attempts()),
        Judgement::UnknownTask { error } => {
            let attempts = policy.max_attempts().max(UNKNOWN_TASK_ATTEMPTS);
            (error, Retry::Backoff, attempts)
        }
    };
    if retry == Retry::Never {
        return Decision::DeadLetter {
            reason: Reason::Rejected,
            error,
        };
    }
    if attempt >= attempts {
        return Decision::DeadLetter {
            reason: Reason::Attempts,
            error,
        };
    }
    let delay = match retry {
        Retry::After(delay) => delay,
        Retry::Backoff | Retry::Never => policy.jittered(attempt, random),
    };
    Decision::Retry {
        attempt: attempt + 1,
        delay,
        error,
    }
}

/// The decision before the handler is run, for a job with earlier deliveries that were not settled; `None` to
/// run it.
///
/// A quorum queue counts those deliveries. A classic queue only tells that there was one, so the attempt is
/// counted by publishing a copy of the job. Otherwise a job that crashes its worker would be delivered again
/// forever.
pub(crate) fn before(arrival: Arrival, policy: &RetryPolicy) -> Option<Decision> {
    let Arrival {
        attempt,
        redelivered,
        counted_by_broker,
    } = arrival;
    if !redelivered {
        return None;
    }
    let error = "its worker went away without settling it".to_owned();
    let spent = if counted_by_broker {
        attempt > policy.max_attempts()
    } else {
        attempt >= policy.max_attempts()
    };
    if spent {
        return Some(Decision::DeadLetter {
            reason: Reason::Abandoned,
            error,
        });
    }
    if counted_by_broker {
        return None;
    }
    Some(Decision::Retry {
        attempt: attempt + 1,
        delay: Duration::ZERO,
        error,
    })
}

/// The delivery of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The number of the attempt, including unsettled deliveries if the broker counts them.
    pub(crate) attempt: u32,
    pub(crate) redelivered: bool,
    pub(crate) counted_by_broker: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::verdict::IntoVerdict;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> RetryPolicy {
        RetryPolicy::default()
            .attempts(3)
            .backoff(SECOND, 60 * SECOND)
            .jitter(0.0)
    }

    fn failed(retry: Retry) -> Verdict {
        Verdict(Judgement::Failed {
            error: "busy".into(),
            retry,
        })
    }

    #[test]
    fn a_job_is_acknowledged_retried_or_dead_lettered() {
        let error = || "busy".to_owned();
        assert_eq!(after(().into_verdict(), 1, &policy(), 0.0), Decision::Ack);
        let requeued = after(Verdict::REQUEUE, 3, &policy(), 0.0);
        assert_eq!(requeued, Decision::Requeue);
        assert_eq!(
            after(failed(Retry::Backoff), 2, &policy(), 0.0),
            Decision::Retry {
                attempt: 3,
                delay: 2 * SECOND,
                error: error()
            }
        );
        assert_eq!(
            after(failed(Retry::After(9 * SECOND)), 1, &policy(), 0.0),
            Decision::Retry {
                attempt: 2,
                delay: 9 * SECOND,
                error: error()
            }
        );
        let attempts = Decision::DeadLetter {
            reason: Reason::Attempts,
            error: error(),
        };
        assert_eq!(after(failed(Retry::Backoff), 3, &policy(), 0.0), attempts);
        let rejected = Decision::DeadLetter {
            reason: Reason::Rejected,
            error: error(),
        };
        assert_eq!(after(failed(Retry::Never), 1, &policy(), 0.0), rejected);
    }

    #[test]
    fn a_job_with_an_unknown_task_is_retried_whatever_the_policy() {
        let unknown = || Verdict::unknown_task("no task `rotate`");
        for policy in [policy(), RetryPolicy::never()] {
            assert!(matches!(
                after(unknown(), UNKNOWN_TASK_ATTEMPTS - 1, &policy, 0.0),
                Decision::Retry { attempt: UNKNOWN_TASK_ATTEMPTS, delay, .. } if delay > SECOND
            ));
            let last = after(unknown(), UNKNOWN_TASK_ATTEMPTS, &policy, 0.0);
            let attempts = Decision::DeadLetter {
                reason: Reason::Attempts,
                error: "no task `rotate`".into(),
            };
            assert_eq!(last, attempts);
        }
        let patient = policy().attempts(50);
        let late = after(unknown(), 49, &patient, 0.0);
        assert!(matches!(late, Decision::Retry { attempt: 50, .. }));
    }

    #[test]
    fn a_job_that_takes_its_worker_down_does_not_do_so_for_ever() {
        let arrival = |attempt, counted_by_broker| Arrival {
            attempt,
            redelivered: true,
            counted_by_broker,
        };
        assert_eq!(
            before(
                Arrival {
                    redelivered: false,
                    ..arrival(9, false)
                },
                &policy()
            ),
            None
        );
        assert_eq!(before(arrival(3, true), &policy()), None);
        assert!(matches!(
            before(arrival(4, true), &policy()),
            Some(Decision::DeadLetter {
                reason: Reason::Abandoned,
                ..
            })
        ));
        assert!(matches!(
            before(arrival(2, false), &policy()),
            Some(Decision::Retry { attempt: 3, .. })
        ));
        assert!(matches!(
            before(arrival(3, false), &policy()),
            Some(Decision::DeadLetter { .. })
        ));
    }
}
