//! The way out to the broker, for lapin's frames and for ours.
//!
//! lapin writes on a thread of its own: to be woken up for a message, and to wake up whoever waits
//! for it, is what one call at a time costs most. Messages and settlements need nothing that lapin
//! knows, so they are laid out here and written by whoever has them. Between two frames of lapin's,
//! for AMQP lets the frames of different channels take turns: a channel has all its messages from
//! the one or all from the other. (`channel.flow`, with which a broker may ask for a pause, holds
//! back lapin's only. RabbitMQ does not send it.)

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_io::AsyncWrite;
use lapin::AsyncTcpStream;

use super::bare::Bare;
use super::bell::Bell;
use super::progress::Progress;
use crate::error::{Error, Kind};

/// So much room is kept at the most when it is empty: a good many messages of the usual size.
const ROOM: usize = 512 * 1024;
/// Messages that follow one another so closely are in a rush.
const RUSH: Duration = Duration::from_micros(20);
/// What lapin sends before its first frame.
const GREETING: usize = 8;

type Stream = AsyncTcpStream<Bare>;

/// When what is put into an outbox leaves, as soon as the socket takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// At once, from this thread; after what lapin has begun.
    Now,
    /// With what leaves next, or when somebody [sends](Outbox::send) it.
    Later,
    /// As soon as lapin's thread comes to it.
    Soon,
}

/// When messages leave that may come one by one or in a rush.
#[derive(Debug, Default)]
pub(crate) struct Rush {
    last: Mutex<Option<Instant>>,
}

impl Rush {
    /// For the next message, which is about to be handed over: in a rush, lapin's thread writes
    /// several at once; else whoever has it does.
    pub(crate) fn next(&self) -> Leave {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.replace(now) {
            Some(last) if now.saturating_duration_since(last) < RUSH => Leave::Soon,
            _ => Leave::Now,
        }
    }
}

/// The way out of one connection. Everybody has the same one.
#[derive(Clone, Default)]
pub(super) struct Outbox {
    state: Arc<Mutex<State>>,
    bell: Bell,
}

#[derive(Default)]
struct State {
    /// None before there is one, and when it is gone.
    stream: Option<Stream>,
    /// Whole frames; only the first one may have been begun, while lapin has none that is.
    ours: BytesMut,
    /// How far lapin has come with what it writes.
    theirs: Progress,
    /// While lapin waits to begin a frame: how much of ours goes before it.
    before_theirs: Option<usize>,
    /// TLS has kept nothing of what was written.
    is_flushed: bool,
    /// How many bytes were ever put in, and how many of them written.
    put: u64,
    written: u64,
    /// Who waits until so many are written.
    watchers: BTreeMap<u64, Waker>,
}

impl Outbox {
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// From now on what is put in leaves here.
    pub(super) fn open(&self, stream: Stream) {
        *self.state() = State {
            stream: Some(stream),
            is_flushed: true,
            theirs: Progress::after(GREETING),
            ..State::default()
        };
    }

    /// Nothing leaves any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        // A last word to a broker that has said its own; if it does not hear it, no matter.
        let _ = state.send();
        let stream = state.stream.take();
        state.ours = BytesMut::new();
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        drop(stream);
        watchers.into_values().for_each(Waker::wake);
    }

    /// Puts frames in, all of them or none, if they may still be sent: whoever finds that a channel
    /// is open may write to it, for lapin says that it is not before it answers to its end, and its
    /// answer passes by here.
    ///
    /// # Errors
    /// They were not put in and never will be: the connection is gone, or what `put` says.
    pub(super) fn put(
        &self,
        leave: Leave,
        is_open: impl FnOnce() -> bool,
        put: impl FnOnce(&mut BytesMut) -> Result<(), Error>,
    ) -> Result<Mark, Error> {
        let (mark, rings) = self.turn(|state| {
            let gone = match &state.stream {
                None => Some("the connection is gone"),
                Some(_) if !is_open() => Some("the channel was closed"),
                Some(_) => None,
            };
            if let Some(why) = gone {
                return Err(Error::new(Kind::Disconnected).caused_by(why));
            }
            let before = state.ours.len();
            put(&mut state.ours)?;
            state.put += (state.ours.len() - before) as u64;
            let rings = match leave {
                Leave::Now => state.send_from_here(),
                Leave::Later => false,
                Leave::Soon => true,
            };
            Ok((Mark(state.put), rings))
        })?;
        if rings {
            self.bell.ring();
        }
        Ok(mark)
    }

    /// Writes what was put in, as far as the socket takes it; the rest leaves when it takes more.
    pub(super) fn send(&self) {
        if self.turn(State::send_from_here) {
            self.bell.ring();
        }
    }

    /// The same, for lapin's thread. Gives whether nothing is left.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn try_send(&self) -> io::Result<bool> {
        self.turn(|state| state.send().map(|()| state.ours.is_empty()))
    }

    /// Whether lapin waits to begin a frame and nothing of ours goes before it any more.
    pub(super) fn is_lapins_turn(&self) -> bool {
        self.state().is_lapins_turn()
    }

    /// Completes when what was put in up to a mark is in the socket.
    ///
    /// # Errors
    /// The connection went before that.
    pub(super) fn written(&self, mark: Mark) -> Written {
        Written {
            outbox: self.clone(),
            mark,
        }
    }

    /// lapin's bytes. Pending: whoever watches the socket tells when to come again.
    pub(super) fn poll_write(&self, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.turn(|state| state.poll_write(buffers))
    }

    /// Does something else with the stream.
    ///
    /// # Errors
    /// There is none any more.
    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.state().stream {
            Some(stream) => act(Pin::new(stream), &mut Context::from_waker(Waker::noop())),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Does something that may write, and then wakes up, without the lock, who waited for that.
    fn turn<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let outcome = act(&mut state);
        let woken = state.woken();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends from a thread that is not lapin's, which is to be rung for if this is true: it finds out
    /// what ails the connection, or it can go on.
    fn send_from_here(&mut self) -> bool {
        let was_lapins_turn = self.is_lapins_turn();
        self.send().is_err() || (self.is_lapins_turn() && !was_lapins_turn)
    }

    fn send(&mut self) -> io::Result<()> {
        let context = &mut Context::from_waker(Waker::noop());
        while let Some(next) = self.next()
            && let Some(stream) = &mut self.stream
        {
            match Pin::new(stream).poll_write(context, &self.ours[..next]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.wrote(written?),
                Poll::Pending => return Ok(()),
            }
        }
        if self.ours.is_empty() && self.ours.try_reclaim(ROOM) {
            self.ours = BytesMut::new();
        }
        if !self.is_flushed
            && let Some(stream) = &mut self.stream
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(context)
        {
            flushed?;
            self.is_flushed = true;
        }
        Ok(())
    }

    fn poll_write(&mut self, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let context = &mut Context::from_waker(Waker::noop());
        let size: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        loop {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let stream = Pin::new(stream);
            let ours = Self::next_of(&self.theirs, &self.ours, self.before_theirs).unwrap_or(0);
            let polled = if ours == 0 && size == 0 {
                return Poll::Ready(Ok(0));
            } else if ours == self.ours.len() {
                let ours =
                    std::iter::once(IoSlice::new(&self.ours)).filter(|ours| !ours.is_empty());
                let all: Vec<_> = ours.chain(buffers.iter().copied()).collect();
                stream.poll_write_vectored(context, &all)
            } else if ours > 0 {
                stream.poll_write(context, &self.ours[..ours])
            } else {
                // Ours come after the frame that is begun and before the next one: that may be the
                // end of the channel they are for.
                let frame = self.theirs.left();
                let first = buffers.iter().find(|buffer| !buffer.is_empty());
                let first = first.map_or(&[][..], |first| first);
                stream.poll_write(context, &first[..first.len().min(frame)])
            };
            let Poll::Ready(written) = polled else {
                if self.theirs.is_whole() && size > 0 {
                    self.before_theirs.get_or_insert(self.ours.len());
                }
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_ours = written.min(ours);
            self.wrote(of_ours);
            if written > ours {
                self.is_flushed = false;
                self.before_theirs = None;
                self.they_passed(buffers, written - ours);
                return Poll::Ready(Ok(written - ours));
            }
        }
    }

    /// How many bytes of ours can be written now.
    fn next(&self) -> Option<usize> {
        Self::next_of(&self.theirs, &self.ours, self.before_theirs)
    }

    fn next_of(theirs: &Progress, ours: &[u8], before_theirs: Option<usize>) -> Option<usize> {
        let next = before_theirs.map_or(ours.len(), |before| before.min(ours.len()));
        (theirs.is_whole() && next > 0).then_some(next)
    }

    /// So many bytes of ours are written.
    fn wrote(&mut self, size: usize) {
        self.ours.advance(size);
        self.written += size as u64;
        if size > 0 {
            self.is_flushed = false;
        }
        if let Some(before) = &mut self.before_theirs {
            *before = before.saturating_sub(size);
        }
    }

    /// So many of these bytes of lapin's are written.
    fn they_passed(&mut self, buffers: &[IoSlice<'_>], mut count: usize) {
        for buffer in buffers {
            let (passed, _) = buffer.split_at(count.min(buffer.len()));
            count -= passed.len();
            self.theirs.pass(passed);
        }
    }

    fn is_lapins_turn(&self) -> bool {
        self.before_theirs == Some(0)
    }

    /// Those whose frames are written, to be woken up when the lock is gone.
    fn woken(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(first) = self.watchers.first_entry()
            && *first.key() <= self.written
        {
            woken.push(first.remove());
        }
        woken
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// The end of what was put in at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

/// See [`Outbox::written`].
#[derive(Debug)]
pub(crate) struct Written {
    outbox: Outbox,
    mark: Mark,
}

impl Future for Written {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.outbox.state();
        if state.written >= self.mark.0 {
            return Poll::Ready(Ok(()));
        }
        if state.stream.is_none() {
            return Poll::Ready(Err(Error::new(Kind::Disconnected)));
        }
        let before = state.watchers.insert(self.mark.0, context.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }
}
