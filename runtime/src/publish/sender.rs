//! Sending of messages in confirm mode (`confirm.select`, `basic.publish`): each message that was sent
//! gets one confirm, for which [`PendingConfirm`] waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cached_channel::{CachedChannel, accepting_session};
use super::failure::PublishFailure;
use crate::clock;
use crate::error::{Error, ErrorKind, Outcome};
use crate::link::{ConfirmChannel, Confirmation, Connection, Link, Session};
use crate::wire::message::Outgoing;

/// The pause before a message that could not be sent is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Sends messages on one channel of the publishing connection, which is opened when it is needed and
/// replaced when it was closed.
#[derive(Debug)]
pub(super) struct ConfirmSender {
    link: Link,
    io: Handle,
    channel: CachedChannel<ConfirmChannel>,
    max_message: usize,
}

/// A publish that was sent and waits for its confirm.
pub(crate) struct PendingConfirm {
    confirmation: oneshot::Receiver<Confirmation>,
    pub(super) message: Arc<Outgoing>,
    started: Instant,
    deadline: Instant,
    pub(super) limit: Duration,
}

impl ConfirmSender {
    pub(super) fn new(connection: &Connection, max_message: usize) -> Self {
        Self {
            link: connection.publishing().clone(),
            io: connection.io().clone(),
            channel: CachedChannel::default(),
            max_message,
        }
    }

    /// Another sender with the same settings and a channel of its own.
    pub(super) fn separate(&self) -> Self {
        Self {
            link: self.link.clone(),
            io: self.io.clone(),
            channel: CachedChannel::default(),
            max_message: self.max_message,
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn io(&self) -> &Handle {
        &self.io
    }

    /// Sends a message and waits for its confirm.
    ///
    /// # Errors
    /// Those of [`send`](Self::send) and of [`PendingConfirm::wait`].
    pub(super) async fn publish(
        &self,
        message: &Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), PublishFailure> {
        let sent = self.send(Arc::clone(message), Instant::now(), limit);
        sent.await?.wait().await
    }

    /// Sends a message; [`PendingConfirm::wait`] waits for its confirm. Takes no permit: the caller
    /// limits the number of unconfirmed messages.
    pub(super) async fn send(
        &self,
        message: Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> Result<PendingConfirm, PublishFailure> {
        let deadline = clock::deadline(started, limit);
        let not_sent = |error| PublishFailure::not_sent(error, started);
        loop {
            let channel = match tokio::time::timeout_at(deadline, self.channel()).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return Err(not_sent(error)),
                Err(_) => return Err(not_sent(self.link.timeout_error())),
            };
            if let Some(sent) = self.send_on(&channel, &message, started, limit) {
                return sent;
            }
            // A kept channel is returned at once, even after the deadline, so that the timeout above
            // does not end a loop over channels that fail.
            if Instant::now() >= deadline {
                return Err(not_sent(self.link.timeout_error()));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// [`send`](Self::send) without waiting, or `None` if no channel is ready.
    pub(super) fn try_send(
        &self,
        message: &Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> Option<Result<PendingConfirm, PublishFailure>> {
        let channel = self.ready_channel()?;
        self.send_on(&channel, message, started, limit)
    }

    /// Sends on this channel. `None` if the channel was closed before the message was sent; another
    /// channel may be tried.
    pub(super) fn send_on(
        &self,
        channel: &ConfirmChannel,
        message: &Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> Option<Result<PendingConfirm, PublishFailure>> {
        let (size, max) = (message.body.len(), self.max_message);
        let sent = if size > max {
            Err(Error::new(ErrorKind::TooLarge { size, limit: max }))
        } else {
            channel.publish(Arc::clone(message))
        };
        match sent {
            Ok(confirmation) => Some(Ok(PendingConfirm {
                confirmation,
                message: Arc::clone(message),
                started,
                deadline: clock::deadline(started, limit),
                limit,
            })),
            Err(error) if error.is_disconnected_or_closed() => {
                tracing::debug!(%error, "channel was closed before the message was sent, trying another one");
                None
            }
            Err(error) => Some(Err(PublishFailure::not_sent(error, started))),
        }
    }

    /// The channel, if it is open and messages can be sent on it now.
    pub(super) fn ready_channel(&self) -> Option<Arc<ConfirmChannel>> {
        let channel = self.channel.get()?;
        channel.takes_messages().then_some(channel)
    }

    /// The channel, once it is open and messages can be sent on it.
    pub(super) async fn channel(&self) -> Result<Arc<ConfirmChannel>, Error> {
        let open = |session, _| self.open(session);
        self.channel.get_or_open_on(&self.link, open).await
    }

    /// Opens a channel of its own, which is not kept.
    ///
    /// # Errors
    /// The connection was closed, or has no free channel number.
    pub(super) async fn open_isolated(&self) -> Result<Arc<ConfirmChannel>, Error> {
        self.open(accepting_session(&self.link).await?).await
    }

    async fn open(&self, session: Arc<Session>) -> Result<Arc<ConfirmChannel>, Error> {
        let opened = ConfirmChannel::open(&session, &self.io).await;
        opened.map(Arc::new)
    }
}

impl PendingConfirm {
    /// Waits for the confirm. A message whose channel is closed because of another one is not
    /// published again: it ends as unconfirmed.
    ///
    /// # Errors
    /// Unroutable (if mandatory), rejected, timed out or unconfirmed.
    pub(crate) async fn wait(self) -> Result<(), PublishFailure> {
        let Self {
            confirmation,
            message,
            started,
            deadline,
            limit,
        } = self;
        let failed = |kind, outcome| PublishFailure::new(Error::new(kind), outcome, started);
        Err(
            match tokio::time::timeout_at(deadline, confirmation).await {
                Ok(Ok(Confirmation::Stored)) => return Ok(()),
                Ok(Ok(Confirmation::Unroutable)) => {
                    failed(ErrorKind::Unroutable, Outcome::Unroutable)
                }
                Ok(Ok(Confirmation::Rejected)) => failed(ErrorKind::Rejected, Outcome::Rejected),
                Ok(Ok(Confirmation::Unknown(error))) => {
                    PublishFailure::channel_closed(error, &message, started)
                }
                Ok(Err(_)) => PublishFailure::unconfirmed(None, started),
                Err(_) => {
                    tracing::debug!(?limit, "no publisher confirm within the limit");
                    failed(ErrorKind::Timeout, Outcome::SentNoReply)
                }
            },
        )
    }
}
