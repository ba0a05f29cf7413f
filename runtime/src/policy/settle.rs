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

/// The attempt at a job or an event that a layer sees, and the number of attempts that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    attempt: u32,
    /// `None` if there is never another attempt.
    limit: Option<u32>,
}

/// The consequence of a verdict, as a layer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// It is acknowledged: it is done, or is an event of a broadcast subscription, which is never tried again.
    Acknowledged,
    /// It goes back to its queue.
    Requeued,
    /// It is published for another attempt.
    Retried,
    /// It goes to the dead-letter queue.
    DeadLettered {
        /// `attempts` if its last attempt has failed, `rejected` if no further attempt was wanted: the `reason` of the
        /// dead letter.
        reason: &'static str,
    },
}

impl Attempts {
    pub(crate) fn new(attempt: u32, limit: Option<u32>) -> Self {
        Self { attempt, limit }
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn number(self) -> u32 {
        self.attempt
    }

    /// The number of attempts in all ([`RetryPolicy::attempts`]). A job whose task no worker knows gets ten at
    /// least. 1 for an event of a broadcast subscription.
    #[must_use]
    pub fn limit(self) -> u32 {
        self.limit.unwrap_or(1)
    }

    /// The consequence of this verdict, unless a layer further outside changes the verdict, or the broker is lost
    /// before it is carried out.
    #[must_use]
    pub fn disposition(self, verdict: &Verdict) -> Disposition {
        if verdict.0 == Judgement::Requeue {
            return Disposition::Requeued;
        }
        let Some(limit) = self.limit else {
            return Disposition::Acknowledged;
        };
        if verdict.0 == Judgement::Done {
            return Disposition::Acknowledged;
        }
        match death(&verdict.0, self.attempt, limit) {
            Some(reason) => Disposition::DeadLettered {
                reason: reason.as_str(),
            },
            None => Disposition::Retried,
        }
    }
}

/// The reason for which a job that failed so becomes a dead letter. `None` if it is tried again.
fn death(judgement: &Judgement, attempt: u32, max_attempts: u32) -> Option<Reason> {
    let attempts = match judgement {
        Judgement::Failed {
            retry: Retry::Never,
            ..
        }
        | Judgement::Undecodable { .. } => return Some(Reason::Rejected),
        Judgement::UnknownTask { .. } => max_attempts.max(UNKNOWN_TASK_ATTEMPTS),
        _ => max_attempts,
    };
    (attempt >= attempts).then_some(Reason::Attempts)
}

/// The decision after the handler has returned.
pub(crate) fn after(verdict: Verdict, attempt: u32, policy: &RetryPolicy, random: f64) -> Decision {
    let reason = death(&verdict.0, attempt, policy.max_attempts());
    let (error, retry) = match verdict.0 {
        Judgement::Done => return Decision::Ack,
        Judgement::Requeue => return Decision::Requeue,
        Judgement::Failed { error, retry } => (error, retry),
        Judgement::Undecodable { error } => (error, Retry::Never),
        Judgement::UnknownTask { error } | Judgement::TimedOut { error } => (error, Retry::Backoff),
        Judgement::Panicked { text } => (format!("panicked: {text}"), Retry::Backoff),
    };
    if let Some(reason) = reason {
        return Decision::DeadLetter { reason, error };
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
    use crate::handler_guard::HandlerEnd;
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

    /// Layers are told what is decided later.
    #[test]
    fn the_disposition_is_that_of_the_decision() {
        let end = |end| Verdict::of_end(end, None);
        let verdicts = [
            Verdict::done(),
            Verdict::requeue(),
            failed(Retry::Backoff),
            failed(Retry::After(SECOND)),
            failed(Retry::Never),
            Verdict::unknown_task("no task `rotate`"),
            end(HandlerEnd::TimedOut),
            end(HandlerEnd::Panicked("boom".into())),
        ];
        for verdict in verdicts {
            for attempt in [1, 2, 3, UNKNOWN_TASK_ATTEMPTS] {
                let expected = match after(verdict.clone(), attempt, &policy(), 0.0) {
                    Decision::Ack => Disposition::Acknowledged,
                    Decision::Requeue => Disposition::Requeued,
                    Decision::Retry { .. } => Disposition::Retried,
                    Decision::DeadLetter { reason, .. } => Disposition::DeadLettered {
                        reason: reason.as_str(),
                    },
                };
                let attempts = Attempts::new(attempt, Some(3));
                assert_eq!(attempts.disposition(&verdict), expected, "{verdict:?}");
            }
        }
        let once = Attempts::new(1, None);
        let disposition = once.disposition(&failed(Retry::Backoff));
        assert_eq!((disposition, once.limit()), (Disposition::Acknowledged, 1));
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
