//! Where events go out: the exchange is there before they do, on every connection.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::options::{PublishOptions, Safety};
use super::spec::ExchangeSpec;
use crate::clock;
use crate::declaring::OnceMore;
use crate::error::{Error, Kind};
use crate::link::{self, Channel, Connection, Flush, Session};
use crate::publisher::{Fault, Publisher, UNCONFIRMED};
use crate::random;
use crate::sync::lock;
use crate::wire::message::Outgoing;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// One exchange's way out.
pub(super) struct Outlet {
    connection: Connection,
    spec: ExchangeSpec,
    publisher: Publisher,
    /// The generation of the connection on which the exchange was declared last; 0: none.
    declared: AtomicU64,
    /// Held by whoever declares it.
    declaring: Mutex<()>,
    /// The channel of unconfirmed publishes.
    channel: std::sync::Mutex<Option<Arc<Channel>>>,
    /// Held by whoever opens it.
    opening: Mutex<()>,
    places: Semaphore,
    /// Part of every event's identity.
    identity: String,
}

impl Outlet {
    pub(super) fn new(connection: &Connection, spec: ExchangeSpec) -> Self {
        Self::limited(connection, spec, UNCONFIRMED)
    }

    pub(super) fn with_limit(&self, publishes: usize) -> Self {
        Self::limited(&self.connection, self.spec.clone(), publishes)
    }

    fn limited(connection: &Connection, spec: ExchangeSpec, publishes: usize) -> Self {
        let publishes = publishes.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            connection: connection.clone(),
            spec,
            publisher: Publisher::new(connection, publishes),
            declared: AtomicU64::new(0),
            declaring: Mutex::default(),
            channel: std::sync::Mutex::default(),
            opening: Mutex::default(),
            places: Semaphore::new(publishes),
            identity: random::identity(),
        }
    }

    pub(super) fn spec(&self) -> &ExchangeSpec {
        &self.spec
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// An identity for the next event.
    pub(super) fn message_id(&self) -> String {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.identity)
    }

    /// Makes the exchange be there on the connection that is up, or the next one.
    pub(super) async fn declare(&self) -> Result<(), Error> {
        self.session().await.map(drop)
    }

    /// Publishes within its time.
    pub(super) async fn publish(
        &self,
        message: Arc<Outgoing>,
        options: PublishOptions,
        started: Instant,
    ) -> Result<(), Fault> {
        let deadline = clock::deadline(started, options.timeout);
        let not_sent = |error| Fault::not_sent(error, started);
        Error::check_runtime().map_err(not_sent)?;
        if self.spec.internal {
            let text = "the exchange is internal: events reach it through its bindings alone";
            return Err(not_sent(Error::invalid(text)));
        }
        if options.safety == Safety::Unconfirmed {
            return self.write(message, started, deadline).await;
        }
        let (mut again, mut is_repeated) = (true, false);
        loop {
            if self.ready().is_none() {
                // What is rare is boxed: thousands of these may wait at once.
                let session = self.in_time(self.session(), deadline);
                let session = Box::pin(session).await.map_err(not_sent);
                session.map_err(|fault| fault.repeated(is_repeated))?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let published = self.publisher.publish(Arc::clone(&message), left);
            match published.await {
                // The exchange was deleted since. What is in flight beside this on the same channel
                // ends in the same way, and may have been routed before.
                Err(fault) if again && fault.error.amqp_code() == Some(404) => {
                    tracing::debug!(error = %fault.error, "declaring the exchange again");
                    Box::pin(self.undeclared()).await;
                    again = false;
                    is_repeated = fault.may_be_taken();
                }
                result => {
                    return result.map_err(|fault| fault.since(started).repeated(is_repeated));
                }
            }
        }
    }

    /// Publishes without confirms.
    async fn write(
        &self,
        message: Arc<Outgoing>,
        started: Instant,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let not_sent = |error| Fault::not_sent(error, started);
        let (size, limit) = (message.body.len(), self.connection.max_message());
        if size > limit {
            return Err(not_sent(Error::new(Kind::TooLarge { size, limit })));
        }
        if message.mandatory {
            let text = "a mandatory publish needs confirms: its answer comes with them";
            return Err(not_sent(Error::invalid(text)));
        }
        let _place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                let place = async {
                    let place = self.places.acquire().await;
                    place.map_err(|closed| Error::new(Kind::Closed).caused_by(closed))
                };
                let place = self.in_time(place, deadline);
                Box::pin(place).await.map_err(not_sent)?
            }
        };
        let channel = match self.ready_lane() {
            Some(channel) => channel,
            None => {
                let channel = self.in_time(self.channel(), deadline);
                Box::pin(channel).await.map_err(not_sent)?
            }
        };
        let published = channel.publish(&message, Flush::Inline);
        let mark = published.map_err(not_sent)?;
        match timeout_at(deadline, channel.written(mark)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::sent(error, started)),
            Err(_) => {
                let error = Box::pin(self.publisher.too_late()).await;
                Err(Fault::sent(error, started))
            }
        }
    }

    /// Within the deadline; or why not.
    async fn in_time<V>(
        &self,
        wait: impl Future<Output = Result<V, Error>>,
        deadline: Instant,
    ) -> Result<V, Error> {
        match timeout_at(deadline, wait).await {
            Ok(result) => result,
            Err(_) => Err(self.publisher.too_late().await),
        }
    }

    fn is_declared_on(&self, session: &Session) -> bool {
        self.declared.load(Ordering::Acquire) == session.generation()
    }

    /// The broker has it no more.
    async fn undeclared(&self) {
        // After a declaration that is being made: it may be from before.
        let _declaring = self.declaring.lock().await;
        self.declared.store(0, Ordering::Release);
    }

    /// The session that is up, if the exchange is declared on it.
    fn ready(&self) -> Option<Arc<Session>> {
        let session = self.connection.publishing().ready()?;
        self.is_declared_on(&session).then_some(session)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Channel>>> {
        lock(&self.channel)
    }

    /// The channel of unconfirmed publishes, if there is nothing to wait for.
    fn ready_lane(&self) -> Option<Arc<Channel>> {
        let session = self.ready()?;
        let slot = self.slot();
        let channel = slot.as_ref().filter(|channel| channel.is_open());
        channel.filter(|_| session.takes_messages()).cloned()
    }

    /// The session that is up, with the exchange declared on it.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut once_more = OnceMore::default();
        loop {
            let session = self.connection.publishing().session().await?;
            if self.is_declared_on(&session) {
                return Ok(session);
            }
            let _declaring = self.declaring.lock().await;
            if self.is_declared_on(&session) {
                return Ok(session);
            }
            let topology = self.spec.topology()?;
            let namespace = self.connection.namespace().clone();
            // In a task of its own: a set-up that is dropped half-way leaks a channel.
            let declaring = self.connection.io().spawn({
                let session = Arc::clone(&session);
                async move { link::declare(&session, &topology, &namespace).await }
            });
            match declaring.await {
                Ok(Ok(())) => {
                    self.declared.store(session.generation(), Ordering::Release);
                    return Ok(session);
                }
                Ok(Err(error)) if error.is_disconnected() && !error.is_closed() => {}
                Ok(Err(error)) if once_more.is_due(&error, &session).await => {}
                Ok(Err(error)) => return Err(error),
                Err(ended) => return Err(Error::new(Kind::Closed).caused_by(ended)),
            }
        }
    }

    /// The channel of unconfirmed publishes, once there is one that may be published on.
    async fn channel(&self) -> Result<Arc<Channel>, Error> {
        loop {
            let opening = self.opening.lock().await;
            let is_dead = self.slot().take_if(|channel| !channel.is_open()).is_some();
            if is_dead {
                // The broker may have closed it for want of the exchange.
                self.undeclared().await;
            }
            let session = self.session().await?;
            if !session.takes_messages() {
                drop(opening);
                session.message_taken().await;
                continue;
            }
            if let Some(channel) = self.slot().clone() {
                return Ok(channel);
            }
            let opened = self
                .connection
                .io()
                .spawn(async move { Channel::open(&session).await });
            match opened.await {
                Ok(Ok(channel)) => {
                    *self.slot() = Some(Arc::clone(&channel));
                    return Ok(channel);
                }
                Ok(Err(error)) if error.is_disconnected() && !error.is_closed() => {}
                Ok(Err(error)) => return Err(error),
                Err(ended) => return Err(Error::new(Kind::Closed).caused_by(ended)),
            }
        }
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}
