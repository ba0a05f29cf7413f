//! Publishing one message at a time on a channel of their own, to find the message because of which
//! the broker closed a channel (`channel.close` does not name it).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::PublishFailure;
use super::sender::{ConfirmSender, RETRY_PAUSE};
use crate::clock;
use crate::error::{Error, ErrorKind, Outcome};
use crate::link::ConfirmChannel;
use crate::wire::message::Outgoing;

/// The number of explained close reasons that are remembered. They are needed only for messages of
/// channels that may have been closed meanwhile.
const MAX_EXPLAINED: usize = 16;

/// The state of isolated publishing, shared by all publishes of a publisher.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    /// Held by the one message that is published in isolation.
    state: Mutex<IsolationState>,
    /// The number of messages that are published so or wait to be.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct IsolationState {
    /// Carries at most one unconfirmed message.
    channel: Option<Arc<ConfirmChannel>>,
    /// The latest close reasons whose message was found, the oldest first. The other messages of
    /// those channels are not the cause and may be published with others again.
    explained: Vec<Error>,
}

impl IsolationState {
    fn is_explained(&self, close_reason: &Error) -> bool {
        let mut explained = self.explained.iter();
        explained.any(|known| known.is_same(close_reason))
    }

    fn explain(&mut self, close_reason: Error) {
        let surplus = self.explained.len().saturating_sub(MAX_EXPLAINED - 1);
        self.explained.drain(..surplus);
        self.explained.push(close_reason);
    }
}

impl Isolation {
    /// Publishes a message that may be the one because of which the broker closed a channel, with no
    /// other message on its channel. If that channel is closed as well, this message is the cause.
    pub(super) async fn publish(
        &self,
        sender: &ConfirmSender,
        close_reason: &Error,
        message: &Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), PublishFailure> {
        let started = Instant::now();
        let deadline = clock::deadline(started, limit);
        let not_sent = |error| PublishFailure::not_sent(error, started);
        let _guard = IsolationGuard::new(self);
        let locking = tokio::time::timeout_at(deadline, self.state.lock());
        let Ok(mut state) = locking.await else {
            return Err(not_sent(Error::new(ErrorKind::Timeout)));
        };
        // Another message of the same channel may have turned out to be the cause meanwhile.
        if state.is_explained(close_reason) {
            drop(state);
            return sender.publish(message, limit).await;
        }
        let pending = loop {
            let usable = state.channel.take().filter(|channel| channel.is_open());
            let opening = async {
                match usable {
                    Some(channel) => Ok(channel),
                    None => sender.open_isolated().await,
                }
            };
            let channel = match tokio::time::timeout_at(deadline, opening).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return Err(not_sent(error)),
                Err(_) => return Err(not_sent(sender.link().timeout_error())),
            };
            state.channel = Some(Arc::clone(&channel));
            if let Some(sent) = sender.send_on(&channel, message, started, limit) {
                break sent?;
            }
            if Instant::now() >= deadline {
                return Err(not_sent(sender.link().timeout_error()));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        // The lock is held until the confirm, so that no other message shares the channel.
        let Err(mut failure) = pending.wait().await else {
            return Ok(());
        };
        if let Some(republish) = failure.republish.take() {
            failure = PublishFailure::new(republish.close_reason, Outcome::Rejected, started);
        }
        // An error of the connection tells nothing about the message.
        let error = &failure.error;
        if !error.is_unconfirmed() && !error.is_disconnected_or_closed() {
            tracing::debug!(%error, "found the message because of which the broker closed a channel");
            state.channel = None;
            state.explain(close_reason.clone());
        }
        Err(failure)
    }
}

/// Counts a message among those in isolation, and closes their channel with the last one.
struct IsolationGuard<'a>(&'a Isolation);

impl<'a> IsolationGuard<'a> {
    fn new(isolation: &'a Isolation) -> Self {
        isolation.waiting.fetch_add(1, Ordering::AcqRel);
        Self(isolation)
    }
}

impl Drop for IsolationGuard<'_> {
    fn drop(&mut self) {
        // A lock that is taken belongs to a message that was counted after this one. Its own guard
        // closes the channel.
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1
            && let Ok(mut state) = self.0.state.try_lock()
        {
            state.channel = None;
        }
    }
}
