//! Channel numbers, without a connection; and channels on a write buffer, without the I/O task.

use std::net::TcpStream as Peer;
use std::pin::Pin;

use amq_protocol::protocol::basic;
use futures_util::FutureExt;

use super::*;
use crate::link::socket::testing::{OPEN_OK, arrives, frame, negotiate, nothing_arrives, wire};
use crate::link::socket::transport::TransportWriter;

const OPEN: [u8; 5] = [0, 20, 0, 10, 0];
const CLOSE: [u8; 11] = [0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0];
const CLOSE_OK: [u8; 4] = [0, 20, 0, 41];
/// A `channel.close` of the broker: 404, "no".
const REFUSAL: [u8; 13] = [0, 20, 0, 40, 1, 148, 2, b'n', b'o', 0, 0, 0, 0];

/// A connection without an I/O task. The test sends the broker's frames.
struct TableFixture {
    channels: Channels,
    counters: Arc<Counters>,
    peer: Peer,
    _transport: Arc<TransportWriter>,
}

impl TableFixture {
    async fn new(channel_max: u16) -> Self {
        let (mux, transport, mut peer) = wire().await;
        negotiate(&mux, &mut peer, channel_max, 131_072, 60);
        Self {
            channels: Channels::new(mux),
            counters: Arc::default(),
            peer,
            _transport: transport,
        }
    }

    /// A method of the broker on a channel.
    fn receive(&self, number: u16, payload: &[u8]) {
        let entry = self.channels.get(number).expect("a channel of this number");
        self.receive_on(&entry, payload);
    }

    fn receive_on(&self, entry: &ChannelEntry, payload: &[u8]) {
        let mut events = Vec::new();
        let handled = self
            .channels
            .handle(entry, Frame::Method(payload), &mut events);
        handled.unwrap();
        assert!(events.is_empty(), "{events:?}");
    }

    fn opening(&self) -> Pin<Box<dyn Future<Output = Result<ChannelHandle, Error>>>> {
        let (channels, counters) = (self.channels.clone(), Arc::clone(&self.counters));
        Box::pin(async move { channels.open(&counters).await })
    }

    /// Opens a channel, which gets this number.
    fn open(&mut self, number: u16) -> ChannelHandle {
        let mut opening = self.opening();
        assert!((&mut opening).now_or_never().is_none());
        self.arrives(number, &OPEN);
        self.receive(number, &OPEN_OK);
        let handle = opening.now_or_never().expect("open").unwrap();
        assert!(handle.is_open());
        handle
    }

    /// A method on a channel arrives at the broker.
    #[track_caller]
    fn arrives(&mut self, number: u16, payload: &[u8]) {
        arrives(&mut self.peer, &[&frame(1, number, payload)]);
    }
}

fn get() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: false,
    }))
}

#[tokio::test]
async fn an_open_waits_for_a_number_whose_channel_is_closing() {
    let mut fixture = TableFixture::new(1).await;
    let first = fixture.open(1);
    let mut second = fixture.opening();
    // All numbers are in use, and none will be free by itself.
    let error = (&mut second).now_or_never().expect("an error").unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert!(error.to_string().contains("channel_max is 1"), "{error}");

    drop(first);
    fixture.arrives(1, &CLOSE);
    let mut second = fixture.opening();
    assert!((&mut second).now_or_never().is_none());
    nothing_arrives(&mut fixture.peer);
    fixture.receive(1, &CLOSE_OK);
    assert!((&mut second).now_or_never().is_none());
    fixture.arrives(1, &OPEN);
    fixture.receive(1, &OPEN_OK);
    assert!(second.now_or_never().expect("open").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_number_whose_channel_the_broker_closed_is_used_again_after_a_delay() {
    let mut fixture = TableFixture::new(1).await;
    let refused = fixture.open(1);
    fixture.receive(1, &REFUSAL);
    // The close-ok is written before the number can be used.
    fixture.arrives(1, &CLOSE_OK);
    assert!(!refused.is_open());
    assert!(fixture.channels.get(1).is_none());

    let began = Instant::now();
    let mut opening = fixture.opening();
    tokio::select! {
        biased;
        _ = &mut opening => panic!("opened without a reply"),
        () = tokio::time::sleep(2 * REUSE_DELAY) => {}
    }
    fixture.arrives(1, &OPEN);
    fixture.receive(1, &OPEN_OK);
    let handle = opening.now_or_never().expect("open").unwrap();
    assert!(began.elapsed() >= REUSE_DELAY);
    // The old handle writes nothing on the number that is no longer its own.
    drop(refused);
    nothing_arrives(&mut fixture.peer);
    assert!(handle.is_open());
}

#[tokio::test]
async fn a_late_frame_does_not_remove_the_next_channel_of_the_number() {
    let mut fixture = TableFixture::new(1).await;
    let first = fixture.open(1);
    let old = fixture.channels.get(1).unwrap();
    drop(first);
    fixture.arrives(1, &CLOSE);
    fixture.receive(1, &CLOSE_OK);
    let second = fixture.open(1);
    // The demultiplexer may still have the entry of the first channel.
    fixture.receive_on(&old, &CLOSE_OK);
    assert!(second.is_open() && fixture.channels.get(1).is_some());
}

#[tokio::test]
async fn an_open_that_is_dropped_closes_its_channel() {
    let mut fixture = TableFixture::new(2).await;
    let mut opening = fixture.opening();
    assert!((&mut opening).now_or_never().is_none());
    fixture.arrives(1, &OPEN);
    assert_eq!(fixture.counters.read().channels, 1);
    drop(opening);
    fixture.arrives(1, &CLOSE);
    assert_eq!(fixture.counters.read().channels, 0);
    fixture.receive(1, &OPEN_OK);
    fixture.receive(1, &CLOSE_OK);
    assert!(fixture.channels.get(1).is_none());
}

#[tokio::test]
async fn a_fetched_message_is_requeued_if_its_caller_is_gone() {
    let mut fixture = TableFixture::new(1).await;
    let handle = fixture.open(1);
    let calling = handle.call(get());
    assert!(calling.now_or_never().is_none());
    fixture.arrives(1, &[0, 60, 0, 70, 0, 0, 1, b'q', 0]);
    let get_ok = [
        0, 60, 0, 71, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, b'q', 0, 0, 0, 0,
    ];
    fixture.receive(1, &get_ok);
    let entry = fixture.channels.get(1).unwrap();
    let header = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut events = Vec::new();
    let handled = fixture
        .channels
        .handle(&entry, Frame::Header(&header), &mut events);
    handled.unwrap();
    // `basic.nack` of delivery 1 with requeue.
    fixture.arrives(1, &[0, 60, 0, 120, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert!(handle.is_open());
}

#[tokio::test]
async fn the_loss_of_the_connection_fails_calls_and_waiting_opens() {
    let mut fixture = TableFixture::new(1).await;
    let handle = fixture.open(1);
    let mut calling = Box::pin(handle.call(get()));
    assert!((&mut calling).now_or_never().is_none());
    let closing = fixture.channels.get(1).unwrap();
    closing.is_closing.store(true, Ordering::Relaxed);
    let mut waiting = fixture.opening();
    assert!((&mut waiting).now_or_never().is_none());

    fixture
        .channels
        .connection_lost(&Error::new(ErrorKind::Timeout));
    fixture
        .channels
        .connection_lost(&Error::new(ErrorKind::Closed));
    let error = calling.now_or_never().expect("an error").unwrap_err();
    assert!(error.is_timeout() && !handle.is_open(), "{error}");
    let error = waiting.now_or_never().expect("an error").unwrap_err();
    assert!(error.is_timeout(), "the first reason: {error}");
    let error = fixture.opening().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

/// Uses its channel when it is told of the close, as an owner may.
struct Reentrant(Mutex<Option<ChannelHandle>>, AtomicBool);

impl ChannelHandler for Reentrant {
    fn on_event(&self, event: ChannelEvent) {
        assert!(matches!(event, ChannelEvent::Closed(_)), "{event:?}");
        let handle = lock(&self.0);
        let appended = handle
            .as_ref()
            .unwrap()
            .append(Flush::Inline, |core, out| core.select_confirms(out));
        assert!(appended.is_err(), "the channel is closed");
        self.1.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_handler_is_called_without_a_lock_held() {
    let mut fixture = TableFixture::new(1).await;
    let handle = fixture.open(1);
    let handler = Arc::new(Reentrant(Mutex::new(None), AtomicBool::new(false)));
    handle.set_handler(Arc::clone(&handler) as _);
    *lock(&handler.0) = Some(handle);
    fixture.receive(1, &REFUSAL);
    assert!(handler.1.load(Ordering::Relaxed));
    fixture.arrives(1, &CLOSE_OK);
    nothing_arrives(&mut fixture.peer);
    // Breaks the cycle of handler and handle.
    lock(&handler.0).take();
}

#[tokio::test(start_paused = true)]
async fn numbers_are_used_in_turn_and_not_before_their_delay_is_over() {
    let mut table = ChannelTable::default();
    let now = Instant::now();
    let numbers: Vec<_> = (0..5).map(|_| table.next_number(3, now)).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 2].map(Some));
    table.delay_reuse(3, now + REUSE_DELAY);
    table.delay_reuse(1, now + 2 * REUSE_DELAY);
    assert_eq!(table.next_number(3, now), Some(2));
    assert_eq!(table.next_number(3, now), Some(2));
    assert_eq!(table.next_number(3, now + REUSE_DELAY), Some(3));
    assert_eq!(table.next_number(3, now + REUSE_DELAY), Some(2));
    assert_eq!(table.next_number(3, now + 2 * REUSE_DELAY), Some(3));
    assert_eq!(table.next_number(3, now + 2 * REUSE_DELAY), Some(1));
    assert!(table.delays.is_empty() && table.delayed.is_empty());
    table.delay_reuse(1, now + 3 * REUSE_DELAY);
    assert_eq!(table.next_number(1, now + 2 * REUSE_DELAY), None);
    assert_eq!(table.next_number(1, now + 3 * REUSE_DELAY), Some(1));
    assert_eq!(table.next_number(0, now), None);
    assert_eq!(table.next_number(u16::MAX, now), Some(2));
    table.last = u16::MAX;
    assert_eq!(table.next_number(u16::MAX, now), Some(1));
}
