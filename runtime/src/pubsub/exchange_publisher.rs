//! Publishing to one exchange (`basic.publish`), which is declared before the first event on each
//! connection (`exchange.declare`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::options::{PublishOptions, Safety};
use super::spec::ExchangeSpec;
use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::link::{Channel, Connection, Flush, Session};
use crate::publish::{
    CachedChannel, DeclaredPerSession, MAX_UNCONFIRMED, PublishFailure, Publisher,
};
use crate::random;
use crate::wire::message::Outgoing;
use crate::wire::reply_code;

static NEXT_EVENT: AtomicU64 = AtomicU64::new(1);

/// The publisher of one exchange, shared by its clones.
pub(super) struct ExchangePublisher {
    connection: Connection,
    spec: ExchangeSpec,
    /// For confirmed publishes.
    publisher: Publisher,
    declared: DeclaredPerSession,
    /// For unconfirmed publishes.
    channel: CachedChannel<Channel>,
    /// One permit for each unconfirmed publish that is not written yet.
    permits: Semaphore,
    max_in_flight: usize,
    /// The first part of every event's `message_id`.
    identity: String,
}

impl ExchangePublisher {
    pub(super) fn new(connection: &Connection, spec: ExchangeSpec) -> Self {
        Self::limited(connection, spec, MAX_UNCONFIRMED)
    }

    pub(super) fn with_limit(&self, max_in_flight: usize) -> Self {
        Self::limited(&self.connection, self.spec.clone(), max_in_flight)
    }

    fn limited(connection: &Connection, spec: ExchangeSpec, max_in_flight: usize) -> Self {
        let max_in_flight = max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            connection: connection.clone(),
            spec,
            publisher: Publisher::new(connection, max_in_flight),
            declared: DeclaredPerSession::default(),
            channel: CachedChannel::default(),
            permits: Semaphore::new(max_in_flight),
            max_in_flight,
            identity: random::identity(),
        }
    }

    pub(super) fn spec(&self) -> &ExchangeSpec {
        &self.spec
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The limit of publishes in flight.
    pub(super) fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    /// A `message_id` for the next event.
    pub(super) fn message_id(&self) -> String {
        let number = NEXT_EVENT.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.identity)
    }

    /// Declares the exchange on the connection that is up, or on the next one. In a task of its own:
    /// users are promised that the declaration goes on when the future is dropped.
    pub(super) async fn declare(self: &Arc<Self>) -> Result<(), Error> {
        let publisher = Arc::clone(self);
        let declaring = async move { publisher.declared_session().await.map(drop) };
        let declared = self.connection.io().spawn(declaring).await;
        declared.map_err(|ended| Error::new(ErrorKind::Closed).caused_by(ended))?
    }

    /// Waits until events can be sent: those that are published then are sent in their order. An error
    /// is left to these publishes, which meet it as well.
    pub(super) async fn wait_until_ready(&self, options: PublishOptions) {
        if Error::check_runtime().is_err() {
            return;
        }
        let deadline = clock::deadline(Instant::now(), options.timeout);
        if options.safety == Safety::Unconfirmed {
            let _ = self.before(deadline, self.channel()).await;
            return;
        }
        let declared = self.before(deadline, self.declared_session()).await;
        if declared.is_ok() {
            let left = deadline.saturating_duration_since(Instant::now());
            self.publisher.wait_until_ready(left).await;
        }
    }

    /// Publishes within the timeout.
    pub(super) async fn publish(
        &self,
        message: Arc<Outgoing>,
        options: PublishOptions,
        started: Instant,
    ) -> Result<(), PublishFailure> {
        let deadline = clock::deadline(started, options.timeout);
        let not_sent = |error| PublishFailure::not_sent(error, started);
        Error::check_runtime().map_err(not_sent)?;
        if self.spec.internal {
            let text = "the exchange is internal: events reach it only through its bindings";
            return Err(not_sent(Error::invalid(text)));
        }
        if options.safety == Safety::Unconfirmed {
            return self.publish_unconfirmed(message, started, deadline).await;
        }
        let (mut may_retry, mut is_repeat) = (true, false);
        loop {
            if !self.is_declared() {
                // Thousands of publishes may wait at once. The rare paths are boxed, so that each of
                // these futures stays small.
                let session = self.before(deadline, self.declared_session());
                let session = Box::pin(session).await.map_err(not_sent);
                session.map_err(|failure| failure.repeat_if(is_repeat))?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let published = self.publisher.publish(Arc::clone(&message), left);
            match published.await {
                // The exchange was deleted after it was declared. The broker closed the channel, and
                // every message in flight on it ends with this error, those included that were
                // routed before the deletion. So the message may be stored already.
                Err(failure)
                    if may_retry && failure.error.amqp_code() == Some(reply_code::NOT_FOUND) =>
                {
                    tracing::debug!(
                        exchange = self.spec.name(),
                        error = %failure.error,
                        "exchange does not exist any more, declaring it again"
                    );
                    Box::pin(self.declared.forget()).await;
                    may_retry = false;
                    is_repeat = failure.may_be_stored();
                }
                result => {
                    return result
                        .map_err(|failure| failure.started_at(started).repeat_if(is_repeat));
                }
            }
        }
    }

    async fn publish_unconfirmed(
        &self,
        message: Arc<Outgoing>,
        started: Instant,
        deadline: Instant,
    ) -> Result<(), PublishFailure> {
        let not_sent = |error| PublishFailure::not_sent(error, started);
        let (size, limit) = (message.body.len(), self.connection.max_message());
        if size > limit {
            return Err(not_sent(Error::new(ErrorKind::TooLarge { size, limit })));
        }
        if message.mandatory {
            let text = "a mandatory publish needs confirms: its answer comes with them";
            return Err(not_sent(Error::invalid(text)));
        }
        let _permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let permit = async {
                    let permit = self.permits.acquire().await;
                    permit.map_err(|closed| Error::new(ErrorKind::Closed).caused_by(closed))
                };
                let permit = self.before(deadline, permit);
                Box::pin(permit).await.map_err(not_sent)?
            }
        };
        let channel = match self.ready_channel() {
            Some(channel) => channel,
            None => {
                let channel = self.before(deadline, self.channel());
                Box::pin(channel).await.map_err(not_sent)?
            }
        };
        let published = channel.publish(&message, Flush::Inline);
        let offset = published.map_err(not_sent)?;
        match timeout_at(deadline, channel.flushed(offset)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(PublishFailure::sent(error, started)),
            Err(_) => {
                let error = self.publisher.timeout_error();
                Err(PublishFailure::sent(error, started))
            }
        }
    }

    /// Waits until the deadline; the error after it says whether the connection is blocked.
    async fn before<V>(
        &self,
        deadline: Instant,
        wait: impl Future<Output = Result<V, Error>>,
    ) -> Result<V, Error> {
        match timeout_at(deadline, wait).await {
            Ok(result) => result,
            Err(_) => Err(self.publisher.timeout_error()),
        }
    }

    /// Whether the exchange is declared on the session that is up.
    fn is_declared(&self) -> bool {
        let session = self.connection.publishing().ready();
        session.is_some_and(|session| self.declared.is_on(&session))
    }

    /// The session that is up, with the exchange declared on it.
    async fn declared_session(&self) -> Result<Arc<Session>, Error> {
        let (link, namespace) = (self.connection.publishing(), self.connection.namespace());
        let topology = || self.spec.topology();
        self.declared.ensure(link, namespace, topology).await
    }

    /// The channel of unconfirmed publishes, if nothing has to be waited for.
    fn ready_channel(&self) -> Option<Arc<Channel>> {
        let channel = self.channel.get()?;
        let session = channel.session();
        (self.declared.is_on(session) && session.takes_messages()).then_some(channel)
    }

    /// The channel of unconfirmed publishes, once messages can be sent on it.
    async fn channel(&self) -> Result<Arc<Channel>, Error> {
        // An open channel may be kept although the exchange has to be declared again: a confirmed
        // publish on another channel found that it was deleted.
        self.declared_session().await?;
        let open = |_, is_replacement| async move {
            if is_replacement {
                // The broker may have closed the channel because the exchange was deleted.
                self.declared.forget().await;
            }
            let session = self.declared_session().await?;
            Channel::open(&session).await
        };
        let link = self.connection.publishing();
        self.channel.get_or_open_on(link, open).await
    }
}

impl fmt::Debug for ExchangePublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangePublisher")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}
