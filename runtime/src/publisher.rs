//! Publishes that end: stored, or an error that says how far they got. One for jobs, events,
//! one-way calls, retries and dead letters.
//!
//! AMQP closes the channel over one bad message, and with it everything else that waits for its
//! confirm there, without a word on which message it was. The error of each is about itself: the
//! bad one is told the broker's reason, and the others are published again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::clock;
use crate::declaring;
use crate::error::{Error, Kind, Outcome, Site};
use crate::link::{ConfirmChannel, Confirmation, Connection, Link, Namespace, Session};
use crate::policy::refusal::{self, Cause};
use crate::sync::lock;
use crate::wire::message::Outgoing;
use crate::wire::topology::Topology;

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
    channel: Mutex<Option<Arc<ConfirmChannel>>>,
    /// Held by whoever opens one.
    opening: tokio::sync::Mutex<()>,
    /// What was declared because a publish missed it, and when.
    restored: tokio::sync::Mutex<Vec<(Topology, Instant)>>,
    unconfirmed: Semaphore,
    max_message: usize,
    /// Held by whoever publishes a message alone, to see whether the broker refuses it.
    suspects: tokio::sync::Mutex<Suspects>,
    /// How many do so or wait to.
    suspected: AtomicUsize,
}

/// The search for the message that a channel was closed over.
#[derive(Debug, Default)]
struct Suspects {
    /// Has at most one message under way.
    channel: Option<Arc<ConfirmChannel>>,
    /// The latest refusals whose message was found: whatever else they met may be published with
    /// others again.
    found: Vec<Error>,
}

/// How many refusals are remembered: those of the channels that may have closed meanwhile.
const FOUND: usize = 16;

/// A publish that was handed over, and what is needed to report on it.
pub(crate) struct Receipt {
    fate: oneshot::Receiver<Confirmation>,
    message: Arc<Outgoing>,
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
    /// The broker closed the channel, and not for certain over this message.
    bystander: Option<Bystander>,
    /// It was published before, and the broker may have taken it then.
    is_repeated: bool,
}

/// A message that was under way on a channel when the broker closed it.
#[derive(Debug)]
struct Bystander {
    refusal: Error,
    /// Another message is to blame.
    is_innocent: bool,
}

impl Fault {
    fn new(error: Error, outcome: Outcome, since: Instant) -> Self {
        Self {
            error,
            outcome,
            since,
            bystander: None,
            is_repeated: false,
        }
    }

    /// The broker closed the channel that the message was under way on.
    fn closed(refusal: Error, message: &Outgoing, since: Instant) -> Self {
        let bystander = |is_innocent| Self {
            bystander: Some(Bystander {
                refusal: refusal.clone(),
                is_innocent,
            }),
            ..Self::unconfirmed(Some(refusal.clone()), since)
        };
        match refusal::cause(&refusal, message) {
            Some(Cause::Message(error)) => Self::new(error, Outcome::Rejected, since),
            Some(Cause::Exchange(error)) => Self::new(error, Outcome::SentNoReply, since),
            Some(Cause::Other) => bystander(true),
            Some(Cause::Unknown) => bystander(false),
            None => Self::unconfirmed(Some(refusal), since),
        }
    }

    fn unconfirmed(cause: Option<Error>, since: Instant) -> Self {
        let error = Error::new(Kind::Unconfirmed);
        let error = match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        };
        Self::new(error, Outcome::SentNoReply, since)
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

    /// Whether the message was published before, too, and the broker may have taken it then: that
    /// it takes none now does not mean that it has none.
    pub(crate) fn repeated(self, is_repeated: bool) -> Self {
        // What the broker refuses the message itself for, it refused it for before.
        let is_own = self.outcome == Outcome::Rejected && !self.error.is_rejected();
        Self {
            is_repeated: self.is_repeated || is_repeated && !is_own,
            ..self
        }
    }

    /// Whether the broker may have the message.
    pub(crate) fn may_be_taken(&self) -> bool {
        self.is_repeated || self.outcome == Outcome::SentNoReply
    }

    /// Whether the broker took nothing, perhaps for want of the queue.
    pub(crate) fn may_be_mended(&self) -> bool {
        self.error.is_unroutable() || self.error.is_rejected()
    }

    /// The error, now that it is known what failed.
    pub(crate) fn of(self, what: &What) -> Error {
        let fault = if self.is_repeated && self.outcome != Outcome::SentNoReply {
            Self::unconfirmed(Some(self.error), self.since)
        } else {
            self
        };
        what.failed(fault.error, fault.since, fault.outcome)
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
                suspects: tokio::sync::Mutex::default(),
                suspected: AtomicUsize::new(0),
            }),
        }
    }

    /// Publishes and waits for the confirm. What ends with its channel over another message is
    /// published again, within its time and with the same `message_id`: the broker may have it
    /// twice then.
    ///
    /// # Errors
    /// Too large, timed out or closed before it was sent; unroutable (if mandatory); rejected, or
    /// refused by closing the channel; or sent and not confirmed, where the broker may have it.
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
            None => Box::pin(self.send(Arc::clone(&message), started, limit)).await,
        };
        match sent?.wait().await {
            Ok(()) => Ok(()),
            Err(fault) => Box::pin(self.publish_again(fault, message, limit)).await,
        }
    }

    /// After a publish that failed: again, where that was for another message's sake.
    async fn publish_again(
        &self,
        mut fault: Fault,
        message: Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), Fault> {
        let started = fault.since;
        while let Some(bystander) = fault.bystander.take() {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            let again = if bystander.is_innocent {
                self.publish_with_others(&message, left).await
            } else {
                self.publish_alone(&bystander.refusal, &message, left).await
            };
            match again {
                Ok(()) => return Ok(()),
                // What is known is of the message that was sent before.
                Err(again) if again.outcome == Outcome::NotSent => {
                    if again.error.is_closed() {
                        break;
                    }
                    tracing::debug!(error = %again.error, "not published again yet");
                    fault.bystander = Some(bystander);
                    tokio::time::sleep(NEXT_TRY).await;
                }
                Err(again) => fault = again.since(started).repeated(true),
            }
        }
        Err(fault)
    }

    async fn publish_with_others(
        &self,
        message: &Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), Fault> {
        let sent = self.send(Arc::clone(message), Instant::now(), limit);
        sent.await?.wait().await
    }

    /// Publishes one that the broker may have refused, with no other on its channel: if that is
    /// closed again, it was this one.
    async fn publish_alone(
        &self,
        refusal: &Error,
        message: &Arc<Outgoing>,
        limit: Duration,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        let deadline = clock::deadline(started, limit);
        let not_sent = |error| Fault::not_sent(error, started);
        let _suspected = Suspected::note(&self.inner);
        let searching = tokio::time::timeout_at(deadline, self.inner.suspects.lock());
        let Ok(mut suspects) = searching.await else {
            return Err(not_sent(Error::new(Kind::Timeout)));
        };
        if suspects.found.iter().any(|found| found.is_same(refusal)) {
            drop(suspects);
            return self.publish_with_others(message, limit).await;
        }
        let receipt = loop {
            let usable = suspects.channel.take().filter(|channel| channel.is_open());
            let opening = async {
                match usable {
                    Some(channel) => Ok(channel),
                    None => self.open(self.session().await?).await,
                }
            };
            let channel = match tokio::time::timeout_at(deadline, opening).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => return Err(not_sent(error)),
                Err(_) => return Err(not_sent(self.too_late().await)),
            };
            suspects.channel = Some(Arc::clone(&channel));
            if let Some(sent) = self.send_over(&channel, message, started, limit) {
                break sent?;
            }
            if Instant::now() >= deadline {
                return Err(not_sent(self.too_late().await));
            }
            tokio::time::sleep(NEXT_TRY).await;
        };
        let Err(mut fault) = receipt.wait().await else {
            return Ok(());
        };
        if let Some(bystander) = fault.bystander.take() {
            fault = Fault::new(bystander.refusal, Outcome::Rejected, started);
        }
        if !fault.error.is_disconnected() {
            tracing::debug!(error = %fault.error, "the message that closed a channel was found");
            suspects.channel = None;
            let least = suspects.found.len().saturating_sub(FOUND - 1);
            suspects.found.drain(..least);
            suspects.found.push(refusal.clone());
        }
        Err(fault)
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
        Some(receipt.map(|receipt| Begun {
            publisher: self,
            place,
            receipt,
        }))
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
        let (started, is_repeated) = (fault.since, fault.is_repeated);
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
                published.map_err(|fault| fault.since(started).repeated(is_repeated))
            }
            Ok(Ok(Missed::No)) | Err(_) => Err(fault),
            Ok(Err(refused)) => {
                // The broker took no message, and it refuses to let the queue be there.
                let outcome = match refused.amqp_code() {
                    Some(_) => Outcome::Rejected,
                    None => Outcome::Unroutable,
                };
                Err(Fault {
                    is_repeated,
                    ..Fault::new(refused, outcome, started)
                })
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
        self.declare(topology).await?;
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

    /// Declares on the publishing session.
    pub(crate) async fn declare(&self, topology: &Topology) -> Result<(), Error> {
        let Inner {
            link,
            io,
            namespace,
            ..
        } = &*self.inner;
        declaring::declare(link, io, topology, namespace)
            .await
            .map(drop)
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
            // A channel that looks open is there at once, however late it is.
            if Instant::now() >= deadline {
                return Err(not_sent(self.too_late().await));
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
        channel: &ConfirmChannel,
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
                message: Arc::clone(message),
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

    fn slot(&self) -> MutexGuard<'_, Option<Arc<ConfirmChannel>>> {
        lock(&self.inner.channel)
    }

    /// The channel, if there is one that may be published on.
    fn ready(&self) -> Option<Arc<ConfirmChannel>> {
        let slot = self.slot();
        let channel = slot.as_ref().filter(|channel| channel.is_open());
        channel.filter(|channel| channel.takes_messages()).cloned()
    }

    /// The channel, once there is one that may be published on.
    async fn channel(&self) -> Result<Arc<ConfirmChannel>, Error> {
        loop {
            let session = self.session().await?;
            let _opening = self.inner.opening.lock().await;
            let found = self
                .slot()
                .as_ref()
                .filter(|channel| channel.is_open())
                .cloned();
            if let Some(channel) = found {
                return Ok(channel);
            }
            match self.open(session).await {
                Ok(channel) => {
                    *self.slot() = Some(Arc::clone(&channel));
                    return Ok(channel);
                }
                Err(error) if error.is_disconnected() && !error.is_closed() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The session, once there is one that takes messages.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        loop {
            let session = self.inner.link.session().await?;
            if session.takes_messages() {
                return Ok(session);
            }
            session.writable().await;
        }
    }

    /// In a task of its own: a set-up that is dropped half-way leaks a channel.
    async fn open(&self, session: Arc<Session>) -> Result<Arc<ConfirmChannel>, Error> {
        let io = self.inner.io.clone();
        let opening = self
            .inner
            .io
            .spawn(async move { ConfirmChannel::open(&session, &io).await });
        let opened = opening.await;
        let opened = opened.map_err(|ended| Error::new(Kind::Closed).caused_by(ended))?;
        opened.map(Arc::new)
    }
}

/// Counts a message among those that are published alone, and closes their channel behind the
/// last one.
struct Suspected<'a>(&'a Inner);

impl<'a> Suspected<'a> {
    fn note(inner: &'a Inner) -> Self {
        inner.suspected.fetch_add(1, Ordering::AcqRel);
        Self(inner)
    }
}

impl Drop for Suspected<'_> {
    fn drop(&mut self) {
        if self.0.suspected.fetch_sub(1, Ordering::AcqRel) == 1
            && let Ok(mut suspects) = self.0.suspects.try_lock()
        {
            suspects.channel = None;
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
    publisher: &'a Publisher,
    place: SemaphorePermit<'a>,
    receipt: Receipt,
}

impl Begun<'_> {
    /// Waits for the confirm.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub(crate) async fn end(self) -> Result<(), Fault> {
        let Self {
            publisher,
            place,
            receipt,
        } = self;
        let (message, limit) = (Arc::clone(&receipt.message), receipt.limit);
        let ended = match receipt.wait().await {
            Ok(()) => Ok(()),
            Err(fault) => Box::pin(publisher.publish_again(fault, message, limit)).await,
        };
        drop(place);
        ended
    }
}

impl Receipt {
    /// Waits for the confirm. What ends with its channel over another message is not published
    /// again: it ends as unconfirmed.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub(crate) async fn wait(self) -> Result<(), Fault> {
        let Self {
            fate,
            message,
            started,
            deadline,
            limit,
        } = self;
        Err(match tokio::time::timeout_at(deadline, fate).await {
            Ok(Ok(Confirmation::Stored)) => return Ok(()),
            Ok(Ok(Confirmation::Unroutable)) => {
                Fault::new(Error::new(Kind::Unroutable), Outcome::Unroutable, started)
            }
            Ok(Ok(Confirmation::Rejected)) => {
                Fault::new(Error::new(Kind::Rejected), Outcome::Rejected, started)
            }
            Ok(Ok(Confirmation::Unknown(error))) => Fault::closed(error, &message, started),
            Ok(Err(_)) => Fault::unconfirmed(None, started),
            Err(_) => {
                tracing::debug!(?limit, "no confirm in time");
                Fault::new(Error::new(Kind::Timeout), Outcome::SentNoReply, started)
            }
        })
    }
}
