//! Confirmed publishing of jobs, events, one-way calls, retries and dead letters: each publish ends
//! with the broker's confirm (`basic.ack`) or with an error that says whether the message may have
//! been stored.
//!
//! When a broker refuses one message it closes the channel, and all other unconfirmed messages of that
//! channel lose their confirms; the close does not name the message. Here each publish gets an error
//! about its own message: the refused one gets the broker's reason, and the others are published
//! again.

mod cached_channel;
mod declared;
mod failure;
mod isolated;
mod sender;

pub(crate) use cached_channel::{CachedChannel, Reusable, accepting_session};
pub(crate) use declared::{DeclaredPerSession, InternalErrorRetry, declare};
pub(crate) use failure::{PublishFailure, Target};
pub(crate) use sender::PendingConfirm;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::clock;
use crate::error::{Error, ErrorKind, Outcome};
use crate::link::{Connection, Namespace};
use crate::wire::message::Outgoing;
use crate::wire::topology::Topology;
use declared::DeclaredOnMiss;
use isolated::Isolation;
use sender::{ConfirmSender, RETRY_PAUSE};

/// The default limit of a publish, from the wait for a connection to the confirm.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// The default limit of publishes that wait for their confirm.
pub(crate) const MAX_UNCONFIRMED: usize = 1024;

/// Publishes with confirms on one channel of the publishing connection, which is opened when it is
/// needed and replaced when it was closed.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sender: ConfirmSender,
    namespace: Namespace,
    declared: DeclaredOnMiss,
    /// One permit for each publish that may be unconfirmed.
    permits: Semaphore,
    isolation: Isolation,
}

/// The reaction to a missing queue.
#[derive(Clone, Debug)]
pub(crate) enum OnMissing {
    /// This is declared, and the message published again.
    Declare(Topology),
    /// The publish fails: the queue is declared by another program.
    Fail,
}

impl Publisher {
    pub(crate) fn new(connection: &Connection, max_unconfirmed: usize) -> Self {
        let sender = ConfirmSender::new(connection, connection.max_message());
        Self::over(sender, connection.namespace().clone(), max_unconfirmed)
    }

    /// A publisher for messages that the broker has stored already, such as retries: they are moved
    /// whatever their size.
    pub(crate) fn without_size_limit(connection: &Connection) -> Self {
        let sender = ConfirmSender::new(connection, usize::MAX);
        Self::over(sender, connection.namespace().clone(), MAX_UNCONFIRMED)
    }

    /// A publisher with another limit. It shares neither the channel nor the limit with this one.
    pub(crate) fn with_max_unconfirmed(&self, max_unconfirmed: usize) -> Self {
        let (sender, namespace) = (self.inner.sender.separate(), self.inner.namespace.clone());
        Self::over(sender, namespace, max_unconfirmed)
    }

    fn over(sender: ConfirmSender, namespace: Namespace, max_unconfirmed: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                sender,
                namespace,
                declared: DeclaredOnMiss::default(),
                permits: Semaphore::new(max_unconfirmed.clamp(1, Semaphore::MAX_PERMITS)),
                isolation: Isolation::default(),
            }),
        }
    }

    /// Publishes and waits for the confirm. A message whose channel was closed because of another
    /// one is published again within its limit and with the same `message_id`: the broker may then
    /// have it twice.
    ///
    /// # Errors
    /// Too large, timed out or closed before it was sent; unroutable (if mandatory); rejected, or
    /// refused by closing the channel; or sent and not confirmed, so that the broker may have it.
    pub(crate) async fn publish(
        &self,
        message: Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), PublishFailure> {
        let started = Instant::now();
        Error::check_runtime().map_err(|error| PublishFailure::not_sent(error, started))?;
        let _permit = match self.inner.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                // Thousands of publishes may wait at once. The rare paths are boxed here and below, so
                // that each of these futures stays small.
                let permit = self.inner.permits.acquire();
                let deadline = clock::deadline(started, limit);
                match Box::pin(tokio::time::timeout_at(deadline, permit)).await {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) | Err(_) => {
                        let error = Error::new(ErrorKind::Timeout);
                        return Err(PublishFailure::not_sent(error, started));
                    }
                }
            }
        };
        let sender = &self.inner.sender;
        let sent = match sender.try_send(&message, started, limit) {
            Some(sent) => sent,
            None => Box::pin(sender.send(Arc::clone(&message), started, limit)).await,
        };
        match sent?.wait().await {
            Ok(()) => Ok(()),
            Err(failure) => Box::pin(self.publish_again(failure, message, limit)).await,
        }
    }

    /// Publishes a message again for as long as it fails because of another one, within its limit.
    async fn publish_again(
        &self,
        mut failure: PublishFailure,
        message: Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), PublishFailure> {
        let started = failure.started;
        while let Some(republish) = failure.republish.take() {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            let Inner {
                sender, isolation, ..
            } = &*self.inner;
            let again = if republish.is_about_another {
                sender.publish(&message, left).await
            } else {
                isolation
                    .publish(sender, &republish.close_reason, &message, left)
                    .await
            };
            match again {
                Ok(()) => return Ok(()),
                // The repetition was not sent. The error to report remains that of the publish that
                // was sent before.
                Err(again) if again.outcome == Outcome::NotSent => {
                    if again.error.is_closed() {
                        break;
                    }
                    tracing::debug!(error = %again.error, "message could not be sent again yet, retrying");
                    failure.republish = Some(republish);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(again) => failure = again.started_at(started).repeat_if(true),
            }
        }
        Err(failure)
    }

    /// Sends a message without waiting for anything, or returns `None` if [`publish`](Self::publish)
    /// would have to wait before it can send.
    pub(crate) fn try_start(
        &self,
        message: &Arc<Outgoing>,
        limit: Duration,
    ) -> Option<Result<StartedPublish<'_>, PublishFailure>> {
        if let Err(error) = Error::check_runtime() {
            return Some(Err(PublishFailure::not_sent(error, Instant::now())));
        }
        let permit = self.inner.permits.try_acquire().ok()?;
        let sent = self.inner.sender.try_send(message, Instant::now(), limit)?;
        Some(sent.map(|pending| StartedPublish {
            publisher: self,
            permit,
            pending,
        }))
    }

    /// Whether the limit of unconfirmed publishes is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.permits.available_permits() == 0
    }

    /// Waits until messages can be sent.
    pub(crate) async fn wait_until_ready(&self, limit: Duration) {
        let sender = &self.inner.sender;
        if sender.ready_channel().is_none() && clock::is_in_runtime() {
            let deadline = clock::deadline(Instant::now(), limit);
            // An error here is met again by the publish that follows, which reports it.
            let _ = tokio::time::timeout_at(deadline, sender.channel()).await;
        }
    }

    /// As [`publish`](Self::publish), and declares the queue if the broker has none for the message,
    /// as `on_missing` says. So a queue need not be declared before it is published to, and may be
    /// deleted at any time.
    ///
    /// A quorum queue that is being declared rejects messages, and so does a queue that is full. A
    /// rejected message is therefore published again if its queue was being declared meanwhile.
    pub(crate) async fn publish_or_declare(
        &self,
        message: Arc<Outgoing>,
        limit: Duration,
        on_missing: &OnMissing,
    ) -> Result<(), PublishFailure> {
        match self.publish(Arc::clone(&message), limit).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                Box::pin(self.redeclare_and_retry(failure, message, limit, on_missing)).await
            }
        }
    }

    /// The second half of [`publish_or_declare`](Self::publish_or_declare), after a publish that
    /// failed.
    pub(crate) async fn redeclare_and_retry(
        &self,
        failure: PublishFailure,
        message: Arc<Outgoing>,
        limit: Duration,
        on_missing: &OnMissing,
    ) -> Result<(), PublishFailure> {
        let (started, is_repeat) = (failure.started, failure.is_repeat);
        let OnMissing::Declare(topology) = on_missing else {
            return Err(failure);
        };
        if !failure.may_lack_queue() {
            return Err(failure);
        }
        let Inner {
            sender,
            namespace,
            declared,
            ..
        } = &*self.inner;
        let is_unroutable = failure.error.is_unroutable();
        // Whether the queue was missing, or not complete, when the message was published.
        let redeclared = async {
            if is_unroutable || !topology.is_limited() {
                let declared = declared.declare(sender.link(), namespace, topology, started);
                declared.await.map(|()| true)
            } else {
                // A queue with a limit that rejects is full, unless it was declared meanwhile.
                Ok(declared.is_declared_since(topology, started).await)
            }
        };
        let deadline = clock::deadline(started, limit);
        match tokio::time::timeout_at(deadline, redeclared).await {
            Ok(Ok(true)) => {
                let left = limit.saturating_sub(started.elapsed());
                let published = self.publish(message, left).await;
                published.map_err(|failure| failure.started_at(started).repeat_if(is_repeat))
            }
            Ok(Ok(false)) | Err(_) => Err(failure),
            Ok(Err(refused)) => {
                // The message was not stored, and the queue cannot be declared.
                let outcome = match refused.amqp_code() {
                    Some(_) => Outcome::Rejected,
                    None => Outcome::Unroutable,
                };
                Err(PublishFailure {
                    is_repeat,
                    ..PublishFailure::new(refused, outcome, started)
                })
            }
        }
    }

    /// Declares on the publishing session. In a task of its own: users are promised that the
    /// declaration goes on when the future is dropped.
    pub(crate) async fn declare(&self, topology: Topology) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let declaring =
            async move { declare(inner.sender.link(), &topology, &inner.namespace).await };
        let declared = self.inner.sender.io().spawn(declaring).await;
        let declared = declared.map_err(|ended| Error::new(ErrorKind::Closed).caused_by(ended))?;
        declared.map(drop)
    }

    /// Sends a message; [`PendingConfirm::wait`] waits for its confirm. Takes no permit: the caller
    /// limits the number of unconfirmed messages.
    ///
    /// # Errors
    /// Too large, timed out or closed before it was sent.
    pub(crate) fn send(
        &self,
        message: Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> impl Future<Output = Result<PendingConfirm, PublishFailure>> + '_ {
        self.inner.sender.send(message, started, limit)
    }

    /// The error of a message that could not be sent before its deadline: blocked, with the broker's
    /// reason, if that is the cause.
    pub(crate) fn timeout_error(&self) -> Error {
        self.inner.sender.link().timeout_error()
    }
}

/// A publish that was sent and waits for its confirm, with its permit.
pub(crate) struct StartedPublish<'a> {
    publisher: &'a Publisher,
    permit: SemaphorePermit<'a>,
    pending: PendingConfirm,
}

impl StartedPublish<'_> {
    /// Waits for the confirm.
    ///
    /// # Errors
    /// Those of [`Publisher::publish`].
    pub(crate) async fn wait(self) -> Result<(), PublishFailure> {
        let Self {
            publisher,
            permit,
            pending,
        } = self;
        let (message, limit) = (Arc::clone(&pending.message), pending.limit);
        let published = match pending.wait().await {
            Ok(()) => Ok(()),
            Err(failure) => Box::pin(publisher.publish_again(failure, message, limit)).await,
        };
        drop(permit);
        published
    }
}
