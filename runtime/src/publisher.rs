//! Publishes that end: stored, or an error that says how far they got. One for jobs, events,
//! one-way calls, retries and dead letters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::clock;
use crate::error::{Error, Kind, Outcome, Site};
use crate::link::{self, Confirmed, Connection, Fate, Link, Namespace};
use crate::message::Outgoing;
use crate::topology::Topology;

/// How long a publish may take, from the wait for a connection to the confirm.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// How many publishes may wait for their confirm.
pub(crate) const UNCONFIRMED: usize = 1024;

/// Before a message that was not sent is tried again.
const NEXT_TRY: Duration = Duration::from_millis(5);

/// A confirm channel on the publishing session, opened when it is needed and again when it died.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    io: Handle,
    namespace: Namespace,
    channel: Mutex<Option<Arc<Confirmed>>>,
    /// Held by whoever opens one.
    opening: tokio::sync::Mutex<()>,
    /// What was declared because a publish missed it, and when.
    restored: tokio::sync::Mutex<Vec<(Topology, Instant)>>,
    unconfirmed: Semaphore,
    max_message: usize,
}

/// A publish that was handed over, and what is needed to report on it.
pub(crate) struct Receipt {
    fate: oneshot::Receiver<Fate>,
    started: Instant,
    deadline: Instant,
    limit: Duration,
}

/// A publish that failed and what is known of the message; whose it was, its sender adds.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: Error,
    outcome: Outcome,
    since: Instant,
}

impl Fault {
    fn new(error: Error, outcome: Outcome, since: Instant) -> Self {
        Self {
            error,
            outcome,
            since,
        }
    }

    pub(crate) fn not_sent(error: Error, since: Instant) -> Self {
        Self::new(error, Outcome::NotSent, since)
    }

    /// It has left, and nothing more is known.
    pub(crate) fn sent(error: Error, since: Instant) -> Self {
        Self::new(error, Outcome::SentNoReply, since)
    }

    /// It began earlier.
    pub(crate) fn since(self, since: Instant) -> Self {
        Self { since, ..self }
    }

    /// Whether the broker took nothing, perhaps for want of the queue.
    pub(crate) fn may_be_mended(&self) -> bool {
        self.error.is_unroutable() || self.error.is_rejected()
    }

    /// The error, now that it is known what failed.
    pub(crate) fn of(self, what: &What) -> Error {
        what.failed(self.error, self.since, self.outcome)
    }
}

/// How errors name a message.
#[derive(Clone, Debug)]
pub(crate) struct What {
    pub(crate) service: Arc<str>,
    pub(crate) method: Arc<str>,
    pub(crate) queue: Arc<str>,
}

impl What {
    pub(crate) fn failed(&self, error: Error, since: Instant, outcome: Outcome) -> Error {
        error.at(Site {
            service: self.service.to_string(),
            method: self.method.to_string(),
            queue: self.queue.to_string(),
            elapsed: since.elapsed(),
            outcome,
        })
    }
}

/// Where a message is to arrive.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    /// This is declared when it is missing.
    Declared(Topology),
    /// Whoever owns the topology has to see to it.
    Foreign,
}

impl Publisher {
    pub(crate) fn new(connection: &Connection, unconfirmed: usize) -> Self {
        Self::with_limit(connection, unconfirmed, connection.max_message())
    }

    /// One that moves messages the broker has already: they are as large as they are.
    pub(crate) fn mover(connection: &Connection) -> Self {
        Self::with_limit(connection, UNCONFIRMED, usize::MAX)
    }

    fn with_limit(connection: &Connection, unconfirmed: usize, max_message: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                link: connection.publishing().clone(),
                io: connection.io().clone(),
                namespace: connection.namespace().clone(),
                channel: Mutex::default(),
                opening: tokio::sync::Mutex::default(),
                restored: tokio::sync::Mutex::default(),
                unconfirmed: Semaphore::new(unconfirmed.max(1)),
                max_message,
            }),
        }
    }

    /// Publishes and waits for the confirm.
    ///
    /// # Errors
    /// Too large, timed out or closed before it was sent; unroutable (if mandatory); rejected;
    /// or sent and not confirmed, where the broker may have it.
    pub(crate) async fn publish(
        &self,
        message: Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        Error::check_runtime().map_err(|error| Fault::not_sent(error, started))?;
        let _place = match self.inner.unconfirmed.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                // What is rare is boxed: thousands of these may wait at once.
                let place = self.inner.unconfirmed.acquire();
                let deadline = clock::deadline(started, limit);
                match Box::pin(tokio::time::timeout_at(deadline, place)).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(_)) | Err(_) => {
                        return Err(Fault::not_sent(Error::new(Kind::Timeout), started));
                    }
                }
            }
        };
        let sent = match self.send_now(&message, started, limit) {
            Some(sent) => sent,
            None => Box::pin(self.send(message, started, limit)).await,
        };
        sent?.wait().await
    }

    /// The first half of [`publish`](Self::publish), if there is nothing to wait for.
    pub(crate) fn begin(
        &self,
        message: &Arc<Outgoing>,
        limit: Duration,
    ) -> Option<Result<Begun<'_>, Fault>> {
        if let Err(error) = Error::check_runtime() {
            return Some(Err(Fault::not_sent(error, Instant::now())));
        }
        let place = self.inner.unconfirmed.try_acquire().ok()?;
        let receipt = self.send_now(message, Instant::now(), limit)?;
        Some(receipt.map(|receipt| Begun { place, receipt }))
    }

    /// Whether a publish would have to wait for a place among those without a confirm.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.unconfirmed.available_permits() == 0
    }

    /// Waits until messages can be sent.
    pub(crate) async fn opened(&self, limit: Duration) {
        if self.ready().is_none() && clock::is_in_runtime() {
            let deadline = clock::deadline(Instant::now(), limit);
            // Whoever publishes is told what there is to be told.
            let _ = tokio::time::timeout_at(deadline, self.channel()).await;
        }
    }

    /// As [`publish`](Self::publish), and makes the queue be there if the broker has none for the
    /// message. So nobody has to know beforehand whether it was declared, or deleted since.
    ///
    /// A quorum queue that is just being declared refuses what comes, as one does that is full:
    /// whoever may have met the former tries again once it is there.
    pub(crate) async fn publish_home(
        &self,
        message: Arc<Outgoing>,
        limit: Duration,
        home: &Home,
    ) -> Result<(), Fault> {
        match self.publish(Arc::clone(&message), limit).await {
            Ok(()) => Ok(()),
            Err(fault) => Box::pin(self.mend(fault, message, limit, home)).await,
        }
    }

    /// The second half of [`publish_home`](Self::publish_home), after a publish that failed.
    pub(crate) async fn mend(
        &self,
        fault: Fault,
        message: Arc<Outgoing>,
        limit: Duration,
        home: &Home,
    ) -> Result<(), Fault> {
        let started = fault.since;
        let Home::Declared(topology) = home else {
            return Err(fault);
        };
        if !fault.may_be_mended() {
            return Err(fault);
        }
        let is_unroutable = fault.error.is_unroutable();
        let restoring = async {
            if is_unroutable || !topology.is_limited() {
                self.restore(topology, started).await.map(|()| Missed::Yes)
            } else {
                Ok(self.missed(topology, started).await)
            }
        };
        let deadline = clock::deadline(started, limit);
        match tokio::time::timeout_at(deadline, restoring).await {
            Ok(Ok(Missed::Yes)) => {
                let left = limit.saturating_sub(started.elapsed());
                let published = self.publish(message, left).await;
                published.map_err(|fault| fault.since(started))
            }
            Ok(Ok(Missed::No)) | Err(_) => Err(fault),
            Ok(Err(refused)) => {
                // The broker took no message, and it refuses to let the queue be there.
                let outcome = match refused.amqp_code() {
                    Some(_) => Outcome::Rejected,
                    None => Outcome::Unroutable,
                };
                Err(Fault::new(refused, outcome, started))
            }
        }
    }

    /// Declares what a publish missed that began at `since`: once for all that missed it, however
    /// many they are.
    async fn restore(&self, topology: &Topology, since: Instant) -> Result<(), Error> {
        let mut restored = self.inner.restored.lock().await;
        if is_restored(&restored, topology, since) {
            return Ok(());
        }
        self.declare(topology.clone()).await?;
        restored.retain(|(known, _)| known != topology);
        restored.push((topology.clone(), Instant::now()));
        Ok(())
    }

    /// Whether it was being declared while a publish was under way that began at `since`.
    async fn missed(&self, topology: &Topology, since: Instant) -> Missed {
        // Until one that is being made is done.
        let restored = self.inner.restored.lock().await;
        if is_restored(&restored, topology, since) {
            Missed::Yes
        } else {
            Missed::No
        }
    }

    /// Declares on the publishing session, in a task of its own: a set-up that is dropped
    /// half-way leaks a channel.
    pub(crate) async fn declare(&self, topology: Topology) -> Result<(), Error> {
        let session = self.inner.link.session().await?;
        let namespace = self.inner.namespace.clone();
        let declaring = self
            .inner
            .io
            .spawn(async move { link::declare(&session, &topology, &namespace).await });
        declaring
            .await
            .map_err(|ended| Error::new(Kind::Closed).caused_by(ended))?
    }

    /// Hands a message over; [`Receipt::wait`] is for its confirm. Nothing bounds how many are
    /// handed over but the caller.
    pub(crate) async fn send(
        &self,
        message: Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> Result<Receipt, Fault> {
        let deadline = clock::deadline(started, limit);
        let not_sent = |error| Fault::not_sent(error, started);
        loop {
            let channel = match tokio::time::timeout_at(deadline, self.channel()).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return Err(not_sent(error)),
                Err(_) => return Err(not_sent(self.too_late().await)),
            };
            if let Some(sent) = self.send_over(&channel, &message, started, limit) {
                return sent;
            }
            tokio::time::sleep(NEXT_TRY).await;
        }
    }

    /// [`send`](Self::send), if there is nothing to wait for.
    fn send_now(
        &self,
        message: &Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> Option<Result<Receipt, Fault>> {
        let channel = self.ready()?;
        self.send_over(&channel, message, started, limit)
    }

    /// `None`: a channel that was found dead has sent nothing, the next one may.
    fn send_over(
        &self,
        channel: &Confirmed,
        message: &Arc<Outgoing>,
        started: Instant,
        limit: Duration,
    ) -> Option<Result<Receipt, Fault>> {
        let (size, most) = (message.body.len(), self.inner.max_message);
        let sent = if size > most {
            Err(Error::new(Kind::TooLarge { size, limit: most }))
        } else {
            channel.publish(Arc::clone(message))
        };
        match sent {
            Ok(fate) => Some(Ok(Receipt {
                fate,
                started,
                deadline: clock::deadline(started, limit),
                limit,
            })),
            Err(error) if error.is_disconnected() => {
                tracing::debug!(%error, "not sent, trying the next channel");
                None
            }
            Err(error) => Some(Err(Fault::not_sent(error, started))),
        }
    }

    /// Why nothing could be sent until the deadline.
    pub(crate) async fn too_late(&self) -> Error {
        let session = self.inner.link.session();
        let session = tokio::time::timeout(Duration::ZERO, session).await;
        let blocked = session.ok().and_then(Result::ok);
        let reason = blocked.and_then(|session| session.blocked().borrow().clone());
        reason.map_or_else(
            || Error::new(Kind::Timeout),
            |text| Error::new(Kind::Blocked(text)),
        )
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Confirmed>>> {
        let slot = self.inner.channel.lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel, if there is one that may be published on.
    fn ready(&self) -> Option<Arc<Confirmed>> {
        let slot = self.slot();
        let channel = slot.as_ref().filter(|channel| channel.is_open());
        channel.filter(|channel| channel.takes_messages()).cloned()
    }

    /// The channel, once there is one that may be published on.
    async fn channel(&self) -> Result<Arc<Confirmed>, Error> {
        loop {
            let session = self.inner.link.session().await?;
            if !session.takes_messages() {
                session.message_taken().await;
                continue;
            }
            let _opening = self.inner.opening.lock().await;
            let found = self
                .slot()
                .as_ref()
                .filter(|channel| channel.is_open())
                .cloned();
            if let Some(channel) = found {
                return Ok(channel);
            }
            // In a task of its own: a set-up that is dropped half-way leaks a channel.
            let io = self.inner.io.clone();
            let opening = self
                .inner
                .io
                .spawn(async move { Confirmed::open(&session, &io).await });
            match opening.await {
                Ok(Ok(channel)) => {
                    let channel = Arc::new(channel);
                    *self.slot() = Some(Arc::clone(&channel));
                    return Ok(channel);
                }
                Ok(Err(error)) if error.is_disconnected() => {}
                Ok(Err(error)) => return Err(error),
                Err(ended) => return Err(Error::new(Kind::Closed).caused_by(ended)),
            }
        }
    }
}

/// Whether a publish came before its queue was there.
enum Missed {
    Yes,
    No,
}

fn is_restored(restored: &[(Topology, Instant)], topology: &Topology, since: Instant) -> bool {
    let mut restored = restored.iter();
    restored.any(|(known, at)| *at >= since && known == topology)
}

/// A publish that waits for its confirm, in its place among those that may.
pub(crate) struct Begun<'a> {
    place: SemaphorePermit<'a>,
    receipt: Receipt,
}

impl Begun<'_> {
    /// Waits for the confirm.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub(crate) async fn end(self) -> Result<(), Fault> {
        let Self { place, receipt } = self;
        let ended = receipt.wait().await;
        drop(place);
        ended
    }
}

impl Receipt {
    /// Waits for the confirm.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub(crate) async fn wait(self) -> Result<(), Fault> {
        let Self {
            fate,
            started,
            deadline,
            limit,
        } = self;
        let (kind, outcome, source) = match tokio::time::timeout_at(deadline, fate).await {
            Ok(Ok(Fate::Stored)) => return Ok(()),
            Ok(Ok(Fate::Unroutable)) => (Kind::Unroutable, Outcome::Unroutable, None),
            Ok(Ok(Fate::Rejected)) => (Kind::Rejected, Outcome::Rejected, None),
            // The broker closed the channel over it: its reason is the error.
            Ok(Ok(Fate::Unknown(error))) if matches!(error.kind(), Kind::Broker { .. }) => {
                return Err(Fault::new(error, Outcome::SentNoReply, started));
            }
            Ok(Ok(Fate::Unknown(error))) => (Kind::Unconfirmed, Outcome::SentNoReply, Some(error)),
            Ok(Err(_)) => (Kind::Unconfirmed, Outcome::SentNoReply, None),
            Err(_) => {
                tracing::debug!(?limit, "no confirm in time");
                (Kind::Timeout, Outcome::SentNoReply, None)
            }
        };
        let error = Error::new(kind);
        let error = match source {
            Some(source) => error.caused_by(source),
            None => error,
        };
        Err(Fault::new(error, outcome, started))
    }
}
