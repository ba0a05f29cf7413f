//! Verdicts: the result of a job's handler.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::error::{CallError, Error};
use crate::wire::status::Status;

/// Whether and when a failed job is tried again.
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

/// The error of a job's handler, which decides whether the job is tried again.
///
/// ```
/// use lepus::jobs::{Failure, Retry};
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
/// [`retry`], [`retry_after`] and [`reject`] wrap any other error.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether a failed job is worth another attempt",
    label = "no `lepus::jobs::Failure`",
    note = "for a type of your own, write `impl lepus::jobs::Failure for {Self} {{}}`",
    note = "for one of another crate, return `Result<(), lepus::jobs::JobError>` and wrap what fails: `.map_err(lepus::retry)?`"
)]
pub trait Failure: fmt::Display {
    /// Whether to try again. Default: after the policy's backoff.
    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// Any error with a decision about another attempt, made by [`retry`], [`retry_after`] or [`reject`].
#[derive(Clone, Debug)]
pub struct JobError {
    text: String,
    retry: Retry,
}

/// Makes an error after which the job is tried again with the policy's backoff.
pub fn retry(error: impl fmt::Display) -> JobError {
    JobError {
        text: error.to_string(),
        retry: Retry::Backoff,
    }
}

/// Makes an error after which the job is tried again after this delay. The delay is rounded up to the next
/// step of the delay queues. The maximum is 2³²−1 ms (49 days), RabbitMQ's longest TTL.
pub fn retry_after(delay: Duration, error: impl fmt::Display) -> JobError {
    JobError {
        text: error.to_string(),
        retry: Retry::After(delay),
    }
}

/// Makes an error after which the job goes to the dead-letter queue.
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

/// The result of a job's handler, as the runtime and generated code pass it on.
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

    /// The error, if the handler failed.
    pub(crate) fn error(&self) -> Option<&str> {
        match &self.0 {
            Judgement::Failed { error, .. } => Some(error),
            Judgement::Done | Judgement::Requeue => None,
        }
    }

    /// The outcome as a field of spans and log events.
    pub(crate) fn outcome(&self) -> &'static str {
        match &self.0 {
            Judgement::Done => "ok",
            Judgement::Failed { .. } => "error",
            Judgement::Requeue => "requeued",
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

/// A type that a handler of jobs or events may return: `()`, or `Result<(), E>` with an error that is a
/// [`Failure`].
///
/// No other type can implement it.
#[diagnostic::on_unimplemented(
    message = "a handler of jobs or events cannot return `{Self}`",
    label = "its result is `{Self}`",
    note = "return `()`, or `Result<(), E>` with an error that implements `lepus::jobs::Failure`: nobody receives a value"
)]
pub trait IntoVerdict: sealed::HandlerResult {
    /// The verdict for this result.
    #[doc(hidden)]
    fn into_verdict(self) -> Verdict;
}

mod sealed {
    /// Implemented for the results of handlers and for no other type.
    pub trait HandlerResult {}

    impl HandlerResult for () {}
    impl<E> HandlerResult for Result<(), E> {}
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
