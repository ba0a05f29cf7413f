//! Fuzz test of the demultiplexer and the channels: invalid bytes from the broker cause no panic and no
//! unbounded memory or output, and every caller gets a reply or an error.
//!
//! `LEPUS_FUZZ_CASES` sets the number of cases (default 4000), `LEPUS_FUZZ_SEED` the first seed; a
//! failure names its own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use amq_protocol::protocol::{AMQPClass, basic, queue};
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::super::pipe::MAX_UNREAD;
use super::super::testing::{
    CONSUME_OK, HEARTBEAT, OPEN_OK, consuming, delivery, frame, negotiate, tune, wire,
};
use super::*;
use crate::error::{Error, ErrorKind};
use crate::link::socket::Flush;
use crate::link::socket::channels::{
    ChannelEvent, ChannelHandle, ChannelHandler, MethodReply, rng::SeededRng,
};
use crate::stats::Counters;

/// The negotiated frame_max.
const NEGOTIATED: u32 = 4096;
/// The limit of the bytes that wait to be written at the end of a case.
const MAX_OUTPUT: usize = 64 * 1024;

type UnansweredCall = oneshot::Receiver<Result<MethodReply, Error>>;

/// Counts events.
#[derive(Default)]
struct CountingHandler {
    ends: AtomicUsize,
    bytes: AtomicUsize,
}

impl ChannelHandler for CountingHandler {
    fn on_event(&self, event: ChannelEvent) {
        match event {
            ChannelEvent::Closed(_) => drop(self.ends.fetch_add(1, Ordering::Relaxed)),
            ChannelEvent::Delivered(delivery) => {
                let size = delivery.message.body.len();
                self.bytes.fetch_add(size, Ordering::Relaxed);
            }
            ChannelEvent::Confirmed(_) | ChannelEvent::Returned(_) | ChannelEvent::Cancelled => {}
        }
    }
}

fn call(handle: &ChannelHandle, method: basic::AMQPMethod) -> UnansweredCall {
    let (reply, answer) = oneshot::channel();
    let asked = handle.append(Flush::Inline, |core, _| {
        core.call(&AMQPClass::Basic(method), reply)
    });
    asked.unwrap();
    answer
}

fn get() -> basic::AMQPMethod {
    basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: false,
    })
}

/// Opens channels 1 and 2, the first with a consumer, both with calls that have no reply.
fn open_channels(
    demux: &mut Demux,
    channels: &Channels,
    handler: &Arc<CountingHandler>,
) -> (Vec<ChannelHandle>, Vec<UnansweredCall>) {
    let counters = Arc::<Counters>::default();
    let mut handles = Vec::new();
    for number in 1..=2 {
        let mut opening = Box::pin(channels.open(&counters));
        assert!((&mut opening).now_or_never().is_none());
        demux.receive(&frame(1, number, &OPEN_OK)).unwrap();
        let handle = opening.now_or_never().unwrap().unwrap();
        handle.set_handler(Arc::clone(handler) as _);
        handle.limit_bodies(5000);
        handles.push(handle);
    }
    let mut calling = Box::pin(consuming(&handles[0]));
    assert!((&mut calling).now_or_never().is_none());
    demux.receive(&frame(1, 1, &CONSUME_OK)).unwrap();
    calling.now_or_never().unwrap().unwrap();
    let selected = handles[0].append(Flush::Inline, |core, out| core.select_confirms(out));
    selected.unwrap();
    let purge = queue::AMQPMethod::Purge(queue::Purge {
        queue: "q".into(),
        nowait: false,
    });
    let (reply, purged) = oneshot::channel();
    let asked = handles[1].append(Flush::Inline, |core, _| {
        core.call(&AMQPClass::Queue(purge), reply)
    });
    asked.unwrap();
    let mut waiting = vec![purged];
    for handle in &handles {
        waiting.push(call(handle, get()));
        waiting.push(call(handle, get()));
    }
    (handles, waiting)
}

/// A valid sequence of frames of every kind that a broker sends.
fn conversation() -> Vec<Vec<u8>> {
    let returned = [
        frame(1, 1, b"\0\x3c\0\x32\x01\x38\x08NO_ROUTE\0\x07nowhere"),
        frame(2, 1, b"\0\x3c\0\0\0\0\0\0\0\0\0\x02\0\x80\x02id"),
        frame(3, 1, b"ab"),
    ];
    let headers = b"\0\x3c\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0\x0f\x01aS\0\0\0\x01x\x01bI\0\0\0\x07";
    vec![
        delivery(1, 1, &[b"one"]),
        delivery(1, 2, &[&[7; 3000], &[8; 1000]]),
        HEARTBEAT.to_vec(),
        frame(1, 1, b"\0\x3c\0\x48\0"),
        frame(1, 2, b"\0\x32\0\x1f\0\0\0\x01"),
        frame(1, 2, b"\0\x3c\0\x47\0\0\0\0\0\0\0\x01\0\0\x01q\0\0\0\0"),
        frame(2, 2, headers),
        returned.concat(),
        frame(1, 1, b"\0\x3c\0\x50\0\0\0\0\0\0\0\x01\x01"),
        frame(1, 1, b"\0\x3c\0\x78\0\0\0\0\0\0\0\x02\x01"),
        frame(1, 0, b"\0\x0a\0\x3c\x03low"),
        tune(30, 2047, NEGOTIATED, 60),
        frame(1, 1, b"\0\x3c\0\x1e\x01c\x01"),
        frame(1, 2, b"\0\x14\0\x14\x01"),
        delivery(9, 1, &[b"nobody's"]),
        frame(1, 2, b"\0\x14\0\x28\x01\x94\x04oops\0\0\0\0"),
        frame(1, 1, b"\0\x14\0\x29"),
    ]
}

fn mutated(rng: &mut SeededRng) -> Vec<u8> {
    let mut pieces = conversation();
    for _ in 0..rng.below(4) {
        let at = rng.below(pieces.len());
        match rng.below(5) {
            0 => pieces.insert(at, pieces[at].clone()),
            1 => pieces.swap(0, at),
            2 => drop(pieces.remove(at)),
            3 => {
                let times = 1 + rng.below(30);
                let again = pieces[at].repeat(times);
                pieces.insert(at, again);
            }
            _ => {
                let ids: [&[u8]; 6] = [
                    b"\0\x3c\0\x3c",
                    b"\0\x3c\0\x47",
                    b"\0\x3c\0\x32",
                    b"\0\x14\0\x28",
                    b"\0\x0a\0\x0a",
                    b"",
                ];
                let noise = (0..rng.below(60)).map(|_| rng.next() as u8);
                let noise: Vec<u8> = noise.collect();
                let payload = [*rng.pick(&ids), &noise].concat();
                let (kind, channel) = (1 + rng.below(9) as u8, rng.below(4) as u16);
                pieces.insert(at, frame(kind, channel, &payload));
            }
        }
    }
    let mut bytes = pieces.concat();
    for _ in 0..rng.below(6) {
        let at = rng.below(bytes.len());
        match rng.below(5) {
            0 => bytes[at] = rng.next() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => drop(bytes.drain(at..(at + 1 + rng.below(20)).min(bytes.len()))),
            3 => {
                let noise: Vec<u8> = (0..rng.below(20)).map(|_| rng.next() as u8).collect();
                drop(bytes.splice(at..at, noise));
            }
            // The largest possible number.
            _ => {
                let to = (at + 8).min(bytes.len());
                bytes[at..to].fill(0xFF);
            }
        }
        bytes.push(0);
    }
    bytes
}

fn case(mux: &WriteMux, rng: &mut SeededRng) {
    let bytes = mutated(rng);
    let channels = Channels::new(mux.clone());
    let inbound = Arc::<InboundBuffer>::default();
    let mut demux = Demux::new(mux.clone(), channels.clone(), Arc::clone(&inbound));
    let handler = Arc::<CountingHandler>::default();
    let (handles, waiting) = open_channels(&mut demux, &channels, &handler);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(1 + rng.below(300)));
        rest = later;
        if demux.receive(now).is_err() {
            break;
        }
    }
    // No more than one frame is buffered.
    let largest = 2 * NEGOTIATED as usize;
    assert!(demux.payload.capacity() <= largest && demux.lapin_frame.capacity() <= largest);
    assert!(demux.events.is_empty() && inbound.unread() <= MAX_UNREAD);
    assert!(handler.bytes.load(Ordering::Relaxed) <= bytes.len());
    assert!(mux.backlog() <= MAX_OUTPUT, "{} bytes", mux.backlog());
    // The loss of the connection ends all calls.
    channels.connection_lost(&Error::new(ErrorKind::Disconnected));
    for mut answer in waiting {
        drop(answer.try_recv().expect("an answer"));
    }
    assert_eq!(handler.ends.load(Ordering::Relaxed), handles.len(), "ends");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test]
async fn invalid_bytes_do_no_harm() {
    let (mux, _transport, mut peer) = wire().await;
    negotiate(&mux, &mut peer, 2047, NEGOTIATED, 60);
    let mut other = peer.try_clone().unwrap();
    let reading =
        std::thread::spawn(move || while other.read(&mut [0; 65536]).is_ok_and(|size| size > 0) {});
    let first = variable("LEPUS_FUZZ_SEED");
    let first = first.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    // Without tokio's cooperative budget, so that the socket stays writable.
    let cases = async {
        for number in 0..variable("LEPUS_FUZZ_CASES").unwrap_or(4000) {
            let seed = first.wrapping_add(number);
            let mut rng = SeededRng::new(seed);
            if catch_unwind(AssertUnwindSafe(|| case(&mux, &mut rng))).is_err() {
                panic!("LEPUS_FUZZ_SEED={seed} LEPUS_FUZZ_CASES=1 repeats it");
            }
            // Writes the bytes that the socket did not accept.
            if number % 64 == 0 {
                tokio::task::yield_now().await;
                mux.flush();
            }
        }
    };
    tokio::task::unconstrained(cases).await;
    mux.close();
    peer.shutdown(std::net::Shutdown::Both).unwrap();
    reading.join().unwrap();
}
