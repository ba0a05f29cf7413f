//! A connection's socket, watched by the thread that reads it.
//!
//! lapin's thread waits on a queue of events and leaves the socket to a reactor, that is to another
//! thread: whatever comes from the broker wakes two threads before anybody reads it. Here lapin's
//! thread watches the socket itself, inside a read that finds nothing, and who gives it something
//! to write, or changes what it has to look at, rings a bell. lapin's own queue then never has
//! anybody waiting on it.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};
use lapin::AsyncTcpStream;
use mio::net::TcpStream;
use mio::{Events, Interest, Token};

use super::bare::Bare;
use super::inbox::{Inbox, Passage};
use super::outbox::Outbox;

const SOCKET: Token = Token(0);
const BELL: Token = Token(1);
/// How much is read at once.
const AT_ONCE: usize = 128 * 1024;
/// How often lapin hears that the broker lives, when all that the broker says is ours.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);
/// How long a peer that takes nothing any more is waited for when the connection is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// A socket that is waited for where it is read.
pub(super) struct Socket {
    watch: Watch,
    outbox: Outbox,
    passage: Passage,
    buffer: Box<[u8]>,
    /// When lapin was last given something.
    given: Instant,
    /// All that there was is read when there was room for more. TLS may keep some.
    is_plain: bool,
    /// There may be more to read than was.
    is_readable: bool,
    /// lapin was given something since a read last found nothing: it is to be dealt with before
    /// anybody waits.
    is_fresh: bool,
    writer: Option<Waker>,
    closing: Option<Instant>,
}

/// What the socket can do now.
struct Watch {
    poll: mio::Poll,
    events: Events,
    /// The broker has closed its side: what was sent before can still be read.
    is_closed: bool,
}

/// What has become possible.
struct News {
    is_readable: bool,
    is_writable: bool,
    is_rung: bool,
}

impl Watch {
    /// Waits for the socket, or for the bell.
    fn wait(&mut self, outbox: &Outbox) -> io::Result<News> {
        let waited =
            outbox
                .bell()
                .sleep(|most| match self.poll.poll(&mut self.events, Some(most)) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
                    _ => Ok(()),
                });
        let mut news = News {
            is_readable: false,
            is_writable: false,
            is_rung: waited?,
        };
        for event in self.events.iter().filter(|event| event.token() == SOCKET) {
            self.is_closed |= event.is_read_closed() || event.is_error();
            news.is_readable |= event.is_readable() || self.is_closed;
            news.is_writable |= event.is_writable() || event.is_write_closed();
        }
        Ok(news)
    }
}

impl Socket {
    /// Takes over a connected socket that does not block, and puts TLS on it where there is to be.
    /// Holds the thread until that is done.
    pub(super) async fn open<F>(
        stream: std::net::TcpStream,
        outbox: &Outbox,
        inbox: &Inbox,
        secure: impl FnOnce(AsyncTcpStream<Bare>) -> F,
    ) -> io::Result<Self>
    where
        F: Future<Output = io::Result<AsyncTcpStream<Bare>>>,
    {
        let poll = mio::Poll::new()?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, SOCKET, interest)?;
        outbox.bell().hang(mio::Waker::new(poll.registry(), BELL)?);
        let mut watch = Watch {
            poll,
            events: Events::with_capacity(8),
            is_closed: false,
        };
        let mut securing = pin!(secure(AsyncTcpStream::Plain(Bare(stream))));
        let stream = std::future::poll_fn(|context| {
            let secured = securing.as_mut().poll(context);
            if secured.is_pending() {
                if outbox.bell().is_over() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                watch.wait(outbox)?;
                context.waker().wake_by_ref();
            }
            secured
        })
        .await?;
        let is_plain = matches!(stream, AsyncTcpStream::Plain(_));
        outbox.open(stream);
        Ok(Self {
            watch,
            outbox: outbox.clone(),
            passage: Passage::new(inbox.clone()),
            buffer: vec![0; AT_ONCE].into(),
            given: Instant::now(),
            is_plain,
            is_readable: true,
            is_fresh: false,
            writer: None,
            closing: None,
        })
    }

    /// Reads, and gives lapin what is lapin's.
    fn poll_read_with(
        &mut self,
        context: &mut Context<'_>,
        give: impl FnOnce(&mut BytesMut) -> usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.outbox.bell().is_over() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if !self.passage.theirs().is_empty() {
                self.is_fresh = true;
                self.given = Instant::now();
                return Poll::Ready(Ok(give(self.passage.theirs())));
            }
            if self.is_readable {
                match self.read() {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                    Poll::Ready(Ok(_)) if !self.passage.theirs().is_empty() => continue,
                    Poll::Ready(Ok(_)) => {
                        // lapin reads on until there is nothing: it may have something to deal with.
                        let is_fresh = std::mem::take(&mut self.is_fresh);
                        if !is_fresh && !self.outbox.bell().was_rung() {
                            continue;
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.is_readable = false;
                        continue;
                    }
                }
            } else if !std::mem::take(&mut self.is_fresh) {
                // When all that was read is dealt with: what follows from it leaves together.
                if let Err(error) = self.outbox.try_send() {
                    // First what the broker may have said before it went.
                    return match self.read() {
                        Poll::Ready(Ok(1..)) => continue,
                        _ => Poll::Ready(Err(error)),
                    };
                }
                if !self.outbox.is_lapins_turn() || !self.wake_writer() {
                    let news = self.watch.wait(&self.outbox)?;
                    self.is_readable |= news.is_readable;
                    let is_lapins = news.is_writable && self.wake_writer() || news.is_rung;
                    if !is_lapins && (news.is_readable || news.is_writable) {
                        continue;
                    }
                }
            }
            // Come again, when the rest is looked at.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
    }

    /// Reads what there is.
    fn read(&mut self) -> Poll<io::Result<usize>> {
        let buffer = &mut self.buffer;
        let read = self
            .outbox
            .with(|stream, context| stream.poll_read(context, buffer));
        let Poll::Ready(Ok(size)) = read else {
            return read;
        };
        // Less than there was space for is all there was; more is told of.
        self.is_readable = !self.is_plain || size == self.buffer.len() || self.watch.is_closed;
        let bytes = self.buffer.get(..size).unwrap_or_default();
        self.passage.pass(bytes)?;
        if size > 0 && self.passage.theirs().is_empty() && self.given.elapsed() >= SIGN_OF_LIFE {
            self.passage.heartbeat();
        }
        Poll::Ready(Ok(size))
    }

    /// Has lapin write on, if it waits for that.
    fn wake_writer(&mut self) -> bool {
        let writer = self.writer.take();
        let waits = writer.is_some();
        writer.into_iter().for_each(Waker::wake);
        waits
    }

    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.outbox.poll_write(buffers);
        if written.is_pending() {
            self.writer = Some(context.waker().clone());
        }
        written
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(context, |theirs| give(theirs, buffer))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(context, |theirs| {
            buffers.iter_mut().map(|buffer| give(theirs, buffer)).sum()
        })
    }
}

fn give(theirs: &mut BytesMut, buffer: &mut [u8]) -> usize {
    let size = theirs.len().min(buffer.len());
    theirs.copy_to_slice(&mut buffer[..size]);
    size
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

    /// lapin flushes each time that it has dealt with what it has read, also where there is always
    /// more to read.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The next read that finds nothing tells what ails the connection.
        let _ = self.outbox.try_send();
        let flushed = self.outbox.with(|stream, inner| stream.poll_flush(inner));
        if flushed.is_pending() {
            self.writer = Some(context.waker().clone());
        }
        flushed
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_sent = self.outbox.try_send()?;
        let closed = if is_sent {
            self.outbox.with(|stream, inner| stream.poll_close(inner))
        } else {
            Poll::Pending
        };
        if closed.is_pending() {
            // lapin has nobody else who would come by.
            let since = *self.closing.get_or_insert_with(Instant::now);
            if since.elapsed() > FAREWELL {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let outbox = self.outbox.clone();
            self.watch.wait(&outbox)?;
            context.waker().wake_by_ref();
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::bell::NAP;
    use crate::link::inbox::{Listener, Word};
    use crate::link::outbox::{Leave, Mark};
    use bytes::BufMut;
    use futures_util::FutureExt;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Peer};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;

    /// What lapin sends first.
    const GREETING: &[u8] = b"AMQP\0\0\x09\x01";

    fn pair(outbox: &Outbox) -> (Socket, Peer) {
        pair_with(outbox, &Inbox::default())
    }

    fn pair_with(outbox: &Outbox, inbox: &Inbox) -> (Socket, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Peer::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let plain = async |stream: AsyncTcpStream<Bare>| Ok(stream);
        let opening = Socket::open(stream, outbox, inbox, plain);
        let mut socket = opening.now_or_never().unwrap().unwrap();
        let written = write(&mut socket, Waker::noop(), GREETING);
        assert!(matches!(written, Poll::Ready(Ok(size)) if size == GREETING.len()));
        peer.read_exact(&mut [0; GREETING.len()]).unwrap();
        (socket, peer)
    }

    fn frame(channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![3];
        frame.extend(channel.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(0xCE);
        frame
    }

    fn put(outbox: &Outbox, leave: Leave, frame: &[u8]) -> Mark {
        let put = outbox.put(
            leave,
            || true,
            |out| {
                out.put_slice(frame);
                Ok(())
            },
        );
        put.unwrap()
    }

    fn arrives(peer: &mut Peer, expected: &[&[u8]]) {
        let expected = expected.concat();
        let mut arrived = vec![0; expected.len()];
        peer.read_exact(&mut arrived).unwrap();
        assert_eq!(arrived, expected);
    }

    /// Nothing has arrived, and nothing is on its way: what is sent has arrived on the loopback.
    fn nothing_arrives(peer: &mut Peer) {
        peer.set_nonblocking(true).unwrap();
        let read = peer.read(&mut [0; 16]);
        peer.set_nonblocking(false).unwrap();
        assert!(
            matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock),
            "{read:?}"
        );
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

    /// Has the thread that watches come by, as it does when it is rung for.
    fn come_by(socket: &mut Socket) {
        socket.outbox.bell().ring();
        assert!(read(socket, &mut [0; 16]).is_pending());
    }

    #[test]
    fn no_ring_is_lost() {
        const RINGS: usize = 2000;
        let outbox = Outbox::default();
        let (mut socket, _peer) = pair(&outbox);
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
            outbox.bell().ring();
            while seen.load(Ordering::SeqCst) < ring {
                thread::yield_now();
            }
        }
        reader.join().unwrap();
        // Each lost one would have cost a nap.
        assert!(began.elapsed() < NAP * 20, "{:?}", began.elapsed());
    }

    #[test]
    fn what_leaves_now_needs_nobody() {
        let outbox = Outbox::default();
        let (_socket, mut peer) = pair(&outbox);
        let event = frame(7, b"event");
        let mark = put(&outbox, Leave::Now, &event);
        assert!(outbox.written(mark).now_or_never().unwrap().is_ok());
        arrives(&mut peer, &[&event]);
    }

    #[test]
    fn what_leaves_later_leaves_with_the_next() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let (reply, ack) = (frame(1, b"reply"), frame(1, b"ack"));
        let mark = put(&outbox, Leave::Later, &reply);
        nothing_arrives(&mut peer);
        assert!(outbox.written(mark).now_or_never().is_none());
        put(&outbox, Leave::Now, &ack);
        arrives(&mut peer, &[&reply, &ack]);
        put(&outbox, Leave::Later, &reply);
        outbox.send();
        arrives(&mut peer, &[&reply]);
        // Before what lapin writes afterwards, too.
        put(&outbox, Leave::Later, &reply);
        let theirs = frame(2, b"theirs");
        assert!(write(&mut socket, Waker::noop(), &theirs).is_ready());
        arrives(&mut peer, &[&reply, &theirs]);
    }

    #[test]
    fn what_leaves_soon_is_written_by_who_watches() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let request = frame(1, b"request");
        let mark = put(&outbox, Leave::Soon, &request);
        nothing_arrives(&mut peer);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut written = pin!(outbox.written(mark));
        let mut context = Context::from_waker(&waker);
        assert!(written.as_mut().poll(&mut context).is_pending());
        let began = Instant::now();
        assert!(read(&mut socket, &mut [0; 16]).is_pending());
        assert!(began.elapsed() < NAP, "it was not rung for");
        arrives(&mut peer, &[&request]);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        let written = written.as_mut().poll(&mut context);
        assert!(matches!(written, Poll::Ready(Ok(()))));
    }

    #[test]
    fn what_leaves_soon_leaves_though_there_is_always_more_to_read() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        peer.write_all(&[1; 1000]).unwrap();
        let request = frame(1, b"request");
        put(&outbox, Leave::Soon, &request);
        while read(&mut socket, &mut [0; 16]).is_pending() {}
        for _ in 0..10 {
            assert!(read(&mut socket, &mut [0; 16]).is_ready());
        }
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut socket).poll_flush(&mut context).is_ready());
        arrives(&mut peer, &[&request]);
    }

    /// lapin stops where the socket is full, or where its own buffer ends.
    #[test]
    fn ours_wait_for_the_end_of_a_frame_of_lapins() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let (theirs, ours) = (frame(2, b"theirs"), frame(1, b"ours"));
        for stop in 1..theirs.len() {
            let (begun, rest) = theirs.split_at(stop);
            assert!(write(&mut socket, Waker::noop(), begun).is_ready());
            put(&outbox, Leave::Now, &ours);
            come_by(&mut socket);
            arrives(&mut peer, &[begun]);
            nothing_arrives(&mut peer);
            // In the same breath as what may end the channel that ours are for.
            let all = [rest, &theirs].concat();
            let mut left = &all[..];
            while !left.is_empty() {
                match write(&mut socket, Waker::noop(), left) {
                    Poll::Ready(written) => left = &left[written.unwrap()..],
                    Poll::Pending => come_by(&mut socket),
                }
            }
            arrives(&mut peer, &[rest, &ours, &theirs]);
        }
    }

    /// However much others put in meanwhile.
    #[test]
    fn what_lapin_waits_with_has_its_turn() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let (large, theirs, late) = (
            frame(1, &vec![1; 32 * 1024 * 1024]),
            frame(2, b"theirs"),
            frame(1, b"late"),
        );
        put(&outbox, Leave::Now, &large);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(write(&mut socket, &waker, &theirs).is_pending());
        put(&outbox, Leave::Now, &late);
        let mut left = &theirs[..];
        let others = outbox.clone();
        let arriving = thread::spawn(move || {
            let mut buffer = vec![0; large.len()];
            for part in buffer.chunks_mut(100_000) {
                peer.read_exact(part).unwrap();
                // It makes room, and somebody else uses it.
                others.send();
            }
            assert!(buffer == large);
            peer
        });
        while !left.is_empty() {
            let before = woken.0.load(Ordering::SeqCst);
            match write(&mut socket, &waker, left) {
                Poll::Ready(written) => left = &left[written.unwrap()..],
                Poll::Pending => {
                    while woken.0.load(Ordering::SeqCst) == before {
                        assert!(read(&mut socket, &mut [0; 16]).is_pending());
                    }
                }
            }
        }
        come_by(&mut socket);
        let mut peer = arriving.join().unwrap();
        arrives(&mut peer, &[&theirs, &late]);
    }

    /// lapin and two others write as fast as they can through a socket that is full most of the
    /// time: whatever arrives is whole, and each one's in its order.
    #[test]
    fn all_frames_arrive_whole_and_in_order() {
        const FRAMES: u32 = 3000;
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let payload = |number: u32| {
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(4 + (number as usize * 37) % 1500, number as u8);
            payload
        };
        let others = [1, 2].map(|channel| {
            let outbox = outbox.clone();
            thread::spawn(move || {
                for number in 0..FRAMES {
                    let leave = [Leave::Now, Leave::Later, Leave::Soon][number as usize % 3];
                    let mark = put(&outbox, leave, &frame(channel, &payload(number)));
                    if number % 64 == 63 {
                        outbox.send();
                        let written = outbox.written(mark);
                        tokio::runtime::Builder::new_current_thread()
                            .build()
                            .unwrap()
                            .block_on(written)
                            .unwrap();
                    }
                }
                outbox.send();
            })
        });
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        let lapin = thread::spawn(move || {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let all: Vec<u8> = (0..FRAMES)
                .flat_map(|number| frame(3, &payload(number)))
                .collect();
            let mut left = &all[..];
            let mut size = 1;
            while !left.is_empty() {
                size = size % 5000 + 613;
                match write(&mut socket, &waker, &left[..size.min(left.len())]) {
                    Poll::Ready(written) => left = &left[written.unwrap()..],
                    Poll::Pending => {
                        let before = woken.0.load(Ordering::SeqCst);
                        while woken.0.load(Ordering::SeqCst) == before {
                            assert!(read(&mut socket, &mut [0; 16]).is_pending());
                        }
                    }
                }
            }
            // It watches on.
            while !done.load(Ordering::SeqCst) {
                assert!(read(&mut socket, &mut [0; 16]).is_pending());
            }
        });
        let mut next = [0; 4];
        for _ in 0..3 * FRAMES {
            let mut head = [0; 7];
            peer.read_exact(&mut head).unwrap();
            let [kind, _, channel, size @ ..] = head;
            assert_eq!(kind, 3);
            let mut rest = vec![0; u32::from_be_bytes(size) as usize + 1];
            peer.read_exact(&mut rest).unwrap();
            assert_eq!(rest.pop(), Some(0xCE));
            assert_eq!(rest, payload(next[usize::from(channel)]));
            next[usize::from(channel)] += 1;
        }
        assert_eq!(next, [0, FRAMES, FRAMES, FRAMES]);
        for other in others {
            other.join().unwrap();
        }
        is_done.store(true, Ordering::SeqCst);
        outbox.bell().ring();
        lapin.join().unwrap();
    }

    #[test]
    fn nothing_is_put_in_where_it_cannot_leave() {
        let outbox = Outbox::default();
        let nothing = |out: &mut bytes::BytesMut| {
            out.put_slice(b"nothing");
            Ok(())
        };
        let early = outbox.put(Leave::Now, || true, nothing);
        assert!(early.unwrap_err().is_disconnected());
        let (socket, mut peer) = pair(&outbox);
        let closed = outbox.put(Leave::Now, || false, nothing);
        assert!(closed.unwrap_err().is_disconnected());
        // What was put in before is written, if it can be.
        let last = frame(1, b"last");
        put(&outbox, Leave::Later, &last);
        drop(socket);
        arrives(&mut peer, &[&last]);
        let late = outbox.put(Leave::Now, || true, nothing);
        assert!(late.unwrap_err().is_disconnected());
    }

    #[test]
    fn nobody_waits_for_a_socket_that_is_gone() {
        let outbox = Outbox::default();
        let (socket, _peer) = pair(&outbox);
        let large = frame(1, &vec![0; 32 * 1024 * 1024]);
        let mark = put(&outbox, Leave::Now, &large);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut written = pin!(outbox.written(mark));
        let mut context = Context::from_waker(&waker);
        assert!(written.as_mut().poll(&mut context).is_pending());
        drop(socket);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        let written = written.as_mut().poll(&mut context);
        assert!(matches!(written, Poll::Ready(Err(error)) if error.is_disconnected()));
    }

    /// Its connection was cut where nobody sees it: nothing is taken and nothing is refused.
    #[test]
    fn a_farewell_that_nobody_takes_ends() {
        let outbox = Outbox::default();
        let (mut socket, _peer) = pair(&outbox);
        put(&outbox, Leave::Now, &frame(1, &vec![0; 32 * 1024 * 1024]));
        let began = Instant::now();
        let ended = loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(ended) = Pin::new(&mut socket).poll_close(&mut context) {
                break ended;
            }
            assert!(began.elapsed() < NAP * 20, "it waits for ever");
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_was_sent_before_the_end_is_read_before_it() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let bye = frame(0, b"bye");
        peer.write_all(&bye).unwrap();
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
        assert_eq!(arrived, bye);
    }

    /// The broker says why it goes, and whoever writes meanwhile finds the connection broken first.
    #[test]
    fn a_broken_pipe_does_not_hide_the_reason() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        come_by(&mut socket);
        assert!(!socket.is_readable);
        let bye = frame(0, b"bye");
        peer.write_all(&bye).unwrap();
        let unread = frame(1, b"unread");
        put(&outbox, Leave::Now, &unread);
        drop(peer);
        put(&outbox, Leave::Later, &unread);
        while outbox.try_send().is_ok() {
            put(&outbox, Leave::Later, &unread);
        }
        let mut buffer = [0; 16];
        let said = read(&mut socket, &mut buffer);
        assert!(matches!(said, Poll::Ready(Ok(11))), "{said:?}");
        assert_eq!(&buffer[..11], bye);
        let ended = loop {
            if let Poll::Ready(ended) = read(&mut socket, &mut buffer) {
                break ended;
            }
        };
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }

    /// Nothing may wait between what was read and who deals with it.
    #[test]
    fn a_read_after_another_does_not_wait() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        let frame = frame(0, b"frame");
        peer.write_all(&frame).unwrap();
        let mut buffer = [0; 16];
        let size = loop {
            if let Poll::Ready(size) = read(&mut socket, &mut buffer) {
                break size.unwrap();
            }
        };
        assert_eq!(&buffer[..size], frame);
        assert!(socket.is_fresh);
        assert!(read(&mut socket, &mut buffer).is_pending());
        assert!(!socket.is_fresh);
    }

    #[test]
    fn a_bell_that_never_rests_keeps_nobody_from_reading() {
        let outbox = Outbox::default();
        let (mut socket, mut peer) = pair(&outbox);
        come_by(&mut socket);
        peer.write_all(&frame(0, b"frame")).unwrap();
        let arrived = (0..100_000).any(|_| {
            outbox.bell().ring();
            read(&mut socket, &mut [0; 16]).is_ready()
        });
        assert!(arrived);
    }

    struct Deaf;

    impl Listener for Deaf {
        fn hear(&self, _: Word) {}
    }

    /// An acknowledgement of the broker's on channel 7.
    fn ack() -> Vec<u8> {
        let mut ack = frame(7, b"\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0");
        ack[0] = crate::link::frame::METHOD;
        ack
    }

    /// lapin is given nothing of what is ours, and looks at what it was rung for all the same.
    #[test]
    fn what_is_ours_keeps_lapin_from_nothing() {
        let (outbox, inbox) = (Outbox::default(), Inbox::default());
        let _listening = inbox.listen(7, Arc::new(Deaf));
        let (mut socket, mut peer) = pair_with(&outbox, &inbox);
        come_by(&mut socket);
        let more = Arc::new(AtomicBool::new(true));
        let flood = {
            let more = Arc::clone(&more);
            thread::spawn(move || {
                while more.load(Ordering::SeqCst) {
                    peer.write_all(&ack()).unwrap();
                }
            })
        };
        let began = Instant::now();
        // Gives nothing, or a sign of life.
        let mut come_by = || {
            outbox.bell().ring();
            read(&mut socket, &mut [0; 16])
        };
        let looks = (0..1_000).filter(|_| come_by().is_pending()).count();
        assert!(looks > 900, "{looks}");
        more.store(false, Ordering::SeqCst);
        // Each one that waits for the flood to end, or for a nap, would cost more.
        assert!(began.elapsed() < NAP * 20, "{:?}", began.elapsed());
        // Until its end is read: it may wait for room.
        while !flood.is_finished() {
            let _ = come_by();
        }
        flood.join().unwrap();
    }

    /// lapin reads until there is nothing, and only then deals with what it was given.
    #[test]
    fn what_lapin_was_given_is_dealt_with_though_more_of_ours_comes() {
        let (outbox, inbox) = (Outbox::default(), Inbox::default());
        let _listening = inbox.listen(7, Arc::new(Deaf));
        let (mut socket, mut peer) = pair_with(&outbox, &inbox);
        // As if each read might be followed by another.
        socket.is_plain = false;
        peer.write_all(&frame(8, b"body")).unwrap();
        peer.write_all(&ack().repeat(AT_ONCE / ack().len() + 100))
            .unwrap();
        let mut buffer = [0; 16];
        while read(&mut socket, &mut buffer).is_pending() {}
        assert_eq!(buffer[..12], frame(8, b"body"));
        assert!(read(&mut socket, &mut buffer).is_pending());
        assert!(socket.is_readable, "it has looked for more");
    }

    #[test]
    fn lapin_hears_that_the_broker_lives_when_all_that_comes_is_ours() {
        let (outbox, inbox) = (Outbox::default(), Inbox::default());
        let _listening = inbox.listen(7, Arc::new(Deaf));
        let (mut socket, mut peer) = pair_with(&outbox, &inbox);
        socket.given = Instant::now().checked_sub(SIGN_OF_LIFE).unwrap();
        peer.write_all(&ack()).unwrap();
        let mut buffer = [0; 16];
        let size = loop {
            if let Poll::Ready(size) = read(&mut socket, &mut buffer) {
                break size.unwrap();
            }
        };
        assert_eq!(buffer[..size], [8, 0, 0, 0, 0, 0, 0, 0xCE]);
        assert!(socket.given.elapsed() < SIGN_OF_LIFE);
    }

    #[test]
    fn a_connection_that_nobody_looks_after_ends() {
        let outbox = Outbox::default();
        let (mut socket, _peer) = pair(&outbox);
        outbox.bell().lifeline().release();
        assert!(!outbox.bell().is_over());
        drop(outbox.bell().lifeline());
        let ended = loop {
            if let Poll::Ready(ended) = read(&mut socket, &mut [0; 16]) {
                break ended;
            }
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
