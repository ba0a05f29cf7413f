//! The failure of one publish: the error, whether the broker may have stored the message, and whether
//! the message can be published again.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome, Site, SiteNames};
use crate::policy::refusal::{self, Cause};
use crate::wire::message::Outgoing;

/// The service, method and queue that errors of a publish name.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) service: Arc<str>,
    pub(crate) method: Arc<str>,
    pub(crate) queue: Arc<str>,
}

impl Target {
    /// Adds the target, the time since `started` and the outcome to an error.
    pub(crate) fn describe(&self, error: Error, started: Instant, outcome: Outcome) -> Error {
        error.at(Site {
            names: SiteNames {
                service: self.service.to_string(),
                method: self.method.to_string(),
                queue: self.queue.to_string(),
            },
            elapsed: started.elapsed(),
            outcome,
        })
    }
}

/// A publish that failed. The sender adds its [`Target`], which makes an [`Error`] of it.
#[derive(Debug)]
pub(crate) struct PublishFailure {
    pub(crate) error: Error,
    pub(super) outcome: Outcome,
    pub(super) started: Instant,
    /// Set if the broker closed the channel, and not for certain because of this message.
    pub(super) republish: Option<Republish>,
    /// The message was published before as well, and the broker may have stored it then.
    pub(super) is_repeat: bool,
}

/// A message that was unconfirmed when the broker closed its channel, and can be published again.
#[derive(Debug)]
pub(super) struct Republish {
    /// The error with which the broker closed the channel.
    pub(super) close_reason: Error,
    /// Whether the error is about another message for certain. If it is not, this message may be the
    /// cause and has to be published without others on its channel.
    pub(super) is_about_another: bool,
}

impl PublishFailure {
    pub(super) fn new(error: Error, outcome: Outcome, started: Instant) -> Self {
        Self {
            error,
            outcome,
            started,
            republish: None,
            is_repeat: false,
        }
    }

    /// The broker closed the channel while the message was unconfirmed.
    pub(super) fn channel_closed(
        close_reason: Error,
        message: &Outgoing,
        started: Instant,
    ) -> Self {
        let republish = |is_about_another| Self {
            republish: Some(Republish {
                close_reason: close_reason.clone(),
                is_about_another,
            }),
            ..Self::unconfirmed(Some(close_reason.clone()), started)
        };
        match refusal::cause(&close_reason, message) {
            Some(Cause::Message(error)) => Self::new(error, Outcome::Rejected, started),
            Some(Cause::Exchange(error)) => Self::new(error, Outcome::SentNoReply, started),
            Some(Cause::Other) => republish(true),
            Some(Cause::Unknown) => republish(false),
            None => Self::unconfirmed(Some(close_reason), started),
        }
    }

    pub(super) fn unconfirmed(cause: Option<Error>, started: Instant) -> Self {
        let error = Error::new(ErrorKind::Unconfirmed);
        let error = match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        Self::new(error, Outcome::SentNoReply, started)
    }

    pub(crate) fn not_sent(error: Error, started: Instant) -> Self {
        Self::new(error, Outcome::NotSent, started)
    }

    /// The message was sent, and it is not known whether the broker received it.
    pub(crate) fn sent(error: Error, started: Instant) -> Self {
        Self::new(error, Outcome::SentNoReply, started)
    }

    /// Replaces the moment at which the publish began.
    pub(crate) fn started_at(self, started: Instant) -> Self {
        Self { started, ..self }
    }

    /// Notes whether the message was published before, so that the broker may have stored it then:
    /// if it stores no copy now, that does not mean that it has none.
    pub(crate) fn repeat_if(self, is_repeat: bool) -> Self {
        // An error about the message itself (and not a `basic.nack`, which depends on the queue's
        // state) applied to the earlier publish as well, so that nothing was stored then either.
        let is_about_message = self.outcome == Outcome::Rejected && !self.error.is_rejected();
        Self {
            is_repeat: self.is_repeat || is_repeat && !is_about_message,
            ..self
        }
    }

    /// Whether the broker may have stored the message.
    pub(crate) fn may_be_stored(&self) -> bool {
        self.is_repeat || self.outcome == Outcome::SentNoReply
    }

    /// Whether the failed attempt stored nothing and a missing queue may be the reason.
    pub(crate) fn may_lack_queue(&self) -> bool {
        self.error.is_unroutable() || self.error.is_rejected()
    }

    /// The error for the sender.
    pub(crate) fn into_error(self, target: &Target) -> Error {
        let failure = if self.is_repeat && self.outcome != Outcome::SentNoReply {
            Self::unconfirmed(Some(self.error), self.started)
        } else {
            self
        };
        target.describe(failure.error, failure.started, failure.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            service: "jobs".into(),
            method: "".into(),
            queue: "jobs".into(),
        }
    }

    fn failure(kind: ErrorKind, outcome: Outcome) -> PublishFailure {
        PublishFailure::new(Error::new(kind), outcome, Instant::now())
    }

    #[test]
    fn the_error_of_a_repeated_publish_tells_what_the_earlier_one_may_have_stored() {
        let refused = || ErrorKind::Broker {
            code: 406,
            text: "PRECONDITION_FAILED - invalid message".to_owned(),
        };
        for (kind, outcome, is_unconfirmed) in [
            (ErrorKind::Timeout, Outcome::NotSent, true),
            (ErrorKind::Unroutable, Outcome::Unroutable, true),
            // A full queue rejects now, and may have had room before.
            (ErrorKind::Rejected, Outcome::Rejected, true),
            // An error of the message itself was the same before.
            (refused(), Outcome::Rejected, false),
        ] {
            let repeated = failure(kind, outcome).repeat_if(true);
            assert_eq!(repeated.may_be_stored(), is_unconfirmed, "{outcome:?}");
            let error = repeated.into_error(&target());
            assert_eq!(error.is_unconfirmed(), is_unconfirmed, "{error}");
            let expected = if is_unconfirmed {
                Outcome::SentNoReply
            } else {
                outcome
            };
            assert_eq!(error.outcome(), Some(expected), "{error}");
        }
        let first = failure(ErrorKind::Rejected, Outcome::Rejected).repeat_if(false);
        assert!(!first.may_be_stored() && first.into_error(&target()).is_rejected());
    }
}
