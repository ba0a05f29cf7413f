//! The write buffer of one connection: lapin's frames of channel 0 and ours of all others.
//!
//! Only whole frames are appended, in one lock, so AMQP's rule that frames of different channels may
//! interleave (4.2.2) covers both writers. The order of appending is the order on the wire: a reply
//! before its acknowledgement, and publishes in the order of their numbers. The question whether a
//! channel is open is asked under the same lock as the appending, so nothing is written on a channel
//! after its close.
//!
//! A thread that has something to say writes it itself, as far as the socket takes it; the I/O task
//! writes the rest. Above [`HIGH_WATER`] senders wait (`has_room`, `room`).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;

use super::transport::Transport;
use super::tune::{self, Negotiation, Tune};
use crate::error::{Error, Kind};
use crate::link::frame::FrameCursor;
use crate::link::frame::decode::{self, BrokerVersion};
use crate::link::frame::encode::HEAD;
use crate::link::sasl::Responses;
use crate::sync::lock;

/// So much memory is kept at most when the buffer is empty: a good many messages of the usual size.
const MAX_IDLE_CAPACITY: usize = 512 * 1024;
/// Senders wait while more than this is to be written. One message may exceed it.
const HIGH_WATER: usize = 2 * 1024 * 1024;
/// Messages that follow one another so closely are a burst.
const BURST: Duration = Duration::from_micros(20);
/// The protocol header that lapin sends before its first frame.
const PROTOCOL_HEADER: usize = 8;

/// When appended frames are written, as soon as the socket takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// At once, on this thread.
    Inline,
    /// With whatever is written next, or when somebody [sends](WriteMux::send) it.
    Deferred,
    /// As soon as the I/O task comes to it, together with what is appended until then.
    IoTask,
}

/// Tells messages that come one by one from bursts.
#[derive(Debug, Default)]
pub(crate) struct BurstDetector {
    last: Mutex<Option<Instant>>,
}

impl BurstDetector {
    /// For the message that is about to be appended: in a burst the I/O task writes several at
    /// once, else the sender writes it.
    pub(crate) fn next(&self) -> Flush {
        let now = Instant::now();
        let mut last = lock(&self.last);
        match last.replace(now) {
            Some(last) if now.saturating_duration_since(last) < BURST => Flush::IoTask,
            _ => Flush::Inline,
        }
    }
}

/// The write buffer of one connection, shared by everybody who writes.
#[derive(Clone)]
pub(in crate::link) struct WriteMux {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something for the I/O task to write, or the connection is to end.
    wake: Notify,
    /// The buffer has fallen below the high-water mark.
    room: Notify,
}

struct State {
    /// None when the connection is over.
    transport: Option<Arc<Transport>>,
    /// Whole frames, in the order in which they were appended. The first may be written in part.
    out: BytesMut,
    /// The beginning of a frame of lapin's.
    partial: BytesMut,
    cursor: FrameCursor,
    negotiation: Negotiation,
    broker: Option<BrokerVersion>,
    /// Bytes ever appended, and ever written.
    appended: u64,
    written: u64,
    /// TLS has written all that it took.
    is_flushed: bool,
    /// By what they wait for, and by a number of their own.
    watchers: BTreeMap<(u64, u64), Waker>,
    last_watcher: u64,
    waits_for_room: bool,
}

impl WriteMux {
    pub(super) fn new(transport: Arc<Transport>, wanted: Tune, responses: Responses) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    transport: Some(transport),
                    out: BytesMut::new(),
                    partial: BytesMut::new(),
                    cursor: FrameCursor::after(PROTOCOL_HEADER),
                    negotiation: Negotiation::new(wanted, responses),
                    broker: None,
                    appended: 0,
                    written: 0,
                    is_flushed: true,
                    watchers: BTreeMap::new(),
                    last_watcher: 0,
                    waits_for_room: false,
                }),
                wake: Notify::new(),
                room: Notify::new(),
            }),
        }
    }

    /// Appends frames, all of them or none.
    ///
    /// # Errors
    /// Nothing was appended: the connection is over, or `put` fails.
    pub(in crate::link) fn put(
        &self,
        leave: Flush,
        put: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
    ) -> Result<WriteOffset, Error> {
        let (mark, wakes) = self.turn(|state| {
            if state.transport.is_none() {
                return Err(Error::new(Kind::Disconnected).caused_by("the connection is gone"));
            }
            let before = state.out.len();
            if let Err(error) = put(&mut state.out) {
                state.out.truncate(before);
                return Err(error);
            }
            state.appended += (state.out.len() - before) as u64;
            let wakes = match leave {
                Flush::Inline => state.send_inline(),
                Flush::Deferred => false,
                Flush::IoTask => true,
            };
            Ok((WriteOffset(state.appended), wakes))
        })?;
        if wakes {
            self.shared.wake.notify_one();
        }
        Ok(mark)
    }

    /// Writes what was appended, as far as the socket takes it; the I/O task writes the rest.
    pub(in crate::link) fn send(&self) {
        if self.turn(State::send_inline) {
            self.wake();
        }
    }

    /// Has the I/O task come by.
    pub(in crate::link) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Completes when the I/O task is to come by.
    pub(super) async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// Writes on the I/O task. True when nothing is left; a connection that is over has nothing left.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn try_send(&self) -> io::Result<bool> {
        self.turn(|state| state.send().map(|()| state.is_done()))
    }

    /// Whether the connection is over.
    pub(super) fn is_over(&self) -> bool {
        self.state().transport.is_none()
    }

    /// Whether a sender may append a message now.
    pub(in crate::link) fn has_room(&self) -> bool {
        let mut state = self.state();
        let has_room = state.has_room();
        state.waits_for_room |= !has_room;
        has_room
    }

    /// Completes when a sender may append a message, or when the connection is over. Cancel-safe.
    pub(in crate::link) async fn room(&self) {
        loop {
            let room = self.shared.room.notified();
            if self.has_room() {
                return;
            }
            room.await;
        }
    }

    /// Completes when what was appended up to a mark is with the socket.
    ///
    /// # Errors
    /// The connection was over before that.
    pub(in crate::link) fn written(&self, mark: WriteOffset) -> Written {
        Written {
            mux: self.clone(),
            mark,
            watcher: None,
        }
    }

    /// Takes bytes of lapin's.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn put_from_lapin(&self, mut bytes: &[u8]) -> io::Result<usize> {
        let size = bytes.len();
        let wakes = self.turn(|state| {
            if state.transport.is_none() {
                return Err(io::Error::from(io::ErrorKind::NotConnected));
            }
            let mut rest = bytes;
            let before = state.out.len();
            while state.cursor.next(&mut bytes).is_some() {
                let (passed, left) = rest.split_at(rest.len() - bytes.len());
                state.partial.extend_from_slice(passed);
                rest = left;
                if state.cursor.is_whole() {
                    state.negotiation.restore(&mut state.partial);
                    state.out.extend_from_slice(&state.partial);
                    state.partial.clear();
                }
            }
            state.partial.extend_from_slice(rest);
            state.appended += (state.out.len() - before) as u64;
            Ok(state.send_inline())
        })?;
        if wakes {
            self.wake();
        }
        Ok(size)
    }

    /// Looks at a whole frame that the broker has sent to lapin.
    pub(super) fn on_event(&self, frame: &[u8]) {
        let mut state = self.state();
        state.negotiation.on_event(frame);
        if state.broker.is_none() {
            state.broker = frame.get(HEAD..).and_then(decode::broker_version);
        }
    }

    /// Which broker this is, once its `connection.start` has come.
    pub(in crate::link) fn broker(&self) -> Option<BrokerVersion> {
        self.state().broker.clone()
    }

    /// The limits of the connection, once they are agreed on.
    pub(in crate::link) fn agreed(&self) -> Option<Tune> {
        self.state().negotiation.agreed()
    }

    /// How many bytes wait to be written.
    #[cfg(test)]
    pub(super) fn backlog(&self) -> usize {
        self.state().out.len()
    }

    /// How many bytes were ever written.
    pub(super) fn bytes_written(&self) -> u64 {
        self.state().written
    }

    /// Appends a heartbeat to the broker, unless something waits to be written anyway.
    pub(super) fn heartbeat(&self) {
        self.turn(|state| {
            if state.transport.is_some() && state.is_done() {
                let before = state.out.len();
                tune::heartbeat(&mut state.out);
                state.appended += (state.out.len() - before) as u64;
                // A broken connection is found by the I/O task's own next write or read.
                let _ = state.send();
            }
        });
    }

    /// Ends the connection: what the socket takes at once is written, and nothing after it.
    pub(in crate::link) fn close(&self) {
        let mut state = self.state();
        // The broker may have closed its side already; then it does not hear this.
        let _ = state.send();
        let transport = state.transport.take();
        state.out = BytesMut::new();
        state.partial = BytesMut::new();
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        drop(transport);
        watchers.into_values().for_each(Waker::wake);
        self.shared.room.notify_waiters();
        self.wake();
    }

    /// Does something that may write, and then wakes, without the lock, whoever waited for that.
    fn turn<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let outcome = act(&mut state);
        let woken = state.woken();
        let has_room = state.waits_for_room && state.has_room();
        state.waits_for_room &= !has_room;
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        if has_room {
            self.shared.room.notify_waiters();
        }
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl State {
    /// Sends from any thread; true when the I/O task has to go on, or to find out what is wrong.
    fn send_inline(&mut self) -> bool {
        self.send().is_err() || !self.is_done()
    }

    fn send(&mut self) -> io::Result<()> {
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

    fn is_done(&self) -> bool {
        self.transport.is_none() || (self.out.is_empty() && self.is_flushed)
    }

    /// A connection that is over keeps nobody waiting.
    fn has_room(&self) -> bool {
        self.transport.is_none() || self.out.len() < HIGH_WATER
    }

    /// Those whose frames are written, to be woken up when the lock is gone.
    fn woken(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(first) = self.watchers.first_entry()
            && first.key().0 <= self.written
        {
            woken.push(first.remove());
        }
        woken
    }
}

impl fmt::Debug for WriteMux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteMux").finish_non_exhaustive()
    }
}

/// The end of what was appended at once, in the bytes of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOffset(u64);

/// See [`WriteMux::written`].
#[derive(Debug)]
pub(crate) struct Written {
    mux: WriteMux,
    mark: WriteOffset,
    /// Its number among those that wait, once it does.
    watcher: Option<u64>,
}

impl Future for Written {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.mux.state();
        if state.written >= this.mark.0 {
            return Poll::Ready(Ok(()));
        }
        if state.transport.is_none() {
            return Poll::Ready(Err(Error::new(Kind::Disconnected)));
        }
        let watcher = *this.watcher.get_or_insert_with(|| {
            state.last_watcher += 1;
            state.last_watcher
        });
        let key = (this.mark.0, watcher);
        let before = state.watchers.insert(key, context.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher {
            let gone = self.mux.state().watchers.remove(&(self.mark.0, watcher));
            drop(gone);
        }
    }
}

#[cfg(test)]
mod tests;
