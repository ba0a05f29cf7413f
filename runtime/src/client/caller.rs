//! The reply queue of a connection and the calls that wait on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::link::{
    self, Connection, Deliveries, Ended, Lane, Link, Mode, Namespace, Session, random,
};
use crate::message::{Incoming, Outgoing};
use crate::name::Name;
use crate::pending::Pending;
use crate::retry::RetryPolicy;
use crate::stats::Counters;
use crate::topology::{Queue, Topology};

/// Requests that came back are looked for this often while one may still come.
const EAGER: Duration = Duration::from_millis(5);
/// A broker that has not returned a request after this long most likely routed it.
const SETTLED: Duration = Duration::from_millis(250);
/// And this often while calls are in flight otherwise.
const LAZY: Duration = Duration::from_millis(100);

/// How a call in flight was answered.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer is the large one: a reply"
)]
pub(crate) enum Answer {
    Reply(Incoming),
    /// The broker had no queue for the request.
    Returned,
    /// No answer can come any more.
    Lost(Error),
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
    lane: Mutex<Arc<Lane>>,
    reply_to: String,
    /// `None` once no answer can come any more.
    pending: Mutex<Option<Waiting>>,
    /// The last publish, for the collector of returned requests.
    published: Mutex<Instant>,
    wake: Notify,
    counters: Arc<Counters>,
}

type Waiting = Pending<oneshot::Sender<Answer>>;

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
                counters: connection.counters(),
            };
            connection.tasks().spawn(keeper.run(sender));
            Self {
                station,
                identity: Uuid::new_v4().simple().to_string(),
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
                    if !station.session.is_blocked() {
                        return Ok(station);
                    }
                    station.unblocked().await;
                }
                _ => {
                    if stations.changed().await.is_err() {
                        return Err(Error::new(Kind::Closed));
                    }
                }
            }
        }
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
    pub(crate) fn register(self: &Arc<Self>) -> Option<Slot> {
        let (sender, answer) = oneshot::channel();
        let id = self.pending().as_mut()?.insert(sender);
        self.counters.pending_calls.add();
        Some(Slot {
            station: Arc::clone(self),
            id,
            answer,
        })
    }

    /// Hands a request over to be written.
    ///
    /// # Errors
    /// The channel is gone: the request was not sent.
    pub(crate) fn publish(&self, message: Outgoing) -> Result<(), Error> {
        let lane = Arc::clone(&self.lane.lock().unwrap_or_else(PoisonError::into_inner));
        let result = lane.publish_now(message);
        if result.is_ok() {
            *self
                .published
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        self.wake.notify_one();
        result
    }

    fn blocked(&self) -> Option<String> {
        self.session.blocked().borrow().clone()
    }

    async fn unblocked(&self) {
        let mut blocked = self.session.blocked();
        tokio::select! {
            _ = blocked.wait_for(Option::is_none) => {}
            _ = self.session.down() => {}
        }
    }

    fn pending(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Answer>> {
        let waiter = self.pending().as_mut()?.take(id);
        if waiter.is_some() {
            self.counters.pending_calls.remove();
        }
        waiter
    }

    fn answer(&self, correlation_id: Option<&str>, answer: Answer) {
        let id = correlation_id.and_then(|id| id.parse().ok());
        match id.and_then(|id| self.take(id)) {
            // A caller that went away a moment ago took its slot's receiver along.
            Some(waiter) => drop(waiter.send(answer)),
            None => {
                self.counters.dropped_replies.add();
                tracing::debug!(correlation_id, "an answer nobody waits for");
            }
        }
    }

    fn fail_all(&self, reason: &Error) {
        let waiting = self.pending().take();
        for waiter in waiting.into_iter().flat_map(Pending::into_all) {
            self.counters.pending_calls.remove();
            drop(waiter.send(Answer::Lost(reason.clone())));
        }
    }

    /// Collects requests that came back, while there are calls in flight. A channel without
    /// confirms gives every returned message exactly once, with its own properties.
    async fn collect_returns(&self) {
        loop {
            let lane = Arc::clone(&self.lane.lock().unwrap_or_else(PoisonError::into_inner));
            if !lane.is_open() {
                if !self.session.is_up() {
                    return;
                }
                match Lane::open(&self.session).await {
                    Ok(fresh) => {
                        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no channel for requests yet");
                        tokio::time::sleep(LAZY).await;
                    }
                }
                continue;
            }
            if let Ok(returned) = lane.returned().await {
                for message in returned {
                    self.answer(
                        message.properties.correlation_id.as_deref(),
                        Answer::Returned,
                    );
                }
            }
            if self.pending().as_ref().is_none_or(Pending::is_empty) {
                self.wake.notified().await;
                continue;
            }
            let age = self
                .published
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed();
            if age < SETTLED {
                tokio::time::sleep(EAGER).await;
            } else {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(LAZY) => {}
                }
            }
        }
    }
}

impl Slot {
    pub(crate) fn reply_to(&self) -> &str {
        &self.station.reply_to
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
                    let station = Arc::new(station);
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
                    tokio::time::sleep(self.backoff.jittered(failures, random())).await;
                }
            }
        }
    }

    async fn set_up(&self, session: &Arc<Session>) -> Result<(Station, Deliveries), Error> {
        // A fresh name each generation: the broker may not have noticed yet that the owner of the
        // last one is gone, and server-named queues cannot be told apart from the outside.
        let name = Name::parse(format!("lepus.reply.{}", Uuid::new_v4().simple()))?;
        let reply_to = self.namespace.scope(name.as_str());
        let topology = Topology::queue(Queue::exclusive(name));
        link::declare(session, &topology, &self.namespace).await?;
        let replies =
            Deliveries::start(&Lane::open(session).await?, &reply_to, Mode::NoAck).await?;
        let station = Station {
            session: Arc::clone(session),
            lane: Mutex::new(Lane::open(session).await?),
            reply_to,
            pending: Mutex::new(Some(Pending::default())),
            published: Mutex::new(Instant::now()),
            wake: Notify::new(),
            counters: Arc::clone(&self.counters),
        };
        Ok((station, replies))
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

/// Gives out replies until no more can come; then says why.
async fn serve(station: &Arc<Station>, mut replies: Deliveries) -> Error {
    let collecting = station.collect_returns();
    let reading = async {
        loop {
            match replies.next().await {
                Ok(reply) => {
                    let id = reply.message.properties.correlation_id.clone();
                    station.answer(id.as_deref(), Answer::Reply(reply.message));
                }
                Err(Ended::Cancelled) => {
                    return Error::new(Kind::Disconnected).caused_by("the reply queue was deleted");
                }
                Err(Ended::Lost(error)) => {
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
    tokio::pin!(collecting, reading);
    tokio::select! {
        reason = &mut reading => reason,
        // It ends only with the session, and so does the reader.
        () = &mut collecting => reading.await,
    }
}
