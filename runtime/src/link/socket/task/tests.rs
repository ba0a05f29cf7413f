//! The task against a peer that closes, resets, floods, or says nothing.

use std::future::poll_fn;
use std::io::Write;
use std::net::{Shutdown, TcpStream as Peer};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BufMut;
use futures_io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::super::mux::Flush;
use super::super::testing::{
    CONSUME_OK, GREETING, HEARTBEAT, OPEN_OK, WANTED, agree, arrives, consuming, delivery, frame,
    lapin_reads, nothing_arrives, sockets, wire,
};
use super::*;
use crate::link::channel::{ChannelEvent, ChannelHandler};
use crate::link::sasl::Responses;

const LONG: Duration = Duration::from_secs(10);

fn start(stream: TcpStream) -> Socket {
    let transport = Transport::plain(stream);
    Socket::start(transport, WANTED, Responses::default(), &Handle::current())
}

/// The bytes that lapin reads next; none at the end of its stream.
async fn lapin_hears(pipe: &mut Pipe) -> Vec<u8> {
    let mut buffer = vec![0; 64];
    let reading = poll_fn(|context| Pin::new(&mut *pipe).poll_read(context, &mut buffer));
    let size = timeout(LONG, reading).await.expect("in time").unwrap();
    buffer.truncate(size);
    buffer
}

async fn is_ended(mut socket: Socket) -> io::Error {
    while !lapin_hears(&mut socket.pipe).await.is_empty() {}
    assert!(socket.mux.is_closed());
    timeout(LONG, socket.ended).await.expect("in time").unwrap()
}

fn reset(peer: Peer) {
    let peer = tokio::net::TcpSocket::from_std_stream(peer);
    peer.set_zero_linger().unwrap();
    drop(peer);
}

#[tokio::test]
async fn what_the_broker_says_to_lapin_is_read_by_lapin() {
    let (stream, mut peer) = sockets().await;
    let mut socket = start(stream);
    let start = frame(1, 0, b"start");
    peer.write_all(&start).unwrap();
    assert_eq!(lapin_hears(&mut socket.pipe).await, start);
    socket.mux.append_from_lapin(GREETING).unwrap();
    arrives(&mut peer, &[GREETING]);
}

#[tokio::test]
async fn a_peer_that_closes_ends_it() {
    let (stream, mut peer) = sockets().await;
    let socket = start(stream);
    peer.write_all(&frame(1, 0, b"close")).unwrap();
    drop(peer);
    assert_eq!(is_ended(socket).await.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_peer_that_resets_ends_it() {
    let (stream, peer) = sockets().await;
    let socket = start(stream);
    reset(peer);
    assert_eq!(
        is_ended(socket).await.kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_peer_that_speaks_no_amqp_ends_it() {
    let (stream, mut peer) = sockets().await;
    let socket = start(stream);
    peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(is_ended(socket).await.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn lapin_ends_it_by_dropping_its_stream() {
    let (stream, mut peer) = sockets().await;
    let Socket {
        mux, pipe, ended, ..
    } = start(stream);
    drop(pipe);
    assert!(mux.is_closed());
    timeout(LONG, ended).await.expect("in time").unwrap();
    let end = std::io::Read::read(&mut peer, &mut [0; 8]).unwrap();
    assert_eq!(end, 0);
}

#[test]
fn a_runtime_that_ends_under_it_ends_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (socket, peer) = runtime.block_on(async {
        let (stream, peer) = sockets().await;
        (start(stream), peer)
    });
    runtime.shutdown_timeout(LONG);
    let Socket {
        mux,
        mut pipe,
        mut ended,
        ..
    } = socket;
    assert_eq!(lapin_reads(&mut pipe), (Vec::new(), true));
    assert!(mux.is_closed());
    assert!(ended.try_recv().is_ok());
    drop(peer);
}

/// Writing fails, as it does once the peer has reset the connection, and reading has nothing to
/// find yet.
#[tokio::test]
async fn a_write_that_fails_ends_it_after_the_last_words_of_the_broker() {
    let (stream, mut peer) = sockets().await;
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut socket = start(TcpStream::from_std(stream).unwrap());
    let close = frame(1, 0, b"close");
    peer.write_all(&close).unwrap();
    socket.mux.append_from_lapin(GREETING).unwrap();
    assert_eq!(lapin_hears(&mut socket.pipe).await, close);
    assert_eq!(is_ended(socket).await.kind(), io::ErrorKind::BrokenPipe);
}

/// Takes a millisecond for each delivery.
#[derive(Default)]
struct SlowHandler(AtomicUsize);

impl ChannelHandler for SlowHandler {
    fn on_event(&self, event: ChannelEvent) {
        if let ChannelEvent::Delivered(_) = event {
            std::thread::sleep(Duration::from_millis(1));
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Timers and other tasks of the same thread have their turn.
#[tokio::test]
async fn a_peer_that_floods_keeps_the_thread_from_nobody() {
    const DELIVERIES: usize = 2000;
    let (stream, mut peer) = sockets().await;
    let socket = start(stream);
    agree(&socket.mux, &mut peer, 131_072, 60);
    peer.write_all(&frame(1, 1, &OPEN_OK)).unwrap();
    let counters = Arc::default();
    let handle = timeout(LONG, socket.channels.open(&counters));
    let handle = handle.await.expect("in time").unwrap();
    peer.write_all(&frame(1, 1, &CONSUME_OK)).unwrap();
    let consuming = timeout(LONG, consuming(&handle));
    consuming.await.expect("in time").unwrap();
    let slow = Arc::<SlowHandler>::default();
    handle.set_handler(Arc::clone(&slow) as _);
    let flooding = std::thread::spawn(move || {
        let mut deliveries = (1..=DELIVERIES as u64).map(|tag| delivery(1, tag, &[&[7; 10_000]]));
        deliveries.all(|delivery| peer.write_all(&delivery).is_ok())
    });
    let heard = || slow.0.load(Ordering::SeqCst);
    while heard() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(heard() < DELIVERIES, "the flood had the thread for itself");
    drop((socket.pipe, handle));
    timeout(LONG, socket.ended).await.expect("in time").unwrap();
    flooding.join().unwrap();
}

#[tokio::test]
async fn lapin_hears_a_heartbeat_when_the_broker_speaks_on_other_channels_only() {
    let (stream, mut peer) = sockets().await;
    let mut socket = start(stream);
    let blocked = frame(1, 0, b"blocked");
    peer.write_all(&blocked).unwrap();
    assert_eq!(lapin_hears(&mut socket.pipe).await, blocked);
    // In the middle of a frame as well.
    let long = frame(3, 9, &[7; 100]);
    let first_heard = Instant::now();
    let mut beats = 0;
    while beats < 2 {
        for part in long.chunks(60) {
            peer.write_all(part).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (heard, _) = lapin_reads(&mut socket.pipe);
            assert!(heard.is_empty() || heard == HEARTBEAT, "{heard:?}");
            beats += usize::from(!heard.is_empty());
        }
        assert!(first_heard.elapsed() < LONG);
    }
}

/// A greeting that comes in parts from far away is no reason for a heartbeat: before
/// `connection.tune` there are none.
#[tokio::test]
async fn lapin_hears_no_heartbeat_while_its_own_frame_comes() {
    let (stream, mut peer) = sockets().await;
    let mut socket = start(stream);
    let start = frame(1, 0, b"start");
    let (first, rest) = start.split_at(9);
    tokio::time::sleep(SYNTHETIC_HEARTBEAT).await;
    peer.write_all(first).unwrap();
    tokio::time::sleep(SYNTHETIC_HEARTBEAT).await;
    assert_eq!(lapin_reads(&mut socket.pipe), (Vec::new(), false));
    peer.write_all(rest).unwrap();
    assert_eq!(lapin_hears(&mut socket.pipe).await, start);
}

#[tokio::test(start_paused = true)]
async fn the_broker_hears_a_heartbeat_when_nothing_else_is_written() {
    let (mux, _transport, mut peer) = wire().await;
    let mut timer = HeartbeatTimer::default();
    // Until the limits are agreed on, lapin speaks for itself.
    assert!(timeout(LONG, timer.next(&mux)).await.is_err());
    agree(&mux, &mut peer, 131_072, 4);
    // The first look is at once, and something was just written.
    timer.next(&mux).await;
    nothing_arrives(&mut peer);
    let began = Instant::now();
    timer.next(&mux).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    arrives(&mut peer, &[HEARTBEAT]);
    // Whatever is written counts.
    let own = frame(3, 1, b"x");
    let put = mux.append(Flush::Inline, |out| {
        out.put_slice(&own);
        Ok(())
    });
    put.unwrap();
    arrives(&mut peer, &[&own]);
    timer.next(&mux).await;
    nothing_arrives(&mut peer);
    timer.next(&mux).await;
    arrives(&mut peer, &[HEARTBEAT]);
    assert_eq!(began.elapsed(), Duration::from_secs(6));
    // Looking at it and going away loses no time.
    assert!(
        timeout(Duration::from_secs(1), timer.next(&mux))
            .await
            .is_err()
    );
    timer.next(&mux).await;
    arrives(&mut peer, &[HEARTBEAT]);
    assert_eq!(began.elapsed(), Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn where_no_heartbeats_are_agreed_on_there_are_none() {
    let (mux, _transport, mut peer) = wire().await;
    agree(&mux, &mut peer, 131_072, 0);
    let mut timer = HeartbeatTimer::default();
    assert!(timeout(LONG, timer.next(&mux)).await.is_err());
    nothing_arrives(&mut peer);
}
