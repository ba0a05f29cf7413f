//! The reply queue of a connection and the calls that wait on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};

use super::letter::{Address, CorrelationId};
use crate::error::{Error, Kind};
use crate::escape::Escaped;
use crate::link::{
    self, BurstDetector, Channel, ChannelEvent, ChannelHandler, Connection, ConsumeMode, Consumer,
    ConsumerEnd, DeliveryCallback, Flush, Link, Namespace, Session, WriteOffset,
};
use crate::policy::pending::Pending;
use crate::policy::refusal::Traits;
use crate::policy::retry::RetryPolicy;
use crate::random::{self, Secret};
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::batch;
use crate::wire::envelope::{Form, ReplyHead, ReplyStatus};
use crate::wire::message::{Incoming, Outgoing};
use crate::wire::name::Name;
use crate::wire::topology::{Queue, Topology};

/// Before a channel that could not be opened is tried again.
const NEXT_TRY: Duration = Duration::from_millis(100);

/// How a call in flight was answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(Replied),
    /// The broker had no queue for the request.
    Returned,
    /// The broker closed the channel over this very request: it was not executed.
    Refused(Error),
    /// No answer can come any more.
    Lost(Error),
    /// The message that it was to share has not been sent, or was `refused` by a server that takes
    /// no such messages. It was not executed: it goes by itself.
    Alone {
        refused: bool,
    },
}

/// What the caller needs of a reply.
#[derive(Debug)]
pub(crate) struct Replied {
    pub(crate) status: ReplyStatus,
    pub(crate) form: Form,
    pub(crate) content_type: Option<String>,
    /// The body's size, also where it was left out for being too large.
    pub(crate) size: usize,
    pub(crate) body: Bytes,
}

/// How far a call in flight has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for others to share a message with.
    Waiting,
    /// It has a message of its own.
    Alone,
    /// It was sent in the message of this number.
    Among(u64),
}

#[derive(Debug)]
struct Waiter {
    stage: Stage,
    /// Of the message that the call is alone in or the first of, once it is handed over.
    sent: Option<Sent>,
    answer: oneshot::Sender<Answer>,
}

/// A message on the channel for requests, as far as a refusal is read by it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Its place among all that were handed over.
    place: u64,
    traits: Traits,
}

/// What all clients of a connection share: one reply queue at a time.
#[derive(Debug)]
pub(crate) struct Caller {
    station: watch::Receiver<Option<Arc<Station>>>,
    /// Part of every idempotency key of this process.
    pub(crate) identity: String,
}

/// One generation of the reply queue.
#[derive(Debug)]
pub(crate) struct Station {
    session: Arc<Session>,
    /// Where requests go out. Replaced when it dies alone.
    channel: Mutex<Arc<Channel>>,
    reply_to: String,
    /// The key of the marks in the correlation ids of its calls.
    secret: Secret,
    /// `None` once no answer can come any more.
    pending: Mutex<Option<Waiting>>,
    rush: BurstDetector,
    /// How many messages were handed over.
    sent: AtomicU64,
    /// The channel is gone.
    closed: Notify,
    counters: Arc<Counters>,
}

type Waiting = Pending<Waiter>;

/// A call in flight. Dropping it frees its slot at once.
#[derive(Debug)]
pub(crate) struct Slot {
    station: Arc<Station>,
    pub(crate) id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Caller {
    pub(crate) fn of(connection: &Connection) -> Arc<Self> {
        connection.shared(|| {
            let (sender, station) = watch::channel(None);
            let keeper = Keeper {
                link: connection.publishing().clone(),
                namespace: connection.namespace().clone(),
                backoff: connection.backoff().clone(),
                max_message: connection.max_message(),
                counters: connection.counters(),
            };
            connection.tasks().spawn(keeper.run(sender));
            Self {
                station,
                identity: random::identity(),
            }
        })
    }

    /// The station that can take a request now, or the next one that can.
    ///
    /// # Errors
    /// Only that the connection was closed.
    pub(crate) async fn station(&self) -> Result<Arc<Station>, Error> {
        let mut stations = self.station.clone();
        loop {
            let current = stations.borrow_and_update().clone();
            match current {
                Some(station) if station.session.is_up() => {
                    if station.session.takes_messages() {
                        return Ok(station);
                    }
                    station.session.writable().await;
                }
                _ => {
                    if stations.changed().await.is_err() {
                        return Err(Error::new(Kind::Closed));
                    }
                }
            }
        }
    }

    /// The station that can take a request now, if there is one.
    pub(crate) fn ready(&self) -> Option<Arc<Station>> {
        let station = self.station.borrow().clone();
        station.filter(|station| station.session.is_up() && station.session.takes_messages())
    }

    /// Why no station was ready: the broker's reason for taking no messages, if that is why.
    pub(crate) fn blocked(&self) -> Option<String> {
        let station = self.station.borrow().clone();
        station.and_then(|station| station.blocked())
    }
}

impl Station {
    /// Registers a call before its request is published. `None`: no answer can come here any
    /// more, there will be another station.
    pub(crate) fn register(self: &Arc<Self>, stage: Stage) -> Option<Slot> {
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter {
            stage,
            sent: None,
            answer: sender,
        };
        let id = self.pending().as_mut()?.insert(waiter);
        self.counters.pending_calls.add();
        Some(Slot {
            station: Arc::clone(self),
            id,
            answer,
        })
    }

    /// Hands the request of a call over to be written.
    ///
    /// # Errors
    /// The channel is gone: the request was not sent.
    pub(crate) fn publish(&self, message: &Outgoing, id: u64) -> Result<(), Error> {
        self.hand_over(message, id, self.rush.next()).map(drop)
    }

    /// Publishes a message, whose first call is `id`, that leaves, with others that are published
    /// before, when this is awaited; completes when it is written to the socket, or never will be.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and at once.
    pub(crate) fn publish_paced(
        &self,
        message: &Outgoing,
        id: u64,
    ) -> Result<impl Future<Output = ()> + use<>, Error> {
        let (channel, mark) = self.hand_over(message, id, Flush::Deferred)?;
        Ok(async move {
            channel.flush(Flush::IoTask);
            // A message that is lost on its way is lost with its session, which ends its calls.
            drop(channel.flushed(mark).await);
        })
    }

    /// Sends so many of these calls out in one message: those that wait for it still, and gives
    /// the message's number. The others have gone meanwhile.
    pub(crate) fn set_out<T>(&self, calls: &mut Vec<T>, id: impl Fn(&T) -> u64) -> Option<u64> {
        let mut pending = self.pending();
        let pending = pending.as_mut()?;
        calls.retain(|call| pending.get_mut(id(call)).is_some());
        let number = id(calls.first()?);
        let alone = calls.len() == 1;
        for call in calls {
            if let Some(waiter) = pending.get_mut(id(call)) {
                waiter.stage = if alone {
                    Stage::Alone
                } else {
                    Stage::Among(number)
                };
            }
        }
        Some(number)
    }

    /// A call that was not sent.
    pub(crate) fn send_alone(&self, id: u64) {
        if let Some(waiter) = self.take(id) {
            let alone = Answer::Alone { refused: false };
            drop(waiter.answer.send(alone));
        }
    }

    pub(crate) fn reply_to(&self) -> &str {
        &self.reply_to
    }

    /// Where the answer to a call of this number goes.
    pub(super) fn address(&self, id: u64) -> Address<'_> {
        Address {
            reply_to: &self.reply_to,
            id,
            secret: &self.secret,
        }
    }

    /// The correlation id of a message of several calls.
    pub(super) fn several(&self, message: u64) -> Vec<u8> {
        CorrelationId::Several(message).write(&self.secret)
    }

    fn channel(&self) -> Arc<Channel> {
        Arc::clone(&lock(&self.channel))
    }

    fn hand_over(
        &self,
        message: &Outgoing,
        id: u64,
        leave: Flush,
    ) -> Result<(Arc<Channel>, WriteOffset), Error> {
        let channel = self.channel();
        let traits = Traits::of(message);
        // In the order in which messages are handed over, which is the broker's.
        let note = || {
            let place = self.sent.fetch_add(1, Ordering::Relaxed);
            let mut pending = self.pending();
            if let Some(waiter) = pending.as_mut().and_then(|all| all.get_mut(id)) {
                waiter.sent = Some(Sent { place, traits });
            }
            Ok(())
        };
        match channel.publish_recorded(message, leave, note) {
            Ok(mark) => Ok((channel, mark)),
            Err(error) => {
                self.closed.notify_one();
                Err(error)
            }
        }
    }

    /// Whether anybody waits for an answer.
    pub(crate) fn has_calls(&self) -> bool {
        self.pending().as_ref().is_some_and(|all| !all.is_empty())
    }

    fn blocked(&self) -> Option<String> {
        self.session.blocked().borrow().clone()
    }

    fn pending(&self) -> MutexGuard<'_, Option<Waiting>> {
        lock(&self.pending)
    }

    fn take(&self, id: u64) -> Option<Waiter> {
        let waiter = self.pending().as_mut()?.take(id);
        if waiter.is_some() {
            self.counters.pending_calls.remove();
        }
        waiter
    }

    fn answer(&self, id: u64, answer: Answer) {
        match self.take(id) {
            // A caller that went away a moment ago took its slot's receiver along.
            Some(waiter) => drop(waiter.answer.send(answer)),
            None => self.dropped(id.to_string().as_bytes()),
        }
    }

    /// A call is answered with the message that it was sent in, and with no other.
    fn answer_among(&self, message: u64, id: u64, answer: Answer) {
        let is_among = {
            let mut pending = self.pending();
            let waiter = pending.as_mut().and_then(|all| all.get_mut(id));
            waiter.is_some_and(|waiter| waiter.stage == Stage::Among(message))
        };
        if is_among {
            self.answer(id, answer);
        } else {
            self.dropped(id.to_string().as_bytes());
        }
    }

    fn dropped(&self, correlation_id: &[u8]) {
        self.counters.dropped_replies.add();
        let correlation_id = String::from_utf8_lossy(correlation_id);
        let correlation_id = Escaped(&*correlation_id);
        tracing::debug!(%correlation_id, "an answer nobody waits for");
    }

    fn correlation_id(&self, text: Option<&[u8]>) -> Option<CorrelationId> {
        CorrelationId::read(text.unwrap_or_default(), &self.secret)
    }

    /// All the calls that were sent in one message get the same answer.
    fn answer_all(&self, message: u64, answer: impl Fn() -> Answer) {
        let among = |waiter: &Waiter| waiter.stage == Stage::Among(message);
        let waiting = self.pending().as_mut().map(|all| all.take_all(among));
        for waiter in waiting.into_iter().flatten() {
            self.counters.pending_calls.remove();
            drop(waiter.answer.send(answer()));
        }
    }

    fn replied(&self, reply: Incoming) {
        let head = ReplyHead::from_properties(reply.properties);
        let to = head.correlation_id.as_deref();
        match (self.correlation_id(to), head.form) {
            (Some(CorrelationId::Several(message)), Form::Several) => {
                self.replied_to_several(message, &head, &reply.body);
            }
            // Of a server that has read none of the calls.
            (Some(CorrelationId::Several(message)), _) => {
                tracing::debug!(status = ?head.status, "calls go one by one");
                self.answer_all(message, || Answer::Alone { refused: true });
            }
            (Some(CorrelationId::One(id)), _) => {
                let reply = Replied {
                    status: head.status,
                    form: head.form,
                    content_type: head.content_type,
                    size: reply.size as usize,
                    body: reply.body,
                };
                self.answer(id, Answer::Reply(reply));
            }
            (None, _) => self.dropped(to.unwrap_or_default()),
        }
    }

    fn replied_to_several(&self, message: u64, head: &ReplyHead, body: &Bytes) {
        match batch::read_answers(body) {
            Ok(answers) => {
                for batch::Answer { id, status, body } in answers {
                    let reply = Replied {
                        status,
                        form: head.form,
                        content_type: head.content_type.clone(),
                        size: body.len(),
                        body,
                    };
                    self.answer_among(message, id, Answer::Reply(reply));
                }
            }
            // Its calls end at their deadlines: they may have been executed.
            Err(error) => {
                self.counters.dropped_replies.add();
                tracing::warn!(%error, "a message of replies cannot be read");
            }
        }
    }

    fn returned(&self, to: Option<&[u8]>) {
        match self.correlation_id(to) {
            Some(CorrelationId::One(id)) => self.answer(id, Answer::Returned),
            Some(CorrelationId::Several(message)) => self.answer_all(message, || Answer::Returned),
            None => self.dropped(to.unwrap_or_default()),
        }
    }

    /// The broker has closed the channel for requests over one of them. It has taken those before
    /// that one, whose answers may still come, and none of those after it.
    fn refused(&self, reason: &Error) {
        let mut answers = Vec::new();
        {
            let mut pending = self.pending();
            let Some(pending) = pending.as_mut() else {
                return;
            };
            let guilty = pending
                .iter()
                .filter_map(|(_, waiter)| waiter.sent)
                .filter(|sent| sent.traits.are_refused_by(reason))
                .map(|sent| sent.place)
                .min();
            let places: HashMap<u64, u64> = pending
                .iter()
                .filter_map(|(id, waiter)| Some((id, waiter.sent?.place)))
                .collect();
            let answer_to = |id: u64, waiter: &Waiter| {
                let (message, is_alone) = match waiter.stage {
                    Stage::Waiting => return None,
                    Stage::Alone => (id, true),
                    Stage::Among(message) => (message, false),
                };
                // A message whose first call has gone has no place: nothing is known of it.
                let order = match (places.get(&message), guilty) {
                    (Some(place), Some(guilty)) => Some(place.cmp(&guilty)),
                    _ => None,
                };
                match order {
                    Some(std::cmp::Ordering::Less) => None,
                    Some(std::cmp::Ordering::Equal) if is_alone => {
                        Some(Answer::Refused(reason.clone()))
                    }
                    // By itself it may be taken, and if not, it is told so.
                    Some(_) => Some(Answer::Alone { refused: false }),
                    None => Some(Answer::Lost(reason.clone())),
                }
            };
            let told: Vec<(u64, Answer)> = pending
                .iter()
                .filter_map(|(id, waiter)| Some((id, answer_to(id, waiter)?)))
                .collect();
            for (id, answer) in told {
                answers.extend(pending.take(id).map(|waiter| (waiter, answer)));
            }
        }
        for (waiter, answer) in answers {
            self.counters.pending_calls.remove();
            drop(waiter.answer.send(answer));
        }
    }

    fn fail_all(&self, reason: &Error) {
        let waiting = self.pending().take();
        for waiter in waiting.into_iter().flat_map(Pending::into_all) {
            self.counters.pending_calls.remove();
            drop(waiter.answer.send(Answer::Lost(reason.clone())));
        }
    }

    /// Has a channel for requests there, for as long as the session lives.
    async fn keep_lane(self: &Arc<Self>) {
        loop {
            let channel = self.channel();
            if channel.is_open() {
                self.closed.notified().await;
            } else if !self.session.is_up() {
                return;
            } else {
                match Channel::open(&self.session).await {
                    Ok(fresh) => {
                        fresh.set_handler(Arc::new(Returns(Arc::downgrade(self))));
                        *lock(&self.channel) = fresh;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no channel for requests yet");
                        tokio::time::sleep(NEXT_TRY).await;
                    }
                }
            }
        }
    }
}

impl Slot {
    pub(crate) fn address(&self) -> Address<'_> {
        self.station.address(self.id)
    }

    /// Whether it is still to be sent.
    pub(crate) fn is_waiting(&self) -> bool {
        let mut pending = self.station.pending();
        let waiter = pending.as_mut().and_then(|all| all.get_mut(self.id));
        waiter.is_some_and(|waiter| waiter.stage == Stage::Waiting)
    }

    /// The answer. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Answer::Lost(Error::new(Kind::Disconnected)),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The receiver first, so that an answer on its way finds nobody instead of being taken
        // out and lost uncounted.
        self.answer.close();
        self.station.take(self.id);
    }
}

/// Keeps a station up.
struct Keeper {
    link: Link,
    namespace: Namespace,
    backoff: RetryPolicy,
    max_message: usize,
    counters: Arc<Counters>,
}

impl Keeper {
    async fn run(self, stations: watch::Sender<Option<Arc<Station>>>) {
        let mut failures = 0;
        loop {
            let Ok(session) = self.link.session().await else {
                return;
            };
            match self.set_up(&session).await {
                Ok((station, replies)) => {
                    failures = 0;
                    let _manned = Manned {
                        station: Arc::clone(&station),
                        stations: &stations,
                    };
                    tracing::debug!(queue = station.reply_to, "replies are awaited");
                    stations.send_replace(Some(Arc::clone(&station)));
                    let reason = serve(&station, replies).await;
                    stations.send_replace(None);
                    station.fail_all(&reason);
                }
                Err(error) if error.is_closed() => return,
                // The session went under it; the next one is waited for above.
                Err(error) if error.is_disconnected() => {}
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "no reply queue, trying again");
                    tokio::time::sleep(self.backoff.jittered(failures, random::fraction())).await;
                }
            }
        }
    }

    async fn set_up(&self, session: &Arc<Session>) -> Result<(Arc<Station>, Consumer), Error> {
        // A fresh name each generation: the broker may not have noticed yet that the owner of the
        // last one is gone, and server-named queues cannot be told apart from the outside.
        let name = Name::parse(format!("lepus.reply.{}", random::identity()))?;
        let reply_to = self.namespace.scope(name.as_str());
        let topology = Topology::queue(Queue::exclusive(name));
        link::declare(session, &topology, &self.namespace).await?;
        let channel = Channel::open(session).await?;
        let station = Arc::new(Station {
            session: Arc::clone(session),
            channel: Mutex::new(Arc::clone(&channel)),
            reply_to: reply_to.clone(),
            secret: Secret::new(),
            pending: Mutex::new(Some(Pending::default())),
            rush: BurstDetector::default(),
            sent: AtomicU64::new(0),
            closed: Notify::new(),
            counters: Arc::clone(&self.counters),
        });
        channel.set_handler(Arc::new(Returns(Arc::downgrade(&station))));
        let consuming = Channel::open(session).await?;
        consuming.limit_bodies(self.max_message);
        // Not the station itself: its channel is not to be kept by the channel of its replies.
        let to = Arc::downgrade(&station);
        let sink: DeliveryCallback = Arc::new(move |reply| {
            if let Some(station) = to.upgrade() {
                station.replied(reply.message);
            }
        });
        let replies = Consumer::start(&consuming, &reply_to, ConsumeMode::NoAck(sink)).await?;
        Ok((station, replies))
    }
}

/// What comes back on a channel for requests, on its way to their station.
struct Returns(Weak<Station>);

impl ChannelHandler for Returns {
    fn on_event(&self, word: ChannelEvent) {
        let Some(station) = self.0.upgrade() else {
            return;
        };
        match word {
            ChannelEvent::Returned(message) => {
                station.returned(message.properties.correlation_id.as_deref());
            }
            ChannelEvent::Closed(reason) => {
                tracing::debug!(%reason, "the channel for requests was closed");
                station.closed.notify_one();
                // The end of the session is told to all calls elsewhere.
                if reason.amqp_code().is_some() {
                    station.refused(&reason);
                }
            }
            ChannelEvent::Confirmed(_) | ChannelEvent::Delivered(_) | ChannelEvent::Cancelled => {}
        }
    }
}

/// A station whose replies are read. The runtime may end under its reader, while calls wait on
/// another one.
struct Manned<'a> {
    station: Arc<Station>,
    stations: &'a watch::Sender<Option<Arc<Station>>>,
}

impl Drop for Manned<'_> {
    fn drop(&mut self) {
        self.stations.send_replace(None);
        self.station.fail_all(&Error::new(Kind::Closed));
    }
}

/// Keeps a station's channels until no more replies can come; then says why. The replies themselves
/// are given out on the I/O task.
async fn serve(station: &Arc<Station>, mut replies: Consumer) -> Error {
    let keeping = station.keep_lane();
    let reading = async {
        loop {
            match replies.next().await {
                // Replies are not settled: they do not come this way.
                Ok(_) => {}
                Err(ConsumerEnd::Cancelled) => {
                    return Error::new(Kind::Disconnected).caused_by("the reply queue was deleted");
                }
                Err(ConsumerEnd::Lost(error)) => {
                    let lost = Error::new(Kind::Disconnected);
                    return if error.is_disconnected() {
                        error
                    } else {
                        lost.caused_by(error)
                    };
                }
            }
        }
    };
    tokio::pin!(keeping, reading);
    tokio::select! {
        reason = &mut reading => reason,
        // It ends only with the session, and so does the reader.
        () = &mut keeping => reading.await,
    }
}
