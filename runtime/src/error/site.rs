//! Site of an error: the call or publish that failed, and its outcome.

use std::fmt;
use std::time::Duration;

/// The outcome of a call or publish that failed, as far as it is known.
///
/// ```
/// use lepus::{Error, Outcome};
///
/// let error = Error::timeout(Outcome::SentNoReply);
/// match error.outcome() {
///     Some(Outcome::SentNoReply | Outcome::Answered) => assert!(error.may_have_executed()),
///     Some(Outcome::NotSent | Outcome::Unroutable | Outcome::Rejected) => {
///         assert!(!error.may_have_executed());
///     }
///     // The error is not about a message; or a later version knows more outcomes.
///     None | Some(_) => {}
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The message was not sent. It was not executed.
    NotSent,
    /// The broker had no queue for the message and returned it. It was not executed.
    Unroutable,
    /// The broker refused the message: with `basic.nack`, for instance because the queue is full, or by
    /// closing the channel. It was not executed.
    Rejected,
    /// The message was sent, and no reply or confirm came. It may have been executed.
    SentNoReply,
    /// The server replied.
    Answered,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "not sent",
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected by the broker",
            Self::SentNoReply => "sent, no reply",
            Self::Answered => "answered",
        })
    }
}

/// The call or publish that failed, the time since its start, and its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) names: SiteNames,
    pub(crate) elapsed: Duration,
    pub(crate) outcome: Outcome,
}

/// The names of a call or publish that failed.
#[derive(Clone, Debug)]
pub(crate) struct SiteNames {
    pub(crate) service: String,
    pub(crate) method: String,
    pub(crate) queue: String,
}

impl fmt::Display for SiteNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.method.is_empty() {
            write!(f, ".{}", self.method)?;
        }
        if self.queue.is_empty() {
            return Ok(());
        }
        write!(f, " on queue `{}`", self.queue)
    }
}
