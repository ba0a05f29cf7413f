//! State machine tests: one channel core against scripted frames of a broker.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::BasicProperties;
use amq_protocol::types::FieldTable;

use super::*;
use crate::link::frame::encode::{HEAD, TAIL};

const FRAME_MAX: u32 = 4096;
/// The class and method ids of `channel.close` and `channel.close-ok`.
const CLOSE: (u16, u16) = (20, 40);
const CLOSE_OK: (u16, u16) = (20, 41);

/// A channel and its events that no assertion has taken.
struct Subject {
    core: Core<&'static str>,
    events: Vec<CoreEvent<&'static str>>,
}

impl Subject {
    fn opening() -> Self {
        Self {
            core: Core::open(7, FRAME_MAX, "open"),
            events: Vec::new(),
        }
    }

    fn open() -> Self {
        let mut subject = Self::opening();
        assert_eq!(subject.written(), [(20, 10)]);
        subject.receives(open_ok());
        assert_eq!(subject.events(), ["open: 20.11"]);
        assert!(subject.core.is_open());
        subject
    }

    /// Open, with a consumer and in confirm mode.
    fn busy() -> Self {
        let mut subject = Self::open();
        subject.calls(consume(), "consume");
        subject.written();
        subject.receives(consume_ok());
        assert_eq!(subject.events(), ["consume: 60.21"]);
        let mut out = BytesMut::new();
        subject.core.select_confirms(&mut out).unwrap();
        for _ in 0..9 {
            subject.core.publish(&mut out, &message(b"")).unwrap();
        }
        subject
    }

    fn try_receive(&mut self, method: AMQPClass) -> Result<(), Violation> {
        let payload = payload(&AMQPFrame::Method(7, method));
        self.core.handle(Frame::Method(&payload), &mut self.events)
    }

    #[track_caller]
    fn receives(&mut self, method: AMQPClass) {
        self.try_receive(method).unwrap();
    }

    fn try_receive_header(&mut self, body_size: u64) -> Result<(), Violation> {
        let header = AMQPContentHeader {
            class_id: 60,
            body_size,
            properties: BasicProperties::default().with_message_id("the id".into()),
        };
        let payload = payload(&AMQPFrame::Header(7, header));
        self.core.handle(Frame::Header(&payload), &mut self.events)
    }

    fn try_receive_body(&mut self, bytes: &[u8], is_last: bool) -> Result<(), Violation> {
        let frame = Frame::Body { bytes, is_last };
        self.core.handle(frame, &mut self.events)
    }

    #[track_caller]
    fn receives_message(&mut self, method: AMQPClass, body: &[u8]) {
        self.receives(method);
        self.try_receive_header(body.len() as u64).unwrap();
        if !body.is_empty() {
            self.try_receive_body(body, true).unwrap();
        }
    }

    #[track_caller]
    fn calls(&mut self, method: AMQPClass, token: &'static str) {
        self.core.call(&method, token).unwrap();
    }

    fn closes(&mut self, token: &'static str) {
        self.core.close(Some(token), &mut self.events);
    }

    /// The class and method ids of the frames that are due, all on channel 7.
    fn written(&mut self) -> Vec<(u16, u16)> {
        let mut out = BytesMut::new();
        self.core.flush(&mut out);
        frames(&out)
    }

    fn events(&mut self) -> Vec<String> {
        self.events.drain(..).map(text).collect()
    }
}

fn text(event: CoreEvent<&'static str>) -> String {
    let message = |delivery: &Delivery| {
        let IncomingMessage { size, body, .. } = &delivery.message;
        let id = delivery.message.properties.message_id.as_deref();
        assert_eq!(id, Some("the id"));
        let body = String::from_utf8_lossy(body);
        format!("#{} {body:?} of {size}", delivery.tag)
    };
    match event {
        CoreEvent::Replied(token, Ok(MethodReply::Method(method))) => {
            let (class, method) = (method.get_amqp_class_id(), method.get_amqp_method_id());
            format!("{token}: {class}.{method}")
        }
        CoreEvent::Replied(token, Ok(MethodReply::Got(None))) => format!("{token}: empty"),
        CoreEvent::Replied(token, Ok(MethodReply::Got(Some(delivery)))) => {
            format!("{token}: {}", message(&delivery))
        }
        CoreEvent::Replied(token, Err(error)) => format!("{token}: {}", reason(&error)),
        CoreEvent::Confirmed(confirm) => format!("{confirm:?}"),
        CoreEvent::Delivered(delivery) => format!("delivered {}", message(&delivery)),
        CoreEvent::Returned(returned) => {
            assert_eq!(returned.properties.message_id.as_deref(), Some("the id"));
            format!("returned {} {}", returned.routing_key, returned.text)
        }
        CoreEvent::Cancelled => "cancelled".into(),
        CoreEvent::Closed(error) => format!("closed: {}", reason(&error)),
    }
}

/// An error and its causes.
fn reason(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn bytes(frame: &AMQPFrame) -> Vec<u8> {
    let written = gen_frame(frame)(Vec::new().into());
    written.unwrap().into_inner().0
}

fn payload(frame: &AMQPFrame) -> Vec<u8> {
    let bytes = bytes(frame);
    bytes[HEAD..bytes.len() - TAIL].to_vec()
}

fn frames(mut bytes: &[u8]) -> Vec<(u16, u16)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        bytes = rest;
        frames.push(match frame {
            AMQPFrame::Method(7, method) => {
                (method.get_amqp_class_id(), method.get_amqp_method_id())
            }
            AMQPFrame::Header(7, header) => (header.class_id, 0),
            AMQPFrame::Body(7, body) => (0, body.len() as u16),
            other => panic!("{other:?}"),
        });
    }
    frames
}

fn open_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
}

fn close() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 404,
        reply_text: "NOT_FOUND - no queue 'q'".into(),
        class_id: 50,
        method_id: 10,
    }))
}

fn closed_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

fn flow(active: bool) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }))
}

fn declare() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn declare_ok() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
        queue: "q".into(),
        message_count: 3,
        consumer_count: 1,
    }))
}

fn purge() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge {
        queue: "q".into(),
        nowait: false,
    }))
}

fn purge_ok() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk {
        message_count: 3,
    }))
}

fn consume() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: "q".into(),
        consumer_tag: "consumer".into(),
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn consume_ok() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk {
        consumer_tag: "consumer".into(),
    }))
}

fn get() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: false,
    }))
}

fn get_ok(delivery_tag: u64) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::GetOk(basic::GetOk {
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "q".into(),
        message_count: 0,
    }))
}

fn get_empty() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {}))
}

fn deliver(delivery_tag: u64) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: "consumer".into(),
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "q".into(),
    }))
}

fn returned() -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Return(basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "".into(),
        routing_key: "nowhere".into(),
    }))
}

fn cancel(nowait: bool) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
        consumer_tag: "consumer".into(),
        nowait,
    }))
}

fn ack(delivery_tag: u64) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple: true,
    }))
}

fn message(body: &'static [u8]) -> Outgoing {
    Outgoing {
        exchange: String::new(),
        routing_key: "q".into(),
        mandatory: true,
        properties: Properties::default(),
        body: Bytes::from_static(body),
    }
}

/// Every operation on the channel fails, and nothing is written.
#[track_caller]
fn is_shut(core: &mut Core<&'static str>) {
    let mut out = BytesMut::new();
    let settlement = SettleMethod::Ack { multiple: false };
    let refusals = [
        core.call(&declare(), "late"),
        core.publish(&mut out, &message(b"late")),
        core.settle(&mut out, 1, settlement),
        core.select_confirms(&mut out),
        core.cancel(&mut out, "consumer"),
    ];
    for refusal in refusals {
        assert!(refusal.unwrap_err().is_disconnected());
    }
    assert!(out.is_empty());
    assert!(!core.is_open());
}

const LATE: &str = "the connection to the broker was lost: the channel was closed";

#[test]
fn a_channel_is_opened_and_used_when_the_broker_has_agreed() {
    let mut subject = Subject::opening();
    is_shut(&mut subject.core);
    assert!(subject.core.has_output());
    assert_eq!(subject.written(), [(20, 10)]);
    assert!(!subject.core.has_output());
    is_shut(&mut subject.core);
    subject.receives(open_ok());
    assert_eq!(subject.events(), ["open: 20.11"]);
    assert!(subject.core.is_open() && !subject.core.is_free());
}

#[test]
fn a_refused_open_fails_once() {
    let mut subject = Subject::opening();
    subject.written();
    subject.receives(close());
    let events = subject.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0].starts_with("open: ") && events[1].starts_with("closed: "));
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
}

#[test]
fn closing_a_channel_before_its_open_is_written_writes_nothing() {
    let mut subject = Subject::opening();
    subject.closes("close");
    assert_eq!(subject.written(), []);
    assert_eq!(
        subject.events(),
        [format!("open: {LATE}"), "close: 20.41".into()]
    );
    assert!(subject.core.is_free());
}

#[test]
fn a_channel_that_is_closed_while_it_opens_is_closed_once_it_is_open() {
    let mut subject = Subject::opening();
    subject.written();
    subject.closes("close");
    assert_eq!(subject.events(), [format!("open: {LATE}")]);
    assert_eq!(subject.written(), [CLOSE]);
    subject.receives(open_ok());
    is_shut(&mut subject.core);
    subject.receives(closed_ok());
    assert_eq!(subject.events(), ["close: 20.41"]);
    assert!(subject.core.is_free());
}

#[test]
fn synchronous_methods_are_written_one_at_a_time() {
    let mut subject = Subject::busy();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    subject.calls(get(), "third");
    assert_eq!(subject.written(), [(50, 10)]);
    assert_eq!(subject.written(), []);
    // Frames that are no reply do not start the next call.
    subject.receives(ack(4));
    assert_eq!(subject.written(), []);
    subject.receives(declare_ok());
    assert_eq!(subject.written(), [(50, 30)]);
    subject.receives(purge_ok());
    assert_eq!(subject.written(), [(60, 70)]);
    subject.receives(get_empty());
    let events = subject.events();
    assert_eq!(
        events[1..],
        ["first: 50.11", "second: 50.31", "third: empty"]
    );
    assert_eq!(subject.written(), []);
    assert!(!subject.core.has_output());
}

#[test]
fn messages_and_settlements_do_not_wait_for_replies() {
    let mut subject = Subject::open();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    let mut out = BytesMut::new();
    subject.core.publish(&mut out, &message(b"body")).unwrap();
    subject.core.flush(&mut out);
    let settlement = SettleMethod::Ack { multiple: false };
    subject.core.settle(&mut out, 1, settlement).unwrap();
    let expected = [(60, 40), (60, 0), (0, 4), (50, 10), (60, 80)];
    assert_eq!(frames(&out), expected);
}

#[test]
fn asynchronous_and_oversized_methods_are_not_called() {
    let mut subject = Subject::open();
    let error = subject.core.call(&open_ok(), "answer").unwrap_err();
    assert!(error.is_invalid(), "{error}");
    let mut arguments = FieldTable::default();
    let long = amq_protocol::types::AMQPValue::LongString("x".repeat(5000).into());
    arguments.insert("long".into(), long);
    let AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) = declare() else {
        panic!("another method")
    };
    let large = AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        arguments,
        ..declare
    }));
    let error = subject.core.call(&large, "large").unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::TooLarge { .. }),
        "{error}"
    );
    assert_eq!(subject.written(), []);
    assert_eq!(subject.events(), [""; 0]);
}

#[test]
fn a_close_by_the_broker_fails_all_calls_with_its_reason() {
    let mut subject = Subject::open();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    subject.written();
    subject.receives(close());
    let events = subject.events();
    let of = |token: &str| {
        events
            .iter()
            .filter(|event| event.starts_with(token))
            .count()
    };
    assert_eq!((of("first"), of("second"), of("closed")), (1, 1, 1));
    assert!(
        events
            .iter()
            .all(|event| event.contains("NOT_FOUND - no queue 'q'")),
        "{events:?}"
    );
    is_shut(&mut subject.core);
    assert!(!subject.core.is_free(), "its close-ok is due");
    // A close or a loss of the connection afterwards reports nothing more.
    subject.core.close(None, &mut subject.events);
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    subject
        .core
        .connection_lost(&channel_closed(), &mut subject.events);
    assert_eq!(subject.events(), [""; 0]);
    assert!(!subject.core.has_output());
}

#[test]
fn a_close_is_complete_with_its_close_ok() {
    let mut subject = Subject::open();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    subject.written();
    subject.closes("close");
    assert_eq!(
        subject.events(),
        [format!("first: {LATE}"), format!("second: {LATE}")]
    );
    is_shut(&mut subject.core);
    assert_eq!(subject.written(), [CLOSE]);
    assert!(!subject.core.is_free());
    subject.receives(closed_ok());
    assert!(subject.core.is_free());
    assert_eq!(subject.events(), ["close: 20.41"]);
    subject.closes("again");
    assert_eq!(subject.events(), [format!("again: {LATE}")]);
    assert_eq!(subject.written(), []);
}

#[test]
fn frames_that_arrive_while_a_channel_closes_are_dropped() {
    let mut subject = Subject::busy();
    subject.calls(get(), "get");
    subject.written();
    // In the middle of a message.
    subject.receives(deliver(1));
    subject.try_receive_header(4).unwrap();
    subject.try_receive_body(b"bo", false).unwrap();
    subject.closes("close");
    subject.written();
    subject.events();
    subject.try_receive_body(b"dy", true).unwrap();
    subject.receives_message(get_ok(2), b"got");
    subject.receives_message(deliver(3), b"");
    subject.receives_message(returned(), b"back");
    subject.receives(declare_ok());
    subject.receives(ack(1));
    subject.receives(cancel(false));
    subject.receives(flow(false));
    subject
        .core
        .handle(Frame::Method(b"?"), &mut subject.events)
        .unwrap();
    assert_eq!(subject.events(), [""; 0]);
    assert_eq!(subject.written(), []);
    subject.receives(closed_ok());
    subject.receives_message(deliver(9), b"late");
    subject.receives(close());
    assert_eq!(subject.events(), ["close: 20.41"]);
    assert_eq!(subject.written(), []);
    assert!(subject.core.is_free());
}

#[test]
fn both_sides_close_and_our_close_was_written() {
    let mut subject = Subject::open();
    subject.closes("close");
    assert_eq!(subject.written(), [CLOSE]);
    subject.receives(close());
    assert!(!subject.core.is_free(), "our close-ok is due");
    assert_eq!(subject.events(), ["close: 20.41"]);
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    // Their close-ok may arrive or not.
    subject.receives(closed_ok());
    subject
        .core
        .connection_lost(&channel_closed(), &mut subject.events);
    assert_eq!(subject.events(), [""; 0]);
    assert_eq!(subject.written(), []);
}

#[test]
fn both_sides_close_and_the_brokers_close_was_read_first() {
    let mut subject = Subject::open();
    subject.receives(close());
    subject.closes("close");
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    let events = subject.events();
    assert!(events[0].starts_with("closed: "), "{events:?}");
    assert_eq!(events[1..], [format!("close: {LATE}")]);
}

#[test]
fn a_close_of_the_broker_replaces_ours_that_was_not_written() {
    let mut subject = Subject::open();
    subject.closes("close");
    subject.receives(close());
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    assert_eq!(subject.events(), ["close: 20.41"]);
}

#[test]
fn a_message_is_assembled_from_frames_cut_anywhere() {
    let mut subject = Subject::busy();
    subject.receives(deliver(1));
    subject.try_receive_header(10).unwrap();
    for (bytes, is_last) in [
        (&b"0123"[..], false),
        (b"", false),
        (b"45", true),
        (b"6789", false),
        (b"", true),
    ] {
        assert_eq!(subject.events(), [""; 0]);
        subject.try_receive_body(bytes, is_last).unwrap();
    }
    assert_eq!(subject.events(), [r#"delivered #1 "0123456789" of 10"#]);
    subject.receives_message(deliver(2), b"");
    assert_eq!(subject.events(), [r#"delivered #2 "" of 0"#]);
}

#[test]
fn a_body_above_the_limit_is_dropped_and_its_size_reported() {
    let mut subject = Subject::busy();
    subject.core.limit_bodies(4);
    subject.receives_message(deliver(1), b"1234");
    subject.receives_message(deliver(2), b"12345");
    subject.calls(get(), "get");
    subject.written();
    subject.receives_message(get_ok(3), b"123456");
    let expected = [
        r#"delivered #1 "1234" of 4"#,
        r#"delivered #2 "" of 5"#,
        r#"get: #3 "" of 6"#,
    ];
    assert_eq!(subject.events(), expected);
    // The announced size is not preallocated.
    subject.receives(deliver(4));
    subject.try_receive_header(u64::MAX).unwrap();
    let reserved = |core: &Core<_>| core.content.as_ref().unwrap().body.capacity();
    assert_eq!(reserved(&subject.core), 0);
    subject.core.limit_bodies(u64::MAX);
    let mut subject = Subject::busy();
    subject.receives(deliver(1));
    subject.try_receive_header(u64::MAX).unwrap();
    assert!(reserved(&subject.core) as u64 <= 2 * MAX_PREALLOCATED);
}

#[test]
fn get_returns_a_message_or_none() {
    let mut subject = Subject::open();
    subject.calls(get(), "first");
    subject.calls(get(), "second");
    assert_eq!(subject.written(), [(60, 70)]);
    subject.receives(get_ok(1));
    assert_eq!(subject.written(), [], "not before it is complete");
    subject.try_receive_header(1).unwrap();
    subject.try_receive_body(b"x", true).unwrap();
    assert_eq!(subject.written(), [(60, 70)]);
    subject.receives(get_empty());
    assert_eq!(subject.events(), [r#"first: #1 "x" of 1"#, "second: empty"]);
}

#[test]
fn a_returned_message_is_reported_without_its_body() {
    let mut subject = Subject::busy();
    subject.receives_message(returned(), b"body");
    subject.receives(ack(9));
    let events = subject.events();
    assert_eq!(events[0], "returned nowhere NO_ROUTE");
    assert!(events[1].contains("tag: 9"), "{events:?}");
}

#[test]
fn a_cancel_of_the_broker_is_reported_and_answered_unless_nowait() {
    let mut subject = Subject::busy();
    subject.receives(cancel(true));
    assert_eq!(subject.written(), []);
    subject.receives(cancel(false));
    assert_eq!(subject.written(), [(60, 31)]);
    assert_eq!(subject.events(), ["cancelled", "cancelled"]);
    assert!(subject.core.is_open());
}

#[test]
fn flow_is_answered_and_has_no_effect() {
    let mut subject = Subject::open();
    subject.receives(flow(false));
    assert!(subject.core.has_output());
    assert_eq!(subject.written(), [(20, 21)]);
    let mut out = BytesMut::new();
    subject.core.publish(&mut out, &message(b"")).unwrap();
    assert_eq!(subject.events(), [""; 0]);
}

#[test]
fn requests_of_a_broker_that_does_not_read_are_not_answered() {
    let mut subject = Subject::busy();
    let mut out = BytesMut::new();
    for _ in 0..50_000 {
        subject.receives(flow(false));
        subject.receives(flow(true));
        subject.receives(cancel(false));
        subject.core.flush(&mut out);
        subject.events.clear();
    }
    assert!(out.len() < MAX_UNREAD_ANSWERS + 1000, "{}", out.len());
    // Once it has read its answers, it gets further ones.
    assert!(subject.core.has_output());
    assert_eq!(subject.written(), [(20, 21), (60, 31)]);
}

#[test]
fn delivery_tags_are_counted_without_gaps() {
    for tags in [&[2][..], &[0], &[1, 1], &[1, 3], &[1, 2, 1]] {
        let mut subject = Subject::busy();
        let (last, before) = tags.split_last().unwrap();
        for tag in before {
            subject.receives_message(deliver(*tag), b"");
        }
        assert!(subject.try_receive(deliver(*last)).is_err(), "{tags:?}");
        // Fetched messages are counted in the same sequence.
        let mut subject = Subject::busy();
        for tag in before {
            subject.receives_message(deliver(*tag), b"");
        }
        subject.calls(get(), "get");
        subject.written();
        assert!(subject.try_receive(get_ok(*last)).is_err(), "{tags:?}");
    }
}

#[test]
fn frames_out_of_order_are_violations() {
    type Breach = fn(&mut Subject) -> Result<(), Violation>;
    let breaches: &[(&str, Breach)] = &[
        ("an answer that nobody asked for", |subject| {
            subject.try_receive(declare_ok())
        }),
        ("a second open-ok", |subject| subject.try_receive(open_ok())),
        ("get-ok that nobody asked for", |subject| {
            subject.try_receive(get_ok(1))
        }),
        ("get-empty that nobody asked for", |subject| {
            subject.try_receive(get_empty())
        }),
        ("the answer to another method", |subject| {
            subject.calls(purge(), "purge");
            subject.written();
            subject.try_receive(declare_ok())
        }),
        ("an answer before the method was written", |subject| {
            subject.calls(purge(), "purge");
            subject.try_receive(purge_ok())
        }),
        ("a method of a client", |subject| {
            subject.try_receive(declare())
        }),
        ("a header by itself", |subject| {
            subject.try_receive_header(1)
        }),
        ("a body by itself", |subject| {
            subject.try_receive_body(b"x", true)
        }),
        ("a body before its header", |subject| {
            subject.receives(deliver(1));
            subject.try_receive_body(b"x", true)
        }),
        ("a second header", |subject| {
            subject.receives(deliver(1));
            subject.try_receive_header(1)?;
            subject.try_receive_header(1)
        }),
        ("a body that is too long", |subject| {
            subject.receives(deliver(1));
            subject.try_receive_header(1)?;
            subject.try_receive_body(b"xy", true)
        }),
        ("a body where there is none", |subject| {
            subject.receives(deliver(1));
            subject.try_receive_header(0)?;
            subject.try_receive_body(b"", true)
        }),
        ("a method in the middle of a message", |subject| {
            subject.receives(deliver(1));
            subject.try_receive_header(1)?;
            subject.try_receive(ack(1))
        }),
        ("a header of another class", |subject| {
            subject.receives(deliver(1));
            let payload = [0, 61, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            subject
                .core
                .handle(Frame::Header(&payload), &mut subject.events)
        }),
        ("a header that is cut short", |subject| {
            subject.receives(deliver(1));
            subject
                .core
                .handle(Frame::Header(&[0, 60, 0, 0]), &mut subject.events)
        }),
        ("a method that is cut short", |subject| {
            subject
                .core
                .handle(Frame::Method(&[0, 60, 0]), &mut subject.events)
        }),
        ("a delivery that is cut short", |subject| {
            subject
                .core
                .handle(Frame::Method(&[0, 60, 0, 60, 9]), &mut subject.events)
        }),
    ];
    for (what, breach) in breaches {
        let mut subject = Subject::busy();
        assert!(breach(&mut subject).is_err(), "{what}");
        // The loss of the connection fails every call once.
        subject.events();
        subject
            .core
            .connection_lost(&channel_closed(), &mut subject.events);
        let events = subject.events();
        let ends = events.iter().filter(|event| event.starts_with("closed: "));
        assert_eq!(ends.count(), 1, "{what}: {events:?}");
    }
}

#[test]
fn a_close_may_arrive_between_the_frames_of_a_message() {
    let mut subject = Subject::open();
    subject.calls(get(), "get");
    subject.written();
    subject.receives(get_ok(1));
    subject.try_receive_header(100).unwrap();
    subject.receives(close());
    let events = subject.events();
    assert!(
        events[0].starts_with("get: ") && events[1].starts_with("closed: "),
        "{events:?}"
    );
    assert_eq!(subject.written(), [CLOSE_OK]);
}

#[test]
fn the_loss_of_the_connection_is_reported_once() {
    let reason = || Error::new(ErrorKind::Closed);
    let lost = |mut subject: Subject| {
        subject.core.connection_lost(&reason(), &mut subject.events);
        let events = subject.events();
        subject.core.connection_lost(&reason(), &mut subject.events);
        assert_eq!(subject.events(), [""; 0]);
        assert_eq!(subject.written(), []);
        assert!(subject.core.is_free() && !subject.core.has_output());
        is_shut(&mut subject.core);
        events
    };
    let why = super::tests::reason(&reason());
    let mut opening = Subject::opening();
    opening.written();
    assert_eq!(
        lost(opening),
        [format!("open: {why}"), format!("closed: {why}")]
    );
    let mut open = Subject::open();
    open.calls(declare(), "first");
    open.calls(purge(), "second");
    open.written();
    let expected = ["first", "second", "closed"].map(|token| format!("{token}: {why}"));
    assert_eq!(lost(open), expected);
    let mut closing = Subject::open();
    closing.closes("close");
    assert_eq!(lost(closing), [format!("close: {why}")]);
    let mut refused = Subject::open();
    refused.receives(close());
    refused.events();
    assert_eq!(lost(refused), [""; 0]);
}

#[test]
fn late_frames_of_an_earlier_channel_are_ignored() {
    // While the new channel opens and when it is open, with and without a consumer.
    let opening = || {
        let mut opening = Subject::opening();
        opening.written();
        opening
    };
    for mut subject in [opening(), Subject::open(), Subject::busy()] {
        let AMQPClass::Basic(basic::AMQPMethod::Deliver(late)) = deliver(77) else {
            panic!("another method")
        };
        let late = basic::Deliver {
            consumer_tag: "another".into(),
            ..late
        };
        let late = AMQPClass::Basic(basic::AMQPMethod::Deliver(late));
        subject.receives_message(late.clone(), b"late");
        subject.receives_message(late, b"");
        let cancel = basic::Cancel {
            consumer_tag: "another".into(),
            nowait: false,
        };
        subject.receives(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
        subject.receives(ack(10));
        subject.receives(closed_ok());
        assert_eq!(subject.events(), [""; 0]);
        assert_eq!(subject.written(), []);
    }
    // Late deliveries do not count for its own delivery tags, and its own confirms are reported.
    let mut subject = Subject::busy();
    subject.receives_message(deliver(1), b"own");
    subject.receives(ack(9));
    assert_eq!(subject.events().len(), 2);
}

#[test]
fn only_a_close_of_the_broker_may_be_followed_by_late_frames() {
    let mut refused = Subject::open();
    refused.receives(close());
    assert!(refused.core.may_receive_late_frames());
    let mut both = Subject::open();
    both.closes("close");
    both.receives(close());
    both.receives(closed_ok());
    assert!(both.core.may_receive_late_frames());
    let mut closed = Subject::open();
    closed.closes("close");
    closed.receives(closed_ok());
    assert!(!closed.core.may_receive_late_frames());
}
