//! A connection's socket, watched by the thread that reads and writes it.
//!
//! lapin's thread waits on a queue of events and leaves the socket to a reactor, that is to another
//! thread: whatever comes from the broker wakes two threads before anybody reads it. Here lapin's
//! thread watches the socket itself, inside a read that finds nothing, and who gives it something
//! to write, or changes what it has to look at, rings a bell. lapin's own queue then never has
//! anybody waiting on it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use mio::net::TcpStream;
use mio::{Events, Interest, Token};

/// While something [follows](Bell::follow) what is written, up to so many bytes are kept until the
/// next read: a reply and its acknowledgement leave together. All else is in the socket when lapin
/// hears that it is written.
const KEPT: usize = 16 * 1024;
const SOCKET: Token = Token(0);
const BELL: Token = Token(1);
/// How long lapin's thread sleeps at the most: what it is to look at is rung for, and this is for
/// what was not.
const NAP: Duration = Duration::from_millis(500);

/// Ends the wait of the thread that watches the socket.
#[derive(Clone, Default)]
pub(super) struct Bell(Arc<State>);

#[derive(Default)]
struct State {
    /// Since it was last looked at.
    is_rung: AtomicBool,
    /// The thread waits, or is about to.
    is_asleep: AtomicBool,
    /// Nobody is left to look after the connection.
    is_over: AtomicBool,
    /// Who has more to write right after what is being written.
    following: AtomicUsize,
    alarm: Mutex<Option<mio::Waker>>,
    /// None where there is no socket any more: an errand holds the session, and the session this.
    errands: Mutex<Option<Vec<Arc<dyn Errand>>>>,
}

/// Something to be done by the thread that writes, as soon as it has written and holds no lock.
pub(super) trait Errand: Send + Sync {
    fn run(self: Arc<Self>);
}

impl Bell {
    /// Has lapin's thread look at what there is for it to do. Called after that is there.
    pub(super) fn ring(&self) {
        // In this order, and the other way round where it goes to sleep: one of the two sees what
        // the other has written.
        self.0.is_rung.store(true, Ordering::SeqCst);
        if self.0.is_asleep.load(Ordering::SeqCst) && self.0.is_asleep.swap(false, Ordering::SeqCst)
        {
            let alarm = self.0.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Err(error)) = alarm.as_ref().map(mio::Waker::wake) {
                tracing::debug!(%error, "the connection's thread sleeps on, for {NAP:?} at most");
            }
        }
    }

    /// A future of lapin's, which may leave it something to do each time it is polled.
    pub(super) async fn ringing<F: Future>(&self, operation: F) -> F::Output {
        let mut operation = pin!(operation);
        std::future::poll_fn(|context| {
            let polled = operation.as_mut().poll(context);
            self.ring();
            polled
        })
        .await
    }

    /// For as long as it is held, more follows what is being written: best with it.
    pub(super) fn follow(&self) -> Following {
        self.0.following.fetch_add(1, Ordering::Relaxed);
        Following(self.clone())
    }

    /// Has an errand run after what is being written now.
    pub(super) fn leave(&self, errand: Arc<dyn Errand>) {
        if let Some(errands) = self.errands().as_mut() {
            errands.push(errand);
        }
    }

    fn run_errands(&self) {
        let errands = self.errands().as_mut().map(std::mem::take);
        for errand in errands.into_iter().flatten() {
            errand.run();
        }
    }

    fn errands(&self) -> MutexGuard<'_, Option<Vec<Arc<dyn Errand>>>> {
        self.0
            .errands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, as if the broker had.
    fn hang_up(&self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Hangs up when it is dropped, unless it was released before.
    pub(super) fn lifeline(&self) -> Lifeline {
        Lifeline(Some(self.clone()))
    }
}

/// What is written meanwhile waits for what follows it.
#[derive(Debug)]
pub(super) struct Following(Bell);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.0.following.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection hangs on.
pub(super) struct Lifeline(Option<Bell>);

impl Lifeline {
    /// The connection does without it.
    pub(super) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if let Some(bell) = &self.0 {
            bell.hang_up();
        }
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").finish_non_exhaustive()
    }
}

/// A socket that is waited for where it is read.
pub(super) struct Socket {
    stream: TcpStream,
    poll: mio::Poll,
    events: Events,
    bell: Bell,
    /// There may be more to read than was.
    is_readable: bool,
    /// The broker has closed its side: what was sent before can still be read.
    is_closed: bool,
    /// Something was read since a read last found nothing: it is to be dealt with before anybody
    /// waits.
    is_fresh: bool,
    /// Written by lapin and not yet by us.
    kept: Vec<u8>,
    writer: Option<Waker>,
}

impl Socket {
    /// Takes over a connected socket that does not block.
    pub(super) fn new(stream: std::net::TcpStream, bell: Bell) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, SOCKET, interest)?;
        let alarm = mio::Waker::new(poll.registry(), BELL)?;
        *bell.0.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
        *bell.errands() = Some(Vec::new());
        Ok(Self {
            stream,
            poll,
            events: Events::with_capacity(8),
            bell,
            is_readable: true,
            is_closed: false,
            is_fresh: false,
            kept: Vec::new(),
            writer: None,
        })
    }

    /// Waits for the socket, or for the bell.
    fn wait(&mut self) -> io::Result<()> {
        let state = &self.bell.0;
        state.is_asleep.store(true, Ordering::SeqCst);
        let waited = if state.is_rung.swap(false, Ordering::SeqCst) {
            // However often it is rung, the socket is looked at as well.
            self.poll.poll(&mut self.events, Some(Duration::ZERO))
        } else {
            self.poll.poll(&mut self.events, Some(NAP))
        };
        state.is_asleep.store(false, Ordering::SeqCst);
        state.is_rung.store(false, Ordering::SeqCst);
        match waited {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let mut is_writable = false;
        for event in &self.events {
            if event.token() != SOCKET {
                continue;
            }
            self.is_closed |= event.is_read_closed() || event.is_error();
            self.is_readable |= event.is_readable() || self.is_closed;
            if event.is_writable() || event.is_write_closed() {
                is_writable = true;
            }
        }
        if is_writable {
            self.write_kept()?;
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        Ok(())
    }

    /// Writes as much of what was kept as the socket takes; the rest waits for it.
    fn write_kept(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.kept.len() {
            match self.stream.write(&self.kept[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => written += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.kept.drain(..written);
        // Whoever made room tells who waits for it.
        if written > 0
            && self.kept.is_empty()
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
        Ok(())
    }

    fn poll_read_with(
        &mut self,
        context: &mut Context<'_>,
        space: usize,
        mut read: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.bell.0.is_over.load(Ordering::SeqCst) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            self.write_kept()?;
            while self.is_readable {
                match read(&mut self.stream) {
                    Ok(size) => {
                        // Less than there was space for is all there was; more is told of.
                        self.is_readable = size == space || self.is_closed;
                        self.is_fresh = true;
                        return Poll::Ready(Ok(size));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.is_readable = false;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if !std::mem::take(&mut self.is_fresh) {
                self.wait()?;
                if self.is_readable {
                    // If there was nothing after all, what was rung for comes first.
                    self.is_fresh = true;
                    continue;
                }
            }
            // Come again, when the rest is looked at.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
    }

    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let is_followed = self.bell.0.following.load(Ordering::Relaxed) > 0;
        if is_followed && self.kept.len() + size <= KEPT {
            for buffer in buffers {
                self.kept.extend_from_slice(buffer);
            }
            return Poll::Ready(Ok(size));
        }
        loop {
            let kept = self.kept.len();
            let written = if kept == 0 {
                self.stream.write_vectored(buffers)
            } else {
                let kept = std::iter::once(IoSlice::new(&self.kept));
                let all: Vec<_> = kept.chain(buffers.iter().copied()).collect();
                self.stream.write_vectored(&all)
            };
            match written {
                Ok(0) if kept + size > 0 => {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                Ok(written) if written < kept => drop(self.kept.drain(..written)),
                Ok(written) => {
                    self.kept.clear();
                    if written > kept || size == 0 {
                        return Poll::Ready(Ok(written - kept));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A last word to a broker that has said its own; if it does not hear it, no matter.
        let _ = self.write_kept();
        let errands = self.bell.errands().take();
        drop(errands);
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let space = buffer.len();
        self.poll_read_with(context, space, |stream| stream.read(buffer))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let space = buffers.iter().map(|buffer| buffer.len()).sum();
        self.poll_read_with(context, space, |stream| stream.read_vectored(buffers))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, buffers)
    }

    /// lapin flushes before and after each write, with nothing locked, and reads after its last
    /// one: what is kept is written then.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bell.run_errands();
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_kept()?;
        Poll::Ready(self.stream.shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream as Peer};
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;
    use std::time::Instant;

    fn pair(bell: &Bell) -> (Socket, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Peer::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        (Socket::new(stream, bell.clone()).unwrap(), peer)
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn read(socket: &mut Socket, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(socket).poll_read(&mut context, buffer)
    }

    fn write(socket: &mut Socket, waker: &Waker, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut context = Context::from_waker(waker);
        Pin::new(socket).poll_write(&mut context, bytes)
    }

    #[test]
    fn no_ring_is_lost() {
        const RINGS: usize = 2000;
        let bell = Bell::default();
        let (mut socket, _peer) = pair(&bell);
        let (given, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reader = {
            let (given, seen) = (Arc::clone(&given), Arc::clone(&seen));
            thread::spawn(move || {
                while seen.load(Ordering::SeqCst) < RINGS {
                    assert!(read(&mut socket, &mut [0; 16]).is_pending());
                    seen.store(given.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            })
        };
        let began = Instant::now();
        for ring in 1..=RINGS {
            given.store(ring, Ordering::SeqCst);
            bell.ring();
            while seen.load(Ordering::SeqCst) < ring {
                thread::yield_now();
            }
        }
        reader.join().unwrap();
        // Each lost one would have cost a nap.
        assert!(began.elapsed() < NAP * 20, "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_written_is_in_the_socket() {
        let bell = Bell::default();
        let (mut socket, mut peer) = pair(&bell);
        let following = bell.follow();
        assert!(write(&mut socket, Waker::noop(), b"reply ").is_ready());
        drop(following);
        let written = write(&mut socket, Waker::noop(), b"event");
        assert!(matches!(written, Poll::Ready(Ok(5))), "{written:?}");
        let mut arrived = [0; 11];
        peer.read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"reply event");
    }

    #[test]
    fn what_is_followed_leaves_with_what_follows() {
        let bell = Bell::default();
        let (mut socket, mut peer) = pair(&bell);
        let _following = bell.follow();
        for word in ["reply ", "and ", "ack"] {
            let written = write(&mut socket, Waker::noop(), word.as_bytes());
            assert!(matches!(written, Poll::Ready(Ok(size)) if size == word.len()));
        }
        assert_eq!(socket.kept, b"reply and ack");
        bell.ring();
        assert!(read(&mut socket, &mut [0; 16]).is_pending());
        assert_eq!(socket.kept, b"");
        let mut arrived = [0; 13];
        peer.read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"reply and ack");
    }

    #[test]
    fn a_full_socket_takes_no_more_until_its_peer_reads() {
        let bell = Bell::default();
        let (mut socket, mut peer) = pair(&bell);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        // Both ways of writing take turns.
        let _following = bell.follow();
        let sent: Vec<u8> = (0..KEPT * 3).map(|at| at as u8).collect();
        let mut total = 0;
        loop {
            let from = total % sent.len();
            match write(&mut socket, &waker, &sent[from..]) {
                Poll::Ready(size) => total += size.unwrap(),
                Poll::Pending => break,
            }
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        let reading = thread::spawn(move || {
            let mut arrived = vec![0; total];
            peer.read_exact(&mut arrived).unwrap();
            (arrived, peer)
        });
        while woken.0.load(Ordering::SeqCst) == 0 {
            assert!(read(&mut socket, &mut [0; 16]).is_pending());
        }
        while !socket.kept.is_empty() {
            assert!(read(&mut socket, &mut [0; 16]).is_pending());
        }
        let (arrived, _peer) = reading.join().unwrap();
        assert!(arrived.iter().zip(sent.iter().cycle()).all(|(a, b)| a == b));
    }

    #[test]
    fn what_was_sent_before_the_end_is_read_before_it() {
        let bell = Bell::default();
        let (mut socket, mut peer) = pair(&bell);
        peer.write_all(b"bye").unwrap();
        drop(peer);
        let mut buffer = [0; 16];
        let mut arrived = Vec::new();
        loop {
            match read(&mut socket, &mut buffer) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(size) => arrived.extend_from_slice(&buffer[..size.unwrap()]),
                Poll::Pending => {}
            }
        }
        assert_eq!(arrived, b"bye");
    }

    /// Nothing may wait between what was read and who deals with it.
    #[test]
    fn a_read_after_another_does_not_wait() {
        let bell = Bell::default();
        let (mut socket, mut peer) = pair(&bell);
        peer.write_all(b"frame").unwrap();
        let mut buffer = [0; 16];
        let size = loop {
            if let Poll::Ready(size) = read(&mut socket, &mut buffer) {
                break size.unwrap();
            }
        };
        assert_eq!(&buffer[..size], b"frame");
        assert!(socket.is_fresh);
        assert!(read(&mut socket, &mut buffer).is_pending());
        assert!(!socket.is_fresh);
    }

    #[test]
    fn a_bell_that_never_rests_keeps_nobody_from_reading() {
        let bell = Bell::default();
        let (mut socket, mut peer) = pair(&bell);
        bell.ring();
        assert!(read(&mut socket, &mut [0; 16]).is_pending());
        peer.write_all(b"frame").unwrap();
        let arrived = (0..100_000).any(|_| {
            bell.ring();
            read(&mut socket, &mut [0; 16]).is_ready()
        });
        assert!(arrived);
    }

    #[test]
    fn a_writer_is_woken_by_a_read_that_makes_room() {
        let bell = Bell::default();
        let (mut socket, _peer) = pair(&bell);
        let woken = Arc::new(Woken::default());
        // A new socket tells that it can be written to.
        bell.ring();
        assert!(read(&mut socket, &mut [0; 16]).is_pending());
        socket.kept = b"kept".to_vec();
        socket.writer = Some(Waker::from(Arc::clone(&woken)));
        bell.ring();
        assert!(read(&mut socket, &mut [0; 16]).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }

    struct Nothing;

    impl Errand for Nothing {
        fn run(self: Arc<Self>) {}
    }

    /// It may hold the session, and the session holds the bell.
    #[test]
    fn no_errand_outlives_the_socket() {
        let bell = Bell::default();
        let (socket, _peer) = pair(&bell);
        let early: Arc<dyn Errand> = Arc::new(Nothing);
        let left = Arc::downgrade(&early);
        bell.leave(early);
        assert!(left.upgrade().is_some());
        drop(socket);
        assert!(left.upgrade().is_none());
        let late: Arc<dyn Errand> = Arc::new(Nothing);
        let left = Arc::downgrade(&late);
        bell.leave(late);
        assert!(left.upgrade().is_none());
    }

    #[test]
    fn a_connection_that_nobody_looks_after_ends() {
        let bell = Bell::default();
        let (mut socket, _peer) = pair(&bell);
        bell.lifeline().release();
        assert!(!bell.0.is_over.load(Ordering::SeqCst));
        drop(bell.lifeline());
        let ended = loop {
            if let Poll::Ready(ended) = read(&mut socket, &mut [0; 16]) {
                break ended;
            }
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
