//! Demultiplexer tests: frames of a broker for channels and for lapin, cut anywhere.

use std::net::TcpStream as Peer;
use std::sync::Mutex;

use futures_util::FutureExt;

use super::super::pipe::Pipe;
use super::super::testing::{
    HEARTBEAT, OPEN_OK, arrives, consume, delivery, frame, lapin_reads, negotiate, tune, wire,
};
use super::super::transport::TransportWriter;
use super::*;
use crate::link::socket::channels::{ChannelEvent, ChannelHandle, ChannelHandler};
use crate::stats::Counters;

/// The reading half of a connection without the I/O task, with channel 1 open.
struct DemuxFixture {
    demux: Demux,
    channels: Channels,
    mux: WriteMux,
    pipe: Pipe,
    peer: Peer,
    handler: Arc<RecordingHandler>,
    handle: ChannelHandle,
    _transport: Arc<TransportWriter>,
}

#[derive(Default)]
struct RecordingHandler(Mutex<Vec<String>>);

impl ChannelHandler for RecordingHandler {
    fn on_event(&self, event: ChannelEvent) {
        let text = match event {
            ChannelEvent::Delivered(delivery) => {
                let body = &delivery.message.body;
                format!("{} {}", delivery.tag, String::from_utf8_lossy(body))
            }
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(text);
    }
}

impl DemuxFixture {
    async fn new(frame_max: u32) -> Self {
        let (mux, transport, mut peer) = wire().await;
        let channels = Channels::new(mux.clone());
        let inbound = Arc::<InboundBuffer>::default();
        let mut demux = Demux::new(mux.clone(), channels.clone(), Arc::clone(&inbound));
        negotiate(&mux, &mut peer, 2047, frame_max, 60);
        let counters = Arc::<Counters>::default();
        let mut opening = Box::pin(channels.open(&counters));
        assert!((&mut opening).now_or_never().is_none());
        demux.receive(&frame(1, 1, &OPEN_OK)).unwrap();
        let handle = opening.now_or_never().unwrap().unwrap();
        arrives(&mut peer, &[&frame(1, 1, &[0, 20, 0, 10, 0])]);
        consume(&mut demux, &handle, &mut peer);
        let handler = Arc::<RecordingHandler>::default();
        handle.set_handler(Arc::clone(&handler) as _);
        Self {
            demux,
            channels,
            pipe: Pipe::new(mux.clone(), inbound),
            mux,
            peer,
            handler,
            handle,
            _transport: transport,
        }
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.handler.0.lock().unwrap())
    }
}

#[tokio::test]
async fn frames_are_routed_however_they_are_cut() {
    let blocked = frame(1, 0, b"\0\x0a\0\x3c\x03low");
    let stream = [
        delivery(1, 1, &[b"one"]),
        blocked.clone(),
        delivery(1, 2, &[b"t", b"", b"wo"]),
        HEARTBEAT.to_vec(),
        // Frames for channels that are not open.
        delivery(2, 9, &[b"lost"]),
        frame(8, 3, b""),
        delivery(1, 3, &[]),
        blocked.clone(),
    ]
    .concat();
    for cut in 1..=stream.len() {
        let mut fixture = DemuxFixture::new(131_072).await;
        for part in stream.chunks(cut) {
            fixture.demux.receive(part).unwrap();
        }
        assert_eq!(fixture.events(), ["1 one", "2 two", "3 "], "{cut}");
        let expected = [&blocked, HEARTBEAT, &blocked].concat();
        assert_eq!(lapin_reads(&mut fixture.pipe), (expected, false), "{cut}");
        assert!(fixture.demux.payload.is_empty() && fixture.demux.events.is_empty());
    }
}

#[tokio::test]
async fn lapin_receives_whole_frames_only() {
    let mut fixture = DemuxFixture::new(131_072).await;
    let whole = tune(30, 1, 2, 3);
    let (first, last) = whole.split_at(10);
    fixture.demux.receive(first).unwrap();
    assert!(!fixture.demux.take_activity().0);
    assert_eq!(lapin_reads(&mut fixture.pipe).0, b"");
    fixture.demux.receive(last).unwrap();
    assert!(fixture.demux.take_activity().0);
    assert!(!fixture.demux.take_activity().0);
    assert_eq!(lapin_reads(&mut fixture.pipe).0, [first, last].concat());
}

#[tokio::test]
async fn a_frame_above_the_negotiated_limit_ends_the_connection() {
    for (agreed, payload, is_taken) in [
        (4096, 4088, true),
        (4096, 4089, false),
        (131_072, 131_064, true),
        (131_072, 131_065, false),
        (4096, u32::MAX - 8, false),
        (131_072, u32::MAX, false),
    ] {
        for channel in [0, 1, 2] {
            let mut fixture = DemuxFixture::new(agreed).await;
            let mut head = vec![1];
            head.extend(u16::to_be_bytes(channel));
            head.extend(u32::to_be_bytes(payload));
            // The size is known once the head has arrived, and nothing of the payload is kept.
            let passed = fixture
                .demux
                .receive(&head)
                .and_then(|()| fixture.demux.receive(b"x"));
            assert_eq!(passed.is_ok(), is_taken, "{payload} bytes of {agreed}");
        }
    }
}

#[tokio::test]
async fn before_the_negotiation_the_default_frame_max_is_the_limit() {
    for (payload, is_taken) in [(131_064, true), (131_065, false)] {
        let (mux, _transport, _peer) = wire().await;
        let channels = Channels::new(mux.clone());
        let mut demux = Demux::new(mux, channels, Arc::default());
        let passed = demux.receive(&frame(1, 0, &vec![0; payload]));
        assert_eq!(passed.is_ok(), is_taken);
    }
}

#[tokio::test]
async fn malformed_frames_end_the_connection() {
    let mut unended = frame(1, 0, b"1234");
    *unended.last_mut().unwrap() = 0;
    let mut unended_elsewhere = frame(3, 9, b"1234");
    *unended_elsewhere.last_mut().unwrap() = 0;
    let breaches = [
        unended,
        unended_elsewhere,
        frame(8, 1, b""),
        frame(7, 1, b"1234"),
        frame(3, 1, b"a body without a header"),
        // A frame of another message between the frames of a message.
        [delivery(1, 1, &[b"x"]), frame(2, 1, &[0; 14])].concat(),
    ];
    for breach in breaches {
        let mut fixture = DemuxFixture::new(131_072).await;
        let error = fixture.demux.receive(&breach).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[tokio::test]
async fn a_number_is_released_after_its_close_ok_was_appended() {
    let mut fixture = DemuxFixture::new(131_072).await;
    let close = b"\0\x14\0\x28\x01\x94\x04oops\0\0\0\0";
    fixture.demux.receive(&frame(1, 1, close)).unwrap();
    let close_ok = frame(1, 1, &[0, 20, 0, 41]);
    arrives(&mut fixture.peer, &[&close_ok]);
    assert!(fixture.channels.get(1).is_none() && !fixture.handle.is_open());
    assert_eq!(fixture.events().len(), 1);
    // Late frames are ignored, and dropping the handle writes nothing.
    fixture.demux.receive(&delivery(1, 1, &[b"late"])).unwrap();
    drop(fixture.handle);
    fixture.mux.heartbeat();
    arrives(&mut fixture.peer, &[HEARTBEAT]);
    assert!(fixture.handler.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_broker_that_floods_lapin_ends_the_connection() {
    let mut fixture = DemuxFixture::new(131_072).await;
    let flood = frame(1, 0, &[0; 1000]);
    let mut frames = 0_usize;
    while fixture.demux.receive(&flood).is_ok() {
        frames += 1;
        assert!(frames < 100_000);
    }
}
