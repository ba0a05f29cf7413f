//! What a job's handler says of it.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::error::{CallError, Error};
use crate::wire::status::Status;

/// Whether a failed job is worth another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// After the delay of the queue's retry policy, while attempts are left.
    #[default]
    Backoff,
    /// After this delay, while attempts are left.
    After(Duration),
    /// Never: it goes to the dead-letter queue at once.
    Never,
}

/// An error of a job's handler: it says whether another attempt is worth it.
///
/// ```
/// use lepus::{Failure, Retry};
///
/// #[derive(Debug, thiserror::Error)]
/// enum ResizeError {
///     #[error("the store is busy")]
///     Busy,
///     #[error("this is no image")]
///     NoImage,
/// }
///
/// impl Failure for ResizeError {
///     fn retry(&self) -> Retry {
///         match self {
///             Self::Busy => Retry::Backoff,
///             Self::NoImage => Retry::Never,
///         }
///     }
/// }
/// ```
///
/// Where no type of its own is wanted, [`retry`], [`retry_after`] and [`reject`] wrap any error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether a failed job is worth another attempt",
    label = "no `lepus::Failure`",
    note = "for a type of your own, write `impl lepus::Failure for {Self} {{}}`",
    note = "for one of another crate, return `Result<(), lepus::JobError>` and wrap what fails: `.map_err(lepus::retry)?`"
)]
pub trait Failure: fmt::Display {
    /// Whether to try again. Default: after the policy's backoff.
    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// Any error with a decision about another attempt: what [`retry`], [`retry_after`] and
/// [`reject`] make.
#[derive(Clone, Debug)]
pub struct JobError {
    text: String,
    retry: Retry,
}

/// The job failed and is tried again after the policy's backoff.
pub fn retry(error: impl fmt::Display) -> JobError {
    JobError {
        text: error.to_string(),
        retry: Retry::Backoff,
    }
}

/// The job failed and is tried again after this delay, rounded up to the next step the queue has
/// a delay queue for. More than 2³²−1 ms (49 days, the longest that RabbitMQ holds a message)
/// counts as that.
pub fn retry_after(delay: Duration, error: impl fmt::Display) -> JobError {
    JobError {
        text: error.to_string(),
        retry: Retry::After(delay),
    }
}

/// The job failed for good: it goes to the dead-letter queue.
pub fn reject(error: impl fmt::Display) -> JobError {
    JobError {
        text: error.to_string(),
        retry: Retry::Never,
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for JobError {}

impl Failure for JobError {
    fn retry(&self) -> Retry {
        self.retry
    }
}

impl Failure for Infallible {}
impl Failure for String {}
impl Failure for &str {}
impl Failure for std::io::Error {}
impl Failure for Error {}
impl Failure for Box<dyn std::error::Error + Send + Sync> {}
impl<E: fmt::Display> Failure for CallError<E> {}

/// How a job ended in its handler's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict(pub(crate) Judgement);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Done,
    Failed {
        error: String,
        retry: Retry,
    },
    /// The job was not run and goes back to its queue.
    Requeue,
}

impl Verdict {
    pub(crate) const DONE: Self = Self(Judgement::Done);
    pub(crate) const REQUEUE: Self = Self(Judgement::Requeue);

    /// What it was that failed, if it did.
    pub(crate) fn error(&self) -> Option<&str> {
        match &self.0 {
            Judgement::Failed { error, .. } => Some(error),
            Judgement::Done | Judgement::Requeue => None,
        }
    }

    /// A job for which further attempts are useless.
    pub(crate) fn reject(error: impl fmt::Display) -> Self {
        Self(Judgement::Failed {
            error: error.to_string(),
            retry: Retry::Never,
        })
    }

    pub(crate) fn of_status(status: &Status) -> Self {
        Self::reject(status)
    }
}

/// What a job's handler may return.
pub trait IntoVerdict {
    /// The verdict it amounts to.
    fn into_verdict(self) -> Verdict;
}

impl IntoVerdict for () {
    fn into_verdict(self) -> Verdict {
        Verdict::DONE
    }
}

impl<E: Failure> IntoVerdict for Result<(), E> {
    fn into_verdict(self) -> Verdict {
        match self {
            Ok(()) => Verdict::DONE,
            Err(error) => {
                let retry = error.retry();
                Verdict(Judgement::Failed {
                    error: error.to_string(),
                    retry,
                })
            }
        }
    }
}
