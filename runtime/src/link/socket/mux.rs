//! Write multiplexer: interleaves two writers on one socket, lapin (the frames of channel 0) and Lepus
//! (the frames of all other channels).
//!
//! Only whole frames are appended to the buffer, under one lock. AMQP lets frames of different channels
//! interleave (4.2.2), and no channel has frames of both writers, so this is all that the two need to
//! agree on. lapin writes arbitrary pieces of a byte stream; they are collected in `lapin_partial`
//! until they are a whole frame.
//!
//! The order of appending is the order on the wire. The orderings that the rest of the crate relies on
//! follow from it: a reply is appended before the acknowledgement of its request, and a confirmed
//! publish gets its number while it is appended. Whether a channel is open is decided under the same
//! lock, and its `channel.close` and `channel.close-ok` are appended under it, so nothing is written on
//! a channel after its close.
//!
//! A thread that appends frames also writes them, as far as the socket accepts them without blocking.
//! The I/O task writes the rest when the socket becomes writable. When the buffer exceeds
//! [`HIGH_WATER`], publishers wait before they append more ([`WriteMux::has_room`],
//! [`WriteMux::room`]). Other frames are appended in any case: only publishers produce them without
//! limit.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;

use super::transport::TransportWriter;
use super::tune::{self, Negotiation, Tune};
use crate::error::{Error, ErrorKind};
use crate::link::frame::FrameCursor;
use crate::link::frame::decode::{self, BrokerVersion};
use crate::link::frame::encode::HEAD;
use crate::link::sasl::Responses;
use crate::sync::lock;

/// The capacity that an empty buffer keeps at most: room for many messages of ordinary size.
const MAX_IDLE_CAPACITY: usize = 512 * 1024;
/// High-water mark: publishers wait while more bytes than this are buffered. One message may exceed it.
const HIGH_WATER: usize = 2 * 1024 * 1024;
/// Messages appended within this time of one another are a burst.
const BURST: Duration = Duration::from_micros(20);
/// The size of the protocol header that lapin sends before its first frame.
const PROTOCOL_HEADER: usize = 8;

/// The writer of appended frames, and the time of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// The appending thread, at once.
    Inline,
    /// The next write of other frames, or the next [`WriteMux::flush`].
    Deferred,
    /// The I/O task, as soon as it runs, together with all frames appended until then.
    IoTask,
}

/// Detects bursts of messages, which the I/O task writes together with fewer system calls. A single
/// message is written at once by its sender, which avoids waking the I/O task.
#[derive(Debug, Default)]
pub(crate) struct BurstDetector {
    last: Mutex<Option<Instant>>,
}

impl BurstDetector {
    /// The writer for a message that is appended now.
    pub(crate) fn next(&self) -> Flush {
        let now = Instant::now();
        let mut last = lock(&self.last);
        match last.replace(now) {
            Some(last) if now.saturating_duration_since(last) < BURST => Flush::IoTask,
            _ => Flush::Inline,
        }
    }
}

/// The write buffer of one connection, shared by all its writers.
#[derive(Clone)]
pub(in crate::link) struct WriteMux {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<MuxState>,
    /// Wakes the I/O task: it has to write, or the connection was closed.
    wake: Notify,
    /// Wakes publishers when the buffer falls below the high-water mark.
    room: Notify,
}

struct MuxState {
    /// `None` once the connection is closed.
    transport: Option<Arc<TransportWriter>>,
    /// Whole frames in the order of appending. The first one may be partly written.
    out: BytesMut,
    /// The part of a frame that lapin has written so far.
    lapin_partial: BytesMut,
    /// The position in the byte stream that lapin writes.
    cursor: FrameCursor,
    negotiation: Negotiation,
    broker: Option<BrokerVersion>,
    /// The number of bytes appended since the connection was opened.
    appended: u64,
    /// The number of bytes written since the connection was opened.
    written: u64,
    /// Whether TLS has passed all bytes that it accepted to the socket.
    is_flushed: bool,
    /// The wakers of [`Flushed`] futures, by the offset that they wait for and a number of their own.
    waiters: BTreeMap<(u64, u64), Waker>,
    last_waiter: u64,
    /// Whether a publisher has had to wait since the buffer was last below the high-water mark.
    waits_for_room: bool,
}

impl WriteMux {
    pub(super) fn new(transport: Arc<TransportWriter>, wanted: Tune, responses: Responses) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(MuxState {
                    transport: Some(transport),
                    out: BytesMut::new(),
                    lapin_partial: BytesMut::new(),
                    cursor: FrameCursor::before_header(PROTOCOL_HEADER),
                    negotiation: Negotiation::new(wanted, responses),
                    broker: None,
                    appended: 0,
                    written: 0,
                    is_flushed: true,
                    waiters: BTreeMap::new(),
                    last_waiter: 0,
                    waits_for_room: false,
                }),
                wake: Notify::new(),
                room: Notify::new(),
            }),
        }
    }

    /// Appends the frames that `append` adds to the buffer, or none of them if it fails. Returns the
    /// offset of their end.
    ///
    /// # Errors
    /// Nothing was appended: the connection is closed, or `append` fails.
    pub(in crate::link) fn append(
        &self,
        flush: Flush,
        append: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        let (offset, needs_io_task) = self.with_state(|state| {
            if state.transport.is_none() {
                return Err(
                    Error::new(ErrorKind::Disconnected).caused_by("the connection is closed")
                );
            }
            let before = state.out.len();
            if let Err(error) = append(&mut state.out) {
                state.out.truncate(before);
                return Err(error);
            }
            state.appended += (state.out.len() - before) as u64;
            let needs_io_task = match flush {
                Flush::Inline => state.flush_inline(),
                Flush::Deferred => false,
                Flush::IoTask => true,
            };
            Ok((WriteOffset(state.appended), needs_io_task))
        })?;
        if needs_io_task {
            self.wake();
        }
        Ok(offset)
    }

    /// Writes the buffer as far as the socket accepts it; the I/O task writes the rest.
    pub(in crate::link) fn flush(&self) {
        if self.with_state(MuxState::flush_inline) {
            self.wake();
        }
    }

    /// Wakes the I/O task.
    pub(in crate::link) fn wake(&self) {
        self.inner.wake.notify_one();
    }

    /// Completes when the I/O task was woken.
    pub(super) async fn woken(&self) {
        self.inner.wake.notified().await;
    }

    /// Writes the buffer from the I/O task, as far as the socket accepts it. Returns whether nothing is
    /// left to write, which is also the case once the connection is closed.
    ///
    /// # Errors
    /// Writing to the socket failed.
    pub(super) fn try_flush(&self) -> io::Result<bool> {
        self.with_state(|state| state.flush().map(|()| state.is_drained()))
    }

    /// Whether the connection is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.state().transport.is_none()
    }

    /// Whether a publisher may append a message now.
    pub(in crate::link) fn has_room(&self) -> bool {
        let mut state = self.state();
        let has_room = state.has_room();
        state.waits_for_room |= !has_room;
        has_room
    }

    /// Completes when a publisher may append a message, or when the connection is closed. Cancel-safe.
    pub(in crate::link) async fn room(&self) {
        loop {
            // Created before the state is looked at, so that no wake-up in between is missed.
            let room = self.inner.room.notified();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Completes when everything appended up to `offset` has been written to the socket.
    ///
    /// # Errors
    /// The connection was closed before that.
    pub(in crate::link) fn flushed(&self, offset: WriteOffset) -> Flushed {
        Flushed {
            mux: self.clone(),
            offset,
            waiter: None,
        }
    }

    /// Takes bytes that lapin writes and appends the frames that are complete.
    ///
    /// # Errors
    /// The connection is closed.
    pub(super) fn append_from_lapin(&self, mut bytes: &[u8]) -> io::Result<usize> {
        let size = bytes.len();
        let needs_io_task = self.with_state(|state| {
            if state.transport.is_none() {
                return Err(io::Error::from(io::ErrorKind::NotConnected));
            }
            let mut rest = bytes;
            let before = state.out.len();
            while state.cursor.next(&mut bytes).is_some() {
                let (passed, left) = rest.split_at(rest.len() - bytes.len());
                state.lapin_partial.extend_from_slice(passed);
                rest = left;
                if state.cursor.is_at_boundary() {
                    state.negotiation.adjust(&mut state.lapin_partial);
                    state.out.extend_from_slice(&state.lapin_partial);
                    state.lapin_partial.clear();
                }
            }
            state.lapin_partial.extend_from_slice(rest);
            state.appended += (state.out.len() - before) as u64;
            Ok(state.flush_inline())
        })?;
        if needs_io_task {
            self.wake();
        }
        Ok(size)
    }

    /// Reads the offered limits and the broker's version from a frame that the broker sends to lapin.
    pub(super) fn observe(&self, frame: &[u8]) {
        let mut state = self.state();
        state.negotiation.observe(frame);
        if state.broker.is_none() {
            state.broker = frame.get(HEAD..).and_then(decode::broker_version);
        }
    }

    /// The broker's product and version, once its `connection.start` has arrived.
    pub(in crate::link) fn broker(&self) -> Option<BrokerVersion> {
        self.state().broker.clone()
    }

    /// The limits of the connection, once they are negotiated (`connection.tune-ok`).
    pub(in crate::link) fn negotiated(&self) -> Option<Tune> {
        self.state().negotiation.negotiated()
    }

    /// The number of bytes that wait to be written.
    #[cfg(test)]
    pub(super) fn backlog(&self) -> usize {
        self.state().out.len()
    }

    /// The number of bytes written since the connection was opened.
    pub(super) fn bytes_written(&self) -> u64 {
        self.state().written
    }

    /// Writes a heartbeat to the broker, unless other bytes wait to be written, which have the same
    /// effect.
    pub(super) fn heartbeat(&self) {
        self.with_state(|state| {
            if state.transport.is_some() && state.is_drained() {
                let before = state.out.len();
                tune::heartbeat(&mut state.out);
                state.appended += (state.out.len() - before) as u64;
                // If this fails, the I/O task's next read or write fails, too, and reports it.
                let _ = state.flush();
            }
        });
    }

    /// Closes the connection. Writes as much of the buffer as the socket accepts at once, and drops the
    /// rest.
    pub(in crate::link) fn close(&self) {
        let mut state = self.state();
        // Fails if the broker has closed the connection already, and then nothing has to be written.
        let _ = state.flush();
        let transport = state.transport.take();
        state.out = BytesMut::new();
        state.lapin_partial = BytesMut::new();
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        drop(transport);
        waiters.into_values().for_each(Waker::wake);
        self.inner.room.notify_waiters();
        self.wake();
    }

    /// Runs an operation that may write, releases the lock, and then wakes the tasks whose frames were
    /// written. They are woken without the lock, because a woken task may take it at once.
    fn with_state<T>(&self, operation: impl FnOnce(&mut MuxState) -> T) -> T {
        let mut state = self.state();
        let outcome = operation(&mut state);
        let due = state.take_due_wakers();
        let has_room = state.waits_for_room && state.has_room();
        state.waits_for_room &= !has_room;
        drop(state);
        due.into_iter().for_each(Waker::wake);
        if has_room {
            self.inner.room.notify_waiters();
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, MuxState> {
        lock(&self.inner.state)
    }
}

impl MuxState {
    /// Writes from any thread. Returns whether the I/O task has to go on, because bytes are left or
    /// because writing failed: only the I/O task reports errors of the socket.
    fn flush_inline(&mut self) -> bool {
        self.flush().is_err() || !self.is_drained()
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(transport) = &self.transport else {
            return Ok(());
        };
        while !self.out.is_empty() {
            match transport.try_write(&self.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => {
                    self.out.advance(size);
                    self.written += size as u64;
                    self.is_flushed = transport.is_plain();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.out.try_reclaim(MAX_IDLE_CAPACITY) {
            self.out = BytesMut::new();
        }
        if !self.is_flushed {
            self.is_flushed = transport.try_flush()?;
        }
        Ok(())
    }

    /// Whether nothing is left to write.
    fn is_drained(&self) -> bool {
        self.transport.is_none() || (self.out.is_empty() && self.is_flushed)
    }

    /// Also true once the connection is closed, so that publishers find out by appending.
    fn has_room(&self) -> bool {
        self.transport.is_none() || self.out.len() < HIGH_WATER
    }

    /// Removes the wakers whose offset has been written.
    fn take_due_wakers(&mut self) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.waiters.first_entry()
            && first.key().0 <= self.written
        {
            due.push(first.remove());
        }
        due
    }
}

impl fmt::Debug for WriteMux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteMux").finish_non_exhaustive()
    }
}

/// The position in the bytes of a connection at which an append ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOffset(u64);

/// The future of [`WriteMux::flushed`].
#[derive(Debug)]
pub(crate) struct Flushed {
    mux: WriteMux,
    offset: WriteOffset,
    /// The second part of its key in `waiters`, once it was polled.
    waiter: Option<u64>,
}

impl Future for Flushed {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.mux.state();
        if state.written >= this.offset.0 {
            return Poll::Ready(Ok(()));
        }
        if state.transport.is_none() {
            return Poll::Ready(Err(Error::new(ErrorKind::Disconnected)));
        }
        let waiter = *this.waiter.get_or_insert_with(|| {
            state.last_waiter += 1;
            state.last_waiter
        });
        let key = (this.offset.0, waiter);
        let replaced = state.waiters.insert(key, context.waker().clone());
        // Dropping a waker runs code of its executor, which must not happen under the lock.
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            // Bound to a name, so that the waker is dropped after the lock is released.
            let removed = self.mux.state().waiters.remove(&(self.offset.0, waiter));
            drop(removed);
        }
    }
}

#[cfg(test)]
mod tests;
