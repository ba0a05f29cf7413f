//! Channel table: the open channels of one connection by number, and the numbers that may be used.
//!
//! Lock order: the lock of the write buffer is taken before the lock of a channel's core, never the
//! other way round. An operation that appends frames holds both, so that a channel changes its state
//! and appends the frames of that change in one step. In particular, nothing can be appended for a
//! channel after its `channel.close` or `channel.close-ok`. A frame from the broker needs only the
//! lock of the core; if it makes a reply due, that lock is released and both are taken in order.
//!
//! The lock of the table itself is never held while one of these two is taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use amq_protocol::protocol::AMQPClass;
use bytes::BytesMut;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant, timeout_at};

use super::core::{
    Core, CoreEvent, Delivery, Frame, MethodReply, Returned, Violation, channel_closed,
};
use crate::error::{Error, ErrorKind};
use crate::link::frame::SettleMethod;
use crate::link::frame::decode::Confirm;
use crate::link::socket::{Flush, WriteMux, WriteOffset};
use crate::stats::Counters;
use crate::sync::lock;

/// The time for which the number of a channel that the broker has closed is not used again.
///
/// RabbitMQ may send confirms and deliveries of a channel shortly after its `channel.close` (observed
/// on 3.10.8). A new channel on the same number would take them for its own.
const REUSE_DELAY: Duration = Duration::from_millis(200);

/// An event of a channel that is not the reply to a call.
#[derive(Debug)]
pub(crate) enum ChannelEvent {
    /// A publisher confirm (`basic.ack`, `basic.nack`).
    Confirmed(Confirm),
    /// A message for a consumer (`basic.deliver`).
    Delivered(Box<Delivery>),
    /// A mandatory message that matched no queue (`basic.return`).
    Returned(Box<Returned>),
    /// The broker has cancelled the consumer (`basic.cancel`).
    Cancelled,
    /// The broker has closed the channel, or the connection is lost.
    Closed(Error),
}

/// Receives a channel's events. It is called without a lock held, on the I/O task, so it must not block.
/// [`Closed`](ChannelEvent::Closed) because of the loss or the close of the session is told by the thread that
/// notices it.
pub(crate) trait ChannelHandler: Send + Sync {
    fn on_event(&self, event: ChannelEvent);
}

/// Completes a call with its reply. The token of the channel cores ([`Core`]).
pub(in crate::link) type MethodReplySender = oneshot::Sender<Result<MethodReply, Error>>;

type ReplyReceiver = oneshot::Receiver<Result<MethodReply, Error>>;

/// All channels of one connection.
#[derive(Clone)]
pub(in crate::link) struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    mux: WriteMux,
    table: Mutex<ChannelTable>,
    /// Wakes the calls of [`Channels::open`] that wait for a channel number.
    number_freed: Notify,
}

#[derive(Default)]
struct ChannelTable {
    entries: BTreeMap<u16, Arc<ChannelEntry>>,
    /// The number that was used last.
    last: u16,
    /// Numbers that are not used before the end of their [`REUSE_DELAY`].
    delayed: BTreeSet<u16>,
    /// The same numbers with the ends of their delays, the earliest first.
    delays: VecDeque<(Instant, u16)>,
    /// The reason why the connection was lost, once it is.
    lost: Option<Error>,
}

/// The result of one attempt to find a number for a new channel.
enum OpenAttempt {
    Opening(ChannelHandle, ReplyReceiver),
    /// No number is free. The first delayed one becomes free at this instant.
    NumberDelayed(Instant),
    /// No number is free, but a channel is being closed, and its number becomes free soon.
    NumberClosing,
}

/// One channel in the table.
pub(in crate::link) struct ChannelEntry {
    number: u16,
    core: Mutex<Core<MethodReplySender>>,
    handler: OnceLock<Arc<dyn ChannelHandler>>,
    /// A copy of [`Core::is_open`] that can be read without the lock.
    is_open: AtomicBool,
    /// We have closed the channel, so its number becomes free when the broker answers.
    is_closing: AtomicBool,
}

impl Channels {
    pub(in crate::link) fn new(mux: WriteMux) -> Self {
        Self {
            inner: Arc::new(Inner {
                mux,
                table: Mutex::default(),
                number_freed: Notify::new(),
            }),
        }
    }

    pub(in crate::link) fn get(&self, number: u16) -> Option<Arc<ChannelEntry>> {
        self.table().entries.get(&number).cloned()
    }

    /// Opens a channel (`channel.open`). If the future is dropped, the channel is closed again.
    ///
    /// # Errors
    /// All numbers up to `channel_max` are in use, or the connection is lost.
    pub(in crate::link) async fn open(
        &self,
        counters: &Arc<Counters>,
    ) -> Result<ChannelHandle, Error> {
        let agreed = self.inner.mux.negotiated();
        let (channel_max, frame_max) =
            agreed.map_or((0, 0), |tune| (tune.channel_max, tune.frame_max));
        loop {
            // Created before the table is looked at, so that no wake-up in between is missed.
            let number_freed = self.inner.number_freed.notified();
            match self.try_open(channel_max, frame_max, counters)? {
                OpenAttempt::Opening(handle, reply) => {
                    // Appends `channel.open`, which is due.
                    handle.append(Flush::Inline, |_, _| Ok(()))?;
                    wait_for_reply(reply).await?;
                    return Ok(handle);
                }
                OpenAttempt::NumberDelayed(until) => drop(timeout_at(until, number_freed).await),
                OpenAttempt::NumberClosing => number_freed.await,
            }
        }
    }

    /// Adds a channel to the table, or tells what to wait for.
    fn try_open(
        &self,
        channel_max: u16,
        frame_max: u32,
        counters: &Arc<Counters>,
    ) -> Result<OpenAttempt, Error> {
        let mut table = self.table();
        if let Some(reason) = &table.lost {
            return Err(reason.clone());
        }
        let Some(number) = table.next_number(channel_max, Instant::now()) else {
            if let Some((until, _)) = table.delays.front() {
                return Ok(OpenAttempt::NumberDelayed(*until));
            }
            let mut entries = table.entries.values();
            if entries.any(|entry| entry.is_closing.load(Ordering::Relaxed)) {
                return Ok(OpenAttempt::NumberClosing);
            }
            let text = format!("the connection has no channel left (channel_max is {channel_max})");
            return Err(Error::invalid(text));
        };
        let (sender, reply) = oneshot::channel();
        let entry = Arc::new(ChannelEntry {
            number,
            core: Mutex::new(Core::open(number, frame_max, sender)),
            handler: OnceLock::new(),
            is_open: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        });
        table.entries.insert(number, Arc::clone(&entry));
        drop(table);
        counters.channels.add();
        let handle = ChannelHandle {
            channels: self.clone(),
            entry,
            counters: Arc::clone(counters),
        };
        Ok(OpenAttempt::Opening(handle, reply))
    }

    /// Handles a frame from the broker, on the I/O task. `events` is empty before and after the call;
    /// the caller keeps it so that not every frame allocates a vector.
    ///
    /// # Errors
    /// The broker has violated the protocol.
    pub(in crate::link) fn handle(
        &self,
        entry: &ChannelEntry,
        frame: Frame<'_>,
        events: &mut Vec<CoreEvent<MethodReplySender>>,
    ) -> Result<(), Violation> {
        let mut core = entry.core();
        let handled = core.handle(frame, events);
        let has_output = core.has_output();
        entry.is_open.store(core.is_open(), Ordering::Relaxed);
        let is_free = core.is_free();
        drop(core);
        if has_output {
            // Fails only if the connection is closed, when no reply is needed.
            let _ = self.inner.mux.append(Flush::Inline, |out| {
                entry.core().flush(out);
                Ok(())
            });
        }
        // Only after `channel.close-ok` was appended: the `channel.open` of a new channel on the same
        // number has to be behind it.
        if is_free || (has_output && entry.core().is_free()) {
            self.release(entry);
        }
        self.dispatch(entry, events);
        handled
    }

    /// Closes every channel because the connection is lost.
    pub(in crate::link) fn connection_lost(&self, reason: &Error) {
        let mut table = self.table();
        table.lost.get_or_insert_with(|| reason.clone());
        let entries = std::mem::take(&mut table.entries);
        drop(table);
        for entry in entries.into_values() {
            let mut events = Vec::new();
            entry.core().connection_lost(reason, &mut events);
            entry.is_open.store(false, Ordering::Relaxed);
            self.dispatch(&entry, &mut events);
        }
        self.inner.number_freed.notify_waiters();
    }

    /// Removes a closed channel and makes its number available, after a delay if late frames may
    /// arrive.
    fn release(&self, entry: &ChannelEntry) {
        let may_receive_late_frames = entry.core().may_receive_late_frames();
        let mut table = self.table();
        // Another channel may have the number by now: this can be called again for a late frame.
        let is_own = table
            .entries
            .get(&entry.number)
            .is_some_and(|found| std::ptr::eq(&**found, entry));
        let removed = if is_own {
            if may_receive_late_frames {
                table.delay_reuse(entry.number, Instant::now() + REUSE_DELAY);
            }
            table.entries.remove(&entry.number)
        } else {
            None
        };
        drop(table);
        if removed.is_some() {
            self.inner.number_freed.notify_waiters();
        }
    }

    /// Passes events to the callers and to the channel's handler. Called without a lock held.
    fn dispatch(&self, entry: &ChannelEntry, events: &mut Vec<CoreEvent<MethodReplySender>>) {
        for event in events.drain(..) {
            let event = match event {
                CoreEvent::Replied(caller, reply) => {
                    // The caller of `basic.get` is gone: its message must not stay unsettled.
                    if let Err(Ok(MethodReply::Got(Some(delivery)))) = caller.send(reply) {
                        self.requeue(entry, delivery.tag);
                    }
                    continue;
                }
                CoreEvent::Confirmed(confirm) => ChannelEvent::Confirmed(confirm),
                CoreEvent::Delivered(delivery) => ChannelEvent::Delivered(delivery),
                CoreEvent::Returned(returned) => ChannelEvent::Returned(returned),
                CoreEvent::Cancelled => ChannelEvent::Cancelled,
                CoreEvent::Closed(reason) => ChannelEvent::Closed(reason),
            };
            match entry.handler.get() {
                Some(handler) => handler.on_event(event),
                None => tracing::debug!(
                    channel = entry.number,
                    ?event,
                    "event for a channel without a handler, ignored"
                ),
            }
        }
    }

    /// Requeues a fetched message whose caller is gone.
    fn requeue(&self, entry: &ChannelEntry, tag: u64) {
        let appended = self.inner.mux.append(Flush::Inline, |out| {
            entry.core().settle(out, tag, SettleMethod::Requeue)
        });
        if let Err(error) = appended {
            // The broker requeues it as the channel closes.
            tracing::debug!(%error, tag, "fetched message not requeued: its channel is closed");
        }
    }

    fn table(&self) -> MutexGuard<'_, ChannelTable> {
        lock(&self.inner.table)
    }
}

impl ChannelTable {
    /// The next number that may be used, from 1 to `channel_max`. Numbers are used in turn, so that the
    /// one that became free last is used last.
    fn next_number(&mut self, channel_max: u16, now: Instant) -> Option<u16> {
        while let Some((until, number)) = self.delays.front().copied()
            && until <= now
        {
            self.delays.pop_front();
            self.delayed.remove(&number);
        }
        let next = self.last.checked_add(1).into_iter();
        let after = next.flat_map(|next| next..=channel_max);
        let after = after.chain(1..=self.last.min(channel_max));
        let number = after
            .into_iter()
            .find(|number| !self.entries.contains_key(number) && !self.delayed.contains(number))?;
        self.last = number;
        Some(number)
    }

    /// Keeps a number from being used before `until`. Called with growing instants.
    fn delay_reuse(&mut self, number: u16, until: Instant) {
        self.delayed.insert(number);
        self.delays.push_back((until, number));
    }
}

impl ChannelEntry {
    fn core(&self) -> MutexGuard<'_, Core<MethodReplySender>> {
        lock(&self.core)
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

impl fmt::Debug for ChannelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelEntry")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// The owner's handle of an open channel. Dropping it closes the channel (`channel.close`), and the
/// broker requeues the deliveries that were not settled.
#[derive(Debug)]
pub(in crate::link) struct ChannelHandle {
    channels: Channels,
    entry: Arc<ChannelEntry>,
    counters: Arc<Counters>,
}

impl ChannelHandle {
    /// Sets the handler of the channel's events, before anything is published or consumed. Only the
    /// first handler is kept.
    pub(in crate::link) fn set_handler(&self, handler: Arc<dyn ChannelHandler>) {
        self.entry.handler.get_or_init(|| handler);
    }

    pub(in crate::link) fn is_open(&self) -> bool {
        self.entry.is_open.load(Ordering::Relaxed)
    }

    /// See [`Core::limit_bodies`].
    pub(in crate::link) fn limit_bodies(&self, max: u64) {
        self.entry.core().limit_bodies(max);
    }

    /// Runs an operation on the core under both locks, and appends the frames that are due.
    ///
    /// # Errors
    /// The connection is closed, or `operation` fails. Nothing was appended.
    pub(in crate::link) fn append(
        &self,
        flush: Flush,
        operation: impl FnOnce(&mut Core<MethodReplySender>, &mut BytesMut) -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        self.channels.inner.mux.append(flush, |out| {
            let mut core = self.entry.core();
            operation(&mut core, out)?;
            core.flush(out);
            Ok(())
        })
    }

    /// Calls a synchronous method and waits for its reply. If the future is dropped, the broker still
    /// executes the method.
    ///
    /// # Errors
    /// The broker refused the method and closed the channel; or the channel or the connection was
    /// closed.
    pub(in crate::link) async fn call(&self, method: AMQPClass) -> Result<MethodReply, Error> {
        let (sender, reply) = oneshot::channel();
        self.append(Flush::Inline, |core, _| core.call(&method, sender))?;
        wait_for_reply(reply).await
    }

    /// Closes the channel and waits for the reply.
    pub(in crate::link) async fn close(&self) {
        let (sender, reply) = oneshot::channel();
        self.start_close(Some(sender));
        if let Err(error) = wait_for_reply(reply).await {
            tracing::debug!(%error, channel = self.entry.number, "channel was closed already");
        }
    }

    fn start_close(&self, caller: Option<MethodReplySender>) {
        self.entry.is_closing.store(true, Ordering::Relaxed);
        let mut events = Vec::new();
        let appended = self.append(Flush::Inline, |core, _| {
            core.close(caller, &mut events);
            self.entry.is_open.store(false, Ordering::Relaxed);
            Ok(())
        });
        // Fails only if the connection is closed, and the channel with it.
        drop(appended);
        self.channels.dispatch(&self.entry, &mut events);
        // The number is not free yet, but who waits may find out that it will be.
        self.channels.inner.number_freed.notify_waiters();
    }
}

impl Drop for ChannelHandle {
    fn drop(&mut self) {
        self.counters.channels.remove();
        self.start_close(None);
    }
}

async fn wait_for_reply(reply: ReplyReceiver) -> Result<MethodReply, Error> {
    match reply.await {
        Ok(reply) => reply,
        Err(_) => Err(channel_closed()),
    }
}

/// The error for a reply of the wrong kind. The state machine checks replies against their methods, so
/// it does not occur.
pub(in crate::link) fn unexpected_reply() -> Error {
    Error::new(ErrorKind::Disconnected).caused_by("the reply belongs to another method")
}

#[cfg(test)]
mod tests;
