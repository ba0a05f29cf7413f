//! I/O task tests: a peer that closes, resets, floods or stays silent.

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
    CONSUME_OK, HEARTBEAT, OPEN_OK, PROTOCOL_HEADER, WANTED, arrives, consuming, delivery, frame,
    lapin_reads, negotiate, nothing_arrives, sockets, wire,
};
use super::*;
use crate::link::sasl::Responses;
use crate::link::socket::channels::{ChannelEvent, ChannelHandler};

const LONG: Duration = Duration::from_secs(10);

fn start(stream: TcpStream) -> Socket {
    let transport = Transport::plain(stream);
    Socket::start(transport, WANTED, Responses::default(), &Handle::current())
}

/// The bytes that lapin reads next; none at the end of its stream.
async fn lapin_receives(pipe: &mut Pipe) -> Vec<u8> {
    let mut buffer = vec![0; 64];
    let reading = poll_fn(|context| Pin::new(&mut *pipe).poll_read(context, &mut buffer));
    let size = timeout(LONG, reading).await.expect("in time").unwrap();
    buffer.truncate(size);
    buffer
}

async fn is_ended(mut socket: Socket) -> io::Error {
    while !lapin_receives(&mut socket.pipe).await.is_empty() {}
    assert!(socket.mux.is_closed());
    timeout(LONG, socket.error).await.expect("in time").unwrap()
}

fn reset(peer: Peer) {
    let peer = tokio::net::TcpSocket::from_std_stream(peer);
    peer.set_zero_linger().unwrap();
    drop(peer);
}

#[tokio::test]
async fn frames_on_channel_0_are_passed_to_lapin() {
    let (stream, mut peer) = sockets().await;
    let mut socket = start(stream);
    let start = frame(1, 0, b"start");
    peer.write_all(&start).unwrap();
    assert_eq!(lapin_receives(&mut socket.pipe).await, start);
    socket.mux.append_from_lapin(PROTOCOL_HEADER).unwrap();
    arrives(&mut peer, &[PROTOCOL_HEADER]);
}

#[tokio::test]
async fn a_peer_that_closes_ends_the_task() {
    let (stream, mut peer) = sockets().await;
    let socket = start(stream);
    peer.write_all(&frame(1, 0, b"close")).unwrap();
    drop(peer);
    assert_eq!(is_ended(socket).await.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_peer_that_resets_ends_the_task() {
    let (stream, peer) = sockets().await;
    let socket = start(stream);
    reset(peer);
    assert_eq!(
        is_ended(socket).await.kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_peer_that_does_not_speak_amqp_ends_the_task() {
    let (stream, mut peer) = sockets().await;
    let socket = start(stream);
    peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(is_ended(socket).await.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn lapin_ends_the_task_by_dropping_its_stream() {
    let (stream, mut peer) = sockets().await;
    let Socket {
        mux,
        pipe,
        error: ended,
        ..
    } = start(stream);
    drop(pipe);
    assert!(mux.is_closed());
    timeout(LONG, ended).await.expect("in time").unwrap();
    let end = std::io::Read::read(&mut peer, &mut [0; 8]).unwrap();
    assert_eq!(end, 0);
}

#[test]
fn a_runtime_that_ends_under_the_task_ends_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (socket, peer) = runtime.block_on(async {
        let (stream, peer) = sockets().await;
        (start(stream), peer)
    });
    runtime.shutdown_timeout(LONG);
    let Socket {
        mux,
        mut pipe,
        error: mut ended,
        ..
    } = socket;
    assert_eq!(lapin_reads(&mut pipe), (Vec::new(), true));
    assert!(mux.is_closed());
    assert!(ended.try_recv().is_ok());
    drop(peer);
}

/// Writing fails, as after a reset by the peer, before there is anything to read.
#[tokio::test]
async fn a_write_that_fails_ends_the_task_after_reading_a_close_reason() {
    let (stream, mut peer) = sockets().await;
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut socket = start(TcpStream::from_std(stream).unwrap());
    let close = frame(1, 0, b"close");
    peer.write_all(&close).unwrap();
    socket.mux.append_from_lapin(PROTOCOL_HEADER).unwrap();
    assert_eq!(lapin_receives(&mut socket.pipe).await, close);
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

/// Timers and other tasks on the same thread still run.
#[tokio::test]
async fn a_peer_that_floods_does_not_block_other_tasks() {
    const DELIVERIES: usize = 2000;
    let (stream, mut peer) = sockets().await;
    let socket = start(stream);
    negotiate(&socket.mux, &mut peer, 2047, 131_072, 60);
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
    assert!(heard() < DELIVERIES, "no other task ran during the flood");
    drop((socket.pipe, handle));
    timeout(LONG, socket.error).await.expect("in time").unwrap();
    flooding.join().unwrap();
}

#[tokio::test]
async fn lapin_gets_a_heartbeat_when_the_broker_sends_on_other_channels_only() {
    let (stream, mut peer) = sockets().await;
    let mut socket = start(stream);
    let blocked = frame(1, 0, b"blocked");
    peer.write_all(&blocked).unwrap();
    assert_eq!(lapin_receives(&mut socket.pipe).await, blocked);
    // Also inside a frame.
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

/// A `connection.start` that arrives in parts is no reason for a heartbeat: before `connection.tune` there
/// are none.
#[tokio::test]
async fn lapin_gets_no_heartbeat_while_a_frame_of_its_own_arrives() {
    let (stream, mut peer) = sockets().await;
    let mut socket = start(stream);
    let start = frame(1, 0, b"start");
    let (first, rest) = start.split_at(9);
    tokio::time::sleep(SYNTHETIC_HEARTBEAT).await;
    peer.write_all(first).unwrap();
    tokio::time::sleep(SYNTHETIC_HEARTBEAT).await;
    assert_eq!(lapin_reads(&mut socket.pipe), (Vec::new(), false));
    peer.write_all(rest).unwrap();
    assert_eq!(lapin_receives(&mut socket.pipe).await, start);
}

#[tokio::test(start_paused = true)]
async fn the_broker_gets_a_heartbeat_when_nothing_else_is_written() {
    let (mux, _transport, mut peer) = wire().await;
    let mut timer = HeartbeatTimer::default();
    // Before the negotiation there are no heartbeats.
    assert!(timeout(LONG, timer.next(&mux)).await.is_err());
    negotiate(&mux, &mut peer, 2047, 131_072, 4);
    // The first tick is immediate, and something was just written.
    timer.next(&mux).await;
    nothing_arrives(&mut peer);
    let began = Instant::now();
    timer.next(&mux).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    arrives(&mut peer, &[HEARTBEAT]);
    // Other frames count as well.
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
    // Dropping the future does not delay the next tick.
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
async fn without_a_negotiated_interval_there_are_no_heartbeats() {
    let (mux, _transport, mut peer) = wire().await;
    negotiate(&mux, &mut peer, 2047, 131_072, 0);
    let mut timer = HeartbeatTimer::default();
    assert!(timeout(LONG, timer.next(&mux)).await.is_err());
    nothing_arrives(&mut peer);
}
