//! The channels of one connection by their numbers.
//!
//! Two locks are taken in this order only: the write buffer's, then a channel's core. Whatever
//! writes holds both, so that the state of a channel and the frames on it are changed together; a
//! frame that is read needs the core alone, and both when it is due to be answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use amq_protocol::protocol::AMQPClass;
use bytes::BytesMut;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use super::core::{Answer, Core, CoreEvent, Delivery, Frame, Returned, Violation, closed};
use crate::error::{Error, Kind};
use crate::link::frame::SettleMethod;
use crate::link::frame::decode::Confirm;
use crate::link::socket::{Flush, WriteMux, WriteOffset};
use crate::stats::Counters;
use crate::sync::lock;

/// How long the number of a channel that the broker has closed is not used again, so that what it
/// still says of that channel is not heard as said of another one. RabbitMQ may confirm and deliver
/// after its `channel.close`, in what it has written a moment later.
const REST: Duration = Duration::from_millis(200);

/// Something that the broker said on a channel.
#[derive(Debug)]
pub(crate) enum ChannelEvent {
    /// The outcome of publishes (`basic.ack`, `basic.nack`).
    Confirmed(Confirm),
    Delivered(Box<Delivery>),
    Returned(Box<Returned>),
    /// The consumer was cancelled by the broker.
    Cancelled,
    /// The channel is closed: by the broker, or with the connection.
    Closed(Error),
}

/// Receives a channel's events, mostly on the I/O task and always without a lock held. Must not
/// block.
pub(crate) trait ChannelHandler: Send + Sync {
    fn on_event(&self, event: ChannelEvent);
}

/// The owner of a synchronous method's answer.
pub(in crate::link) type Reply = oneshot::Sender<Result<Answer, Error>>;

type PendingAnswer = oneshot::Receiver<Result<Answer, Error>>;

/// All channels of one connection.
#[derive(Clone)]
pub(in crate::link) struct Channels {
    shared: Arc<Shared>,
}

struct Shared {
    mux: WriteMux,
    table: Mutex<Table>,
    /// A number has become free.
    freed: Notify,
}

#[derive(Default)]
struct Table {
    endpoints: BTreeMap<u16, Arc<Endpoint>>,
    /// The number that was given out last.
    last: u16,
    /// Numbers that are not used yet, and until when, in this order.
    resting: BTreeSet<u16>,
    rests: VecDeque<(Instant, u16)>,
    /// Why the connection is gone, once it is.
    lost: Option<Error>,
}

/// How far the opening of a channel has come.
enum Begun {
    Opening(Handle, PendingAnswer),
    /// All numbers are in use or rest, one of them until then.
    Resting(Instant),
    /// All numbers are in use, one of them not much longer.
    Closing,
}

/// One channel as the table knows it.
pub(in crate::link) struct Endpoint {
    number: u16,
    core: Mutex<Core<Reply>>,
    handler: OnceLock<Arc<dyn ChannelHandler>>,
    /// A copy of the core's state, to be read without its lock.
    is_open: AtomicBool,
    /// Our close was asked for: the number will be free soon.
    is_closing: AtomicBool,
}

impl Channels {
    pub(in crate::link) fn new(mux: WriteMux) -> Self {
        Self {
            shared: Arc::new(Shared {
                mux,
                table: Mutex::default(),
                freed: Notify::new(),
            }),
        }
    }

    pub(in crate::link) fn get(&self, number: u16) -> Option<Arc<Endpoint>> {
        self.table().endpoints.get(&number).cloned()
    }

    /// Opens a channel (`channel.open`). Dropped before its end, the channel is closed again.
    ///
    /// # Errors
    /// All numbers up to `channel_max` are in use, or the connection is gone.
    pub(in crate::link) async fn open(&self, counters: &Arc<Counters>) -> Result<Handle, Error> {
        let agreed = self.shared.mux.agreed();
        let (most, frame_max) = agreed.map_or((0, 0), |tune| (tune.channel_max, tune.frame_max));
        loop {
            let freed = self.shared.freed.notified();
            match self.begin(most, frame_max, counters)? {
                Begun::Opening(handle, answer) => {
                    handle.ask(Flush::Inline, |_, _| Ok(()))?;
                    answered(answer).await?;
                    return Ok(handle);
                }
                Begun::Resting(until) => drop(timeout_at(until, freed).await),
                Begun::Closing => freed.await,
            }
        }
    }

    /// Gives a channel a number, or tells what it has to wait for.
    fn begin(&self, most: u16, frame_max: u32, counters: &Arc<Counters>) -> Result<Begun, Error> {
        let mut table = self.table();
        if let Some(reason) = &table.lost {
            return Err(reason.clone());
        }
        let Some(number) = table.free_number(most, Instant::now()) else {
            if let Some((until, _)) = table.rests.front() {
                return Ok(Begun::Resting(*until));
            }
            let mut endpoints = table.endpoints.values();
            if endpoints.any(|endpoint| endpoint.is_closing.load(Ordering::Relaxed)) {
                return Ok(Begun::Closing);
            }
            let text = format!("the connection has no channel left (channel_max is {most})");
            return Err(Error::invalid(text));
        };
        let (reply, answer) = oneshot::channel();
        let endpoint = Arc::new(Endpoint {
            number,
            core: Mutex::new(Core::open(number, frame_max, reply)),
            handler: OnceLock::new(),
            is_open: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        });
        table.endpoints.insert(number, Arc::clone(&endpoint));
        drop(table);
        counters.channels.add();
        let handle = Handle {
            channels: self.clone(),
            endpoint,
            counters: Arc::clone(counters),
        };
        Ok(Begun::Opening(handle, answer))
    }

    /// Takes a frame of the broker, on the I/O task. `events` is empty before and after: it is kept by
    /// the caller so that not every frame allocates one.
    ///
    /// # Errors
    /// The broker has broken the protocol.
    pub(in crate::link) fn handle(
        &self,
        endpoint: &Endpoint,
        frame: Frame<'_>,
        events: &mut Vec<CoreEvent<Reply>>,
    ) -> Result<(), Violation> {
        let mut core = endpoint.core();
        let handled = core.handle(frame, events);
        let has_output = core.has_output();
        endpoint.is_open.store(core.is_open(), Ordering::Relaxed);
        let is_free = core.is_free();
        drop(core);
        if has_output {
            // A connection that is over answers nothing any more.
            let _ = self.shared.mux.put(Flush::Inline, |out| {
                endpoint.core().flush(out);
                Ok(())
            });
        }
        // After its close-ok was appended: a new channel's open is behind it.
        if is_free || (has_output && endpoint.core().is_free()) {
            self.free(endpoint);
        }
        self.tell(endpoint, events);
        handled
    }

    /// The connection is gone: every channel is closed for this reason.
    pub(in crate::link) fn lose(&self, reason: &Error) {
        let mut table = self.table();
        table.lost.get_or_insert_with(|| reason.clone());
        let endpoints = std::mem::take(&mut table.endpoints);
        drop(table);
        for endpoint in endpoints.into_values() {
            let mut events = Vec::new();
            endpoint.core().lose(reason, &mut events);
            endpoint.is_open.store(false, Ordering::Relaxed);
            self.tell(&endpoint, &mut events);
        }
        self.shared.freed.notify_waiters();
    }

    fn free(&self, endpoint: &Endpoint) {
        let may_have_echo = endpoint.core().may_have_echo();
        let mut table = self.table();
        let is_own = table
            .endpoints
            .get(&endpoint.number)
            .is_some_and(|found| std::ptr::eq(&**found, endpoint));
        let removed = if is_own {
            if may_have_echo {
                table.rest(endpoint.number, Instant::now() + REST);
            }
            table.endpoints.remove(&endpoint.number)
        } else {
            None
        };
        drop(table);
        if removed.is_some() {
            self.shared.freed.notify_waiters();
        }
    }

    fn tell(&self, endpoint: &Endpoint, events: &mut Vec<CoreEvent<Reply>>) {
        for event in events.drain(..) {
            let event = match event {
                CoreEvent::Answered(reply, answer) => {
                    if let Err(Ok(Answer::Got(Some(delivery)))) = reply.send(answer) {
                        self.requeue(endpoint, delivery.tag);
                    }
                    continue;
                }
                CoreEvent::Confirmed(confirm) => ChannelEvent::Confirmed(confirm),
                CoreEvent::Delivered(delivery) => ChannelEvent::Delivered(delivery),
                CoreEvent::Returned(returned) => ChannelEvent::Returned(returned),
                CoreEvent::Cancelled => ChannelEvent::Cancelled,
                CoreEvent::Closed(reason) => ChannelEvent::Closed(reason),
            };
            match endpoint.handler.get() {
                Some(handler) => handler.on_event(event),
                None => tracing::debug!(
                    channel = endpoint.number,
                    ?event,
                    "an event of a channel that nobody listens to"
                ),
            }
        }
    }

    /// Gives a message back that was fetched for somebody who is gone.
    fn requeue(&self, endpoint: &Endpoint, tag: u64) {
        let put = self.shared.mux.put(Flush::Inline, |out| {
            endpoint.core().settle(out, tag, SettleMethod::Requeue)
        });
        if let Err(error) = put {
            // The broker takes it back with the channel.
            tracing::debug!(%error, "a fetched message goes back with its channel");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.shared.table)
    }
}

impl Table {
    /// The next free number, 1 to `most`. Numbers are used in turn.
    fn free_number(&mut self, most: u16, now: Instant) -> Option<u16> {
        while let Some((until, number)) = self.rests.front().copied()
            && until <= now
        {
            self.rests.pop_front();
            self.resting.remove(&number);
        }
        let next = self.last.checked_add(1).into_iter();
        let after = next.flat_map(|next| next..=most);
        let after = after.chain(1..=self.last.min(most));
        let number = after.into_iter().find(|number| {
            !self.endpoints.contains_key(number) && !self.resting.contains(number)
        })?;
        self.last = number;
        Some(number)
    }

    /// Has a number that is about to be free not used until then.
    fn rest(&mut self, number: u16, until: Instant) {
        self.resting.insert(number);
        self.rests.push_back((until, number));
    }
}

impl Endpoint {
    fn core(&self) -> MutexGuard<'_, Core<Reply>> {
        lock(&self.core)
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// An open channel. Dropping it closes the channel (`channel.close`); deliveries that were not
/// settled go back to their queue then.
#[derive(Debug)]
pub(in crate::link) struct Handle {
    channels: Channels,
    endpoint: Arc<Endpoint>,
    counters: Arc<Counters>,
}

impl Handle {
    /// Registers the receiver of the channel's events. There is one, registered before anything is
    /// published or consumed.
    pub(in crate::link) fn set_handler(&self, handler: Arc<dyn ChannelHandler>) {
        self.endpoint.handler.get_or_init(|| handler);
    }

    pub(in crate::link) fn is_open(&self) -> bool {
        self.endpoint.is_open.load(Ordering::Relaxed)
    }

    pub(in crate::link) fn limit_bodies(&self, most: u64) {
        self.endpoint.core().limit_bodies(most);
    }

    /// Does something with the core under both locks and writes what is due.
    ///
    /// # Errors
    /// The connection is over, or what `act` says; nothing was written then.
    pub(in crate::link) fn ask(
        &self,
        leave: Flush,
        act: impl FnOnce(&mut Core<Reply>, &mut BytesMut) -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        self.channels.shared.mux.put(leave, |out| {
            let mut core = self.endpoint.core();
            act(&mut core, out)?;
            core.flush(out);
            Ok(())
        })
    }

    /// Calls a synchronous method and waits for its answer. Dropped before that, the method is
    /// still executed.
    ///
    /// # Errors
    /// The broker has closed the channel over it, with its reason; or the channel or the connection
    /// is gone.
    pub(in crate::link) async fn call(&self, method: AMQPClass) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Flush::Inline, |core, _| core.call(&method, reply))?;
        answered(answer).await
    }

    /// Closes the channel and waits until that is done.
    pub(in crate::link) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        self.begin_close(Some(reply));
        if let Err(error) = answered(answer).await {
            tracing::debug!(%error, "a channel was gone before it was closed");
        }
    }

    fn begin_close(&self, reply: Option<Reply>) {
        self.endpoint.is_closing.store(true, Ordering::Relaxed);
        let mut events = Vec::new();
        let put = self.ask(Flush::Inline, |core, _| {
            core.close(reply, &mut events);
            self.endpoint.is_open.store(false, Ordering::Relaxed);
            Ok(())
        });
        // Over a connection that is gone, the channel is gone as well.
        drop(put);
        self.channels.tell(&self.endpoint, &mut events);
        self.channels.shared.freed.notify_waiters();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.counters.channels.remove();
        self.begin_close(None);
    }
}

async fn answered(answer: PendingAnswer) -> Result<Answer, Error> {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Err(closed()),
    }
}

/// An answer that the state machine cannot give to this method.
pub(in crate::link) fn unexpected() -> Error {
    Error::new(Kind::Disconnected).caused_by("an answer of another method")
}

#[cfg(test)]
mod tests;
