//! Test helpers: a socket pair, frames, and a write buffer without the I/O task.

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream as Peer};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::FieldTable;
use futures_io::AsyncRead;
use futures_util::FutureExt;
use tokio::net::TcpStream;

use super::demux::Demux;
use super::mux::WriteMux;
use super::pipe::Pipe;
use super::transport::{Transport, TransportWriter};
use super::tune::Tune;
use crate::error::Error;
use crate::link::sasl::Responses;
use crate::link::socket::channels::{ChannelHandle, MethodReply};

pub(in crate::link) const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
pub(in crate::link) const HEARTBEAT: &[u8] = b"\x08\0\0\0\0\0\0\xCE";
pub(in crate::link) const OPEN_OK: [u8; 8] = [0, 20, 0, 11, 0, 0, 0, 0];

pub(in crate::link) const WANTED: Tune = Tune {
    channel_max: 0,
    frame_max: 131_072,
    heartbeat: 0,
};

pub(in crate::link) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

/// `connection.tune`, or with 31 `connection.tune-ok`.
pub(in crate::link) fn tune(
    method: u8,
    channel_max: u16,
    frame_max: u32,
    heartbeat: u16,
) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, method];
    payload.extend(channel_max.to_be_bytes());
    payload.extend(frame_max.to_be_bytes());
    payload.extend(heartbeat.to_be_bytes());
    frame(1, 0, &payload)
}

/// A message: `basic.deliver`, its content header, and its body in one frame for each part.
pub(in crate::link) fn delivery(channel: u16, tag: u64, body: &[&[u8]]) -> Vec<u8> {
    let mut deliver = vec![0, 60, 0, 60, 1, b'c'];
    deliver.extend(tag.to_be_bytes());
    deliver.extend([0, 0, 1, b'q']);
    let mut header = vec![0, 60, 0, 0];
    header.extend((body.concat().len() as u64).to_be_bytes());
    header.extend([0, 0]);
    let mut frames = [frame(1, channel, &deliver), frame(2, channel, &header)].concat();
    for body in body {
        frames.extend(frame(3, channel, body));
    }
    frames
}

/// The reply to [`consuming`].
pub(in crate::link) const CONSUME_OK: [u8; 6] = [0, 60, 0, 21, 1, b'c'];

/// Calls `basic.consume`.
pub(in crate::link) fn consuming(
    handle: &ChannelHandle,
) -> impl Future<Output = Result<MethodReply, Error>> {
    handle.call(AMQPClass::Basic(basic::AMQPMethod::Consume(
        basic::Consume {
            queue: "q".into(),
            consumer_tag: "c".into(),
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        },
    )))
}

/// Starts a consumer on channel 1.
pub(super) fn consume(demux: &mut Demux, handle: &ChannelHandle, peer: &mut Peer) {
    let mut calling = Box::pin(consuming(handle));
    assert!((&mut calling).now_or_never().is_none());
    peer.read_exact(&mut [0; 23]).unwrap();
    demux.receive(&frame(1, 1, &CONSUME_OK)).unwrap();
    calling.now_or_never().unwrap().unwrap();
}

/// A connected socket that can be written to, and its other end, which blocks.
pub(in crate::link) async fn sockets() -> (TcpStream, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = Peer::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    peer.set_nodelay(true).unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    stream.writable().await.unwrap();
    (stream, peer)
}

/// A write buffer without an I/O task.
pub(in crate::link) async fn wire() -> (WriteMux, Arc<TransportWriter>, Peer) {
    let (stream, peer) = sockets().await;
    let transport = Arc::new(Transport::plain(stream).split().1);
    let mux = WriteMux::new(Arc::clone(&transport), WANTED, Responses::default());
    (mux, transport, peer)
}

/// Negotiates the limits, as lapin and a broker do.
pub(in crate::link) fn negotiate(
    mux: &WriteMux,
    peer: &mut Peer,
    channel_max: u16,
    frame_max: u32,
    heartbeat: u16,
) {
    mux.observe(&tune(30, channel_max, frame_max, heartbeat));
    mux.append_from_lapin(PROTOCOL_HEADER).unwrap();
    mux.append_from_lapin(&tune(31, 1, 16_384, heartbeat))
        .unwrap();
    let negotiated = tune(31, channel_max, frame_max, heartbeat);
    arrives(peer, &[PROTOCOL_HEADER, &negotiated]);
}

#[track_caller]
pub(in crate::link) fn arrives(peer: &mut Peer, expected: &[&[u8]]) {
    let expected = expected.concat();
    let mut arrived = vec![0; expected.len()];
    peer.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, expected);
}

/// Nothing has arrived. On the loopback interface bytes arrive when they are sent, so nothing is in
/// transit either.
#[track_caller]
pub(in crate::link) fn nothing_arrives(peer: &mut Peer) {
    peer.set_nonblocking(true).unwrap();
    let read = peer.read(&mut [0; 16]);
    peer.set_nonblocking(false).unwrap();
    let is_silent = matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    assert!(is_silent, "{read:?}");
}

/// All bytes that lapin can read now, and whether its stream has ended.
pub(in crate::link) fn lapin_reads(pipe: &mut Pipe) -> (Vec<u8>, bool) {
    let mut context = Context::from_waker(Waker::noop());
    let (mut all, mut buffer) = (Vec::new(), [0; 64]);
    loop {
        match Pin::new(&mut *pipe).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(0)) => return (all, true),
            Poll::Ready(Ok(size)) => all.extend_from_slice(&buffer[..size]),
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => return (all, false),
        }
    }
}

/// A waker that counts.
#[derive(Default)]
pub(in crate::link) struct Woken(AtomicUsize);

impl Woken {
    pub(in crate::link) fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
