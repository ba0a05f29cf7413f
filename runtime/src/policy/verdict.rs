//! Verdicts: the result of a job's handler. The decision on the job that follows from it is made in `settle.rs`.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::error::{CallError, Error};
use crate::handler_guard::HandlerEnd;
use crate::stats::HandlerOutcome;
use crate::wire::status::{Code, Status};

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
/// The text of the error is logged, and stored with the dead letter. It is that of `Display` in its alternate
/// form (`{:#}`), in which errors of `anyhow` and `eyre` name their causes, followed by the texts of
/// [`caused_by`](Self::caused_by) and its sources: `no thumbnail: cannot read 7.png: permission denied`.
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

    /// The cause of the error. Default: none. An error that has one returns
    /// [`source`](std::error::Error::source): `fn caused_by(&self) -> … { std::error::Error::source(self) }`.
    fn caused_by(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None
    }
}

/// The most causes of an error that are told, in case its sources form a circle.
const MAX_CAUSES: usize = 16;

/// The text of an error and of its causes. A cause that the text before it ends with, as many errors do with
/// their source, is not told twice.
fn with_causes(
    error: &impl fmt::Display,
    cause: Option<&(dyn std::error::Error + 'static)>,
) -> String {
    let mut text = format!("{error:#}");
    let causes = std::iter::successors(cause, |cause| cause.source());
    for cause in causes.take(MAX_CAUSES) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Any error with a decision about another attempt, made by [`retry`], [`retry_after`] or [`reject`].
#[derive(Clone, Debug)]
pub struct JobError {
    text: String,
    retry: Retry,
}

impl JobError {
    fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>, retry: Retry) -> Self {
        let error = error.into();
        let text = with_causes(&error, error.source());
        Self { text, retry }
    }
}

/// Makes an error after which the job is tried again with the policy's backoff. `error` is a text, or an error
/// whose causes are kept as well.
pub fn retry(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> JobError {
    JobError::new(error, Retry::Backoff)
}

/// Makes an error after which the job is tried again after this delay. The delay is rounded up to the next
/// step of the delay queues. The maximum is 2³²−1 ms (49 days), RabbitMQ's longest TTL.
pub fn retry_after(
    delay: Duration,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> JobError {
    JobError::new(error, Retry::After(delay))
}

/// Makes an error after which the job goes to the dead-letter queue, with the error and its causes.
pub fn reject(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> JobError {
    JobError::new(error, Retry::Never)
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

impl Failure for std::io::Error {
    fn caused_by(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self)
    }
}

impl Failure for Error {
    fn caused_by(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self)
    }
}

impl Failure for Box<dyn std::error::Error + Send + Sync> {
    fn caused_by(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source()
    }
}

impl<E: fmt::Display> Failure for CallError<E> {
    fn caused_by(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.rpc().and_then(std::error::Error::source)
    }
}

/// The result of a handler of jobs or events: whether the message is done, and if not, whether it is tried again.
///
/// [Layers](crate::middleware) see it, and make one in place of the handler:
///
/// ```
/// use lepus::jobs::{Verdict, VerdictOutcome};
///
/// let done = Verdict::done();
/// let tried_again = Verdict::from(lepus::retry("the store is busy"));
/// let dead_letter = Verdict::from(lepus::reject("no such tenant"));
/// assert!(matches!(done.outcome(), VerdictOutcome::Done));
/// assert_eq!(tried_again.error(), Some("the store is busy"));
/// # drop(dead_letter);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a verdict has an effect where it is returned"]
pub struct Verdict(pub(crate) Judgement);

/// The outcome of a job or an event, as a layer sees it. Its consequence is a
/// [`Disposition`](crate::middleware::Disposition).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerdictOutcome<'a> {
    /// The handler is done.
    Done,
    /// The handler, or a layer, failed with this error; or the payload does not decode.
    Failed {
        /// The text of the error and its causes.
        error: &'a str,
        /// Whether and when it is tried again.
        retry: Retry,
    },
    /// The worker does not have the task that the job names.
    UnknownTask {
        /// The text that names the task.
        error: &'a str,
    },
    /// It was not handled, and goes back to its queue.
    Requeued,
    /// The handler was stopped at its deadline.
    TimedOut,
    /// The handler panicked, with this text.
    Panicked(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Done,
    Failed {
        error: String,
        retry: Retry,
    },
    /// The worker does not have the task that the job names, so it was not run. Another worker of the queue, of
    /// a later version, may have it.
    UnknownTask {
        error: String,
    },
    /// The payload of an event does not decode, which was told to the subscription's `on_missed`.
    Undecodable {
        error: String,
    },
    /// The job was not run and goes back to its queue.
    Requeue,
    /// The handler was stopped at its deadline.
    TimedOut {
        error: String,
    },
    Panicked {
        text: String,
    },
}

impl Verdict {
    pub(crate) const DONE: Self = Self(Judgement::Done);
    pub(crate) const REQUEUE: Self = Self(Judgement::Requeue);

    /// The message is done: it is acknowledged.
    pub fn done() -> Self {
        Self::DONE
    }

    /// The message was not handled: it goes back to its queue, from which the broker delivers it again without a
    /// pause, to this consumer or to another one.
    pub fn requeue() -> Self {
        Self::REQUEUE
    }

    /// The outcome of the handler.
    #[must_use]
    pub fn outcome(&self) -> VerdictOutcome<'_> {
        match &self.0 {
            Judgement::Done => VerdictOutcome::Done,
            Judgement::Failed { error, retry } => VerdictOutcome::Failed {
                error,
                retry: *retry,
            },
            Judgement::Undecodable { error } => VerdictOutcome::Failed {
                error,
                retry: Retry::Never,
            },
            Judgement::UnknownTask { error } => VerdictOutcome::UnknownTask { error },
            Judgement::Requeue => VerdictOutcome::Requeued,
            Judgement::TimedOut { .. } => VerdictOutcome::TimedOut,
            Judgement::Panicked { text } => VerdictOutcome::Panicked(text),
        }
    }

    /// The text of the error, or of the panic. `None` if the message is done or goes back to its queue.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match &self.0 {
            Judgement::Failed { error, .. }
            | Judgement::Undecodable { error }
            | Judgement::UnknownTask { error }
            | Judgement::TimedOut { error } => Some(error),
            Judgement::Panicked { text } => Some(text),
            Judgement::Done | Judgement::Requeue => None,
        }
    }

    /// The outcome as it is counted.
    pub(crate) fn handler_outcome(&self) -> HandlerOutcome {
        match &self.0 {
            Judgement::Done => HandlerOutcome::Ok,
            Judgement::Failed { .. } | Judgement::Undecodable { .. } => HandlerOutcome::OwnError,
            Judgement::UnknownTask { .. } => HandlerOutcome::Status(Code::Unimplemented),
            // The reader of a stream is gone.
            Judgement::Requeue => HandlerOutcome::Cancelled,
            Judgement::TimedOut { .. } => HandlerOutcome::Stopped,
            Judgement::Panicked { .. } => HandlerOutcome::Panicked,
        }
    }

    /// The verdict of a handler that ended so. `limit` is its time limit, if that is known.
    pub(crate) fn of_end(end: HandlerEnd<Self>, limit: Option<Duration>) -> Self {
        Self(match end {
            HandlerEnd::Returned(verdict) => return verdict,
            HandlerEnd::TimedOut => Judgement::TimedOut {
                error: match limit {
                    Some(limit) => format!("stopped after {limit:?}"),
                    None => "stopped at its deadline".to_owned(),
                },
            },
            HandlerEnd::Panicked(text) => Judgement::Panicked { text },
        })
    }

    /// Whether its error was told already, to the `on_missed` of a subscription.
    pub(crate) fn is_told(&self) -> bool {
        matches!(self.0, Judgement::Undecodable { .. })
    }

    /// The outcome as a field of spans and log events.
    pub(crate) fn outcome_name(&self) -> &'static str {
        match &self.0 {
            Judgement::Done => "ok",
            Judgement::Failed { .. } | Judgement::Undecodable { .. } => {
                HandlerOutcome::OwnError.as_str()
            }
            Judgement::UnknownTask { .. } => "unknown_task",
            Judgement::Requeue => "requeued",
            Judgement::TimedOut { .. } => "deadline_exceeded",
            Judgement::Panicked { .. } => "panicked",
        }
    }

    /// A job for which further attempts are useless.
    pub(crate) fn reject(error: impl fmt::Display) -> Self {
        Self(Judgement::Failed {
            error: error.to_string(),
            retry: Retry::Never,
        })
    }

    /// An event whose payload does not decode, which is told elsewhere.
    pub(crate) fn undecodable(error: impl fmt::Display) -> Self {
        Self(Judgement::Undecodable {
            error: error.to_string(),
        })
    }

    /// A job whose task this worker does not have.
    pub(crate) fn unknown_task(error: impl fmt::Display) -> Self {
        Self(Judgement::UnknownTask {
            error: error.to_string(),
        })
    }

    pub(crate) fn of_status(status: &Status) -> Self {
        Self::reject(status)
    }
}

/// The verdict of a handler that has failed with this error.
impl From<JobError> for Verdict {
    fn from(error: JobError) -> Self {
        Err(error).into_verdict()
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
                    error: with_causes(&error, error.caused_by()),
                    retry,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a text and a cause.
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Caused {
        text: &'static str,
        source: Option<Box<Caused>>,
    }

    fn chain(texts: &[&'static str]) -> Option<Box<Caused>> {
        let (text, causes) = texts.split_first()?;
        let source = chain(causes);
        Some(Box::new(Caused { text, source }))
    }

    fn text_of(texts: &[&'static str]) -> String {
        reject(*chain(texts).unwrap()).to_string()
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        assert_eq!(reject("no image").to_string(), "no image");
        assert_eq!(reject(String::from("no image")).to_string(), "no image");
        let text = text_of(&["no thumbnail", "cannot read 7.png", "no permission"]);
        assert_eq!(text, "no thumbnail: cannot read 7.png: no permission");
        let text = text_of(&["cannot read: no permission", "no permission", "mode 0"]);
        assert_eq!(text, "cannot read: no permission: mode 0");
        let many = ["a", "b"].repeat(100);
        assert_eq!(text_of(&many).len(), 3 * MAX_CAUSES + 1);
    }

    #[test]
    fn an_error_in_alternate_form_is_told_in_it() {
        struct Report;

        impl fmt::Display for Report {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(if f.alternate() {
                    "outer: inner"
                } else {
                    "outer"
                })
            }
        }

        impl Failure for Report {}

        let verdict = Err::<(), _>(Report).into_verdict();
        assert_eq!(verdict.error(), Some("outer: inner"));
        let source = std::io::Error::other(*chain(&["outer", "inner"]).unwrap());
        let verdict = Err::<(), _>(source).into_verdict();
        assert_eq!(verdict.error(), Some("outer: inner"));
    }
}
