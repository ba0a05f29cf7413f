//! What becomes of a job once its handler is done with it. A pure decision table.

use std::time::Duration;

use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::{Judgement, Retry, Verdict};

/// What to do with a job.
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

/// Why a job was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its last attempt failed.
    Attempts,
    /// Its handler said that no attempt can help, or it cannot be understood.
    Rejected,
    /// The last worker that had it went away without settling it.
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

/// After a handler.
pub(crate) fn after(verdict: Verdict, attempt: u32, policy: &RetryPolicy, random: f64) -> Decision {
    let (error, retry) = match verdict.0 {
        Judgement::Done => return Decision::Ack,
        Judgement::Requeue => return Decision::Requeue,
        Judgement::Failed { error, retry } => (error, retry),
    };
    if retry == Retry::Never {
        return Decision::DeadLetter {
            reason: Reason::Rejected,
            error,
        };
    }
    if attempt >= policy.max_attempts() {
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

/// Before a handler, for a job whose earlier deliveries nobody settled: `None` to run it.
///
/// A quorum queue counts those deliveries itself. A classic one only says that there was one: the
/// job is counted on by a copy of it, before it may take another worker down.
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

/// How a job came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Which attempt this is, unsettled deliveries included where they are counted.
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
