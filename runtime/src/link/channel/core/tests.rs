//! One channel against a broker whose every event is chosen.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::BasicProperties;
use amq_protocol::types::FieldTable;

use super::*;
use crate::link::frame::encode::{HEAD, TAIL};

const FRAME_MAX: u32 = 4096;
/// The class and the method of a channel's own end.
const CLOSE: (u16, u16) = (20, 40);
const CLOSE_OK: (u16, u16) = (20, 41);

/// A channel and the events it has told and nobody has looked at.
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
        subject.hears(open_ok());
        assert_eq!(subject.told(), ["open: 20.11"]);
        assert!(subject.core.is_open());
        subject
    }

    /// Open, with a consumer and with messages to be confirmed.
    fn busy() -> Self {
        let mut subject = Self::open();
        subject.calls(consume(), "consume");
        subject.written();
        subject.hears(consume_ok());
        assert_eq!(subject.told(), ["consume: 60.21"]);
        let mut out = BytesMut::new();
        subject.core.select_confirms(&mut out).unwrap();
        for _ in 0..9 {
            subject.core.publish(&mut out, &message(b"")).unwrap();
        }
        subject
    }

    fn try_hear(&mut self, method: AMQPClass) -> Result<(), Violation> {
        let payload = payload(&AMQPFrame::Method(7, method));
        self.core.handle(Frame::Method(&payload), &mut self.events)
    }

    #[track_caller]
    fn hears(&mut self, method: AMQPClass) {
        self.try_hear(method).unwrap();
    }

    fn try_hear_header(&mut self, body_size: u64) -> Result<(), Violation> {
        let header = AMQPContentHeader {
            class_id: 60,
            body_size,
            properties: BasicProperties::default().with_message_id("the id".into()),
        };
        let payload = payload(&AMQPFrame::Header(7, header));
        self.core.handle(Frame::Header(&payload), &mut self.events)
    }

    fn try_hear_body(&mut self, bytes: &[u8], is_last: bool) -> Result<(), Violation> {
        let frame = Frame::Body { bytes, is_last };
        self.core.handle(frame, &mut self.events)
    }

    #[track_caller]
    fn hears_message(&mut self, method: AMQPClass, body: &[u8]) {
        self.hears(method);
        self.try_hear_header(body.len() as u64).unwrap();
        if !body.is_empty() {
            self.try_hear_body(body, true).unwrap();
        }
    }

    #[track_caller]
    fn calls(&mut self, method: AMQPClass, token: &'static str) {
        self.core.call(&method, token).unwrap();
    }

    fn closes(&mut self, token: &'static str) {
        self.core.close(Some(token), &mut self.events);
    }

    /// Class and method of what is written now, each on channel 7.
    fn written(&mut self) -> Vec<(u16, u16)> {
        let mut out = BytesMut::new();
        self.core.flush(&mut out);
        frames(&out)
    }

    fn told(&mut self) -> Vec<String> {
        self.events.drain(..).map(text).collect()
    }
}

fn text(event: CoreEvent<&'static str>) -> String {
    let message = |delivery: &Delivery| {
        let Incoming { size, body, .. } = &delivery.message;
        let id = delivery.message.properties.message_id.as_deref();
        assert_eq!(id, Some("the id"));
        let body = String::from_utf8_lossy(body);
        format!("#{} {body:?} of {size}", delivery.tag)
    };
    match event {
        CoreEvent::Answered(token, Ok(Answer::Method(method))) => {
            let (class, method) = (method.get_amqp_class_id(), method.get_amqp_method_id());
            format!("{token}: {class}.{method}")
        }
        CoreEvent::Answered(token, Ok(Answer::Got(None))) => format!("{token}: empty"),
        CoreEvent::Answered(token, Ok(Answer::Got(Some(delivery)))) => {
            format!("{token}: {}", message(&delivery))
        }
        CoreEvent::Answered(token, Err(error)) => format!("{token}: {}", reason(&error)),
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

/// Everything that can be asked of a channel fails, and nothing is written.
#[track_caller]
fn is_shut(core: &mut Core<&'static str>) {
    let mut out = BytesMut::new();
    let settling = SettleMethod::Ack { multiple: false };
    let refusals = [
        core.call(&declare(), "late"),
        core.publish(&mut out, &message(b"late")),
        core.settle(&mut out, 1, settling),
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
    subject.hears(open_ok());
    assert_eq!(subject.told(), ["open: 20.11"]);
    assert!(subject.core.is_open() && !subject.core.is_free());
}

#[test]
fn an_open_that_is_refused_is_answered_once() {
    let mut subject = Subject::opening();
    subject.written();
    subject.hears(close());
    let told = subject.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("open: ") && told[1].starts_with("closed: "));
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
}

#[test]
fn a_channel_that_was_not_asked_for_yet_is_given_up_without_a_word() {
    let mut subject = Subject::opening();
    subject.closes("close");
    assert_eq!(subject.written(), []);
    assert_eq!(
        subject.told(),
        [format!("open: {LATE}"), "close: 20.41".into()]
    );
    assert!(subject.core.is_free());
}

#[test]
fn a_channel_that_is_closed_while_it_opens_is_closed_once_it_is_open() {
    let mut subject = Subject::opening();
    subject.written();
    subject.closes("close");
    assert_eq!(subject.told(), [format!("open: {LATE}")]);
    assert_eq!(subject.written(), [CLOSE]);
    subject.hears(open_ok());
    is_shut(&mut subject.core);
    subject.hears(closed_ok());
    assert_eq!(subject.told(), ["close: 20.41"]);
    assert!(subject.core.is_free());
}

#[test]
fn one_synchronous_method_is_with_the_broker_and_the_others_wait() {
    let mut subject = Subject::busy();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    subject.calls(get(), "third");
    assert_eq!(subject.written(), [(50, 10)]);
    assert_eq!(subject.written(), []);
    // What is no answer changes nothing.
    subject.hears(ack(4));
    assert_eq!(subject.written(), []);
    subject.hears(declare_ok());
    assert_eq!(subject.written(), [(50, 30)]);
    subject.hears(purge_ok());
    assert_eq!(subject.written(), [(60, 70)]);
    subject.hears(get_empty());
    let told = subject.told();
    assert_eq!(told[1..], ["first: 50.11", "second: 50.31", "third: empty"]);
    assert_eq!(subject.written(), []);
    assert!(!subject.core.has_output());
}

#[test]
fn messages_and_settlements_do_not_wait_for_answers() {
    let mut subject = Subject::open();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    let mut out = BytesMut::new();
    subject.core.publish(&mut out, &message(b"body")).unwrap();
    subject.core.flush(&mut out);
    let settling = SettleMethod::Ack { multiple: false };
    subject.core.settle(&mut out, 1, settling).unwrap();
    let expected = [(60, 40), (60, 0), (0, 4), (50, 10), (60, 80)];
    assert_eq!(frames(&out), expected);
}

#[test]
fn what_has_no_answer_and_what_fits_no_frame_is_not_called() {
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
    assert!(matches!(error.kind(), Kind::TooLarge { .. }), "{error}");
    assert_eq!(subject.written(), []);
    assert_eq!(subject.told(), [""; 0]);
}

#[test]
fn a_refusal_ends_the_channel_and_is_the_answer_to_all_that_wait() {
    let mut subject = Subject::open();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    subject.written();
    subject.hears(close());
    let told = subject.told();
    let of = |token: &str| told.iter().filter(|told| told.starts_with(token)).count();
    assert_eq!((of("first"), of("second"), of("closed")), (1, 1, 1));
    assert!(
        told.iter()
            .all(|told| told.contains("NOT_FOUND - no queue 'q'")),
        "{told:?}"
    );
    is_shut(&mut subject.core);
    assert!(!subject.core.is_free(), "its close-ok is due");
    // Closing it, or losing it, says nothing more of it.
    subject.core.close(None, &mut subject.events);
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    subject.core.lose(&closed(), &mut subject.events);
    assert_eq!(subject.told(), [""; 0]);
    assert!(!subject.core.has_output());
}

#[test]
fn a_close_is_complete_when_it_is_answered() {
    let mut subject = Subject::open();
    subject.calls(declare(), "first");
    subject.calls(purge(), "second");
    subject.written();
    subject.closes("close");
    assert_eq!(
        subject.told(),
        [format!("first: {LATE}"), format!("second: {LATE}")]
    );
    is_shut(&mut subject.core);
    assert_eq!(subject.written(), [CLOSE]);
    assert!(!subject.core.is_free());
    subject.hears(closed_ok());
    assert!(subject.core.is_free());
    assert_eq!(subject.told(), ["close: 20.41"]);
    subject.closes("again");
    assert_eq!(subject.told(), [format!("again: {LATE}")]);
    assert_eq!(subject.written(), []);
}

#[test]
fn late_frames_of_a_channel_that_closes_are_dropped() {
    let mut subject = Subject::busy();
    subject.calls(get(), "get");
    subject.written();
    // In the middle of a message.
    subject.hears(deliver(1));
    subject.try_hear_header(4).unwrap();
    subject.try_hear_body(b"bo", false).unwrap();
    subject.closes("close");
    subject.written();
    subject.told();
    subject.try_hear_body(b"dy", true).unwrap();
    subject.hears_message(get_ok(2), b"got");
    subject.hears_message(deliver(3), b"");
    subject.hears_message(returned(), b"back");
    subject.hears(declare_ok());
    subject.hears(ack(1));
    subject.hears(cancel(false));
    subject.hears(flow(false));
    subject
        .core
        .handle(Frame::Method(b"?"), &mut subject.events)
        .unwrap();
    assert_eq!(subject.told(), [""; 0]);
    assert_eq!(subject.written(), []);
    subject.hears(closed_ok());
    subject.hears_message(deliver(9), b"late");
    subject.hears(close());
    assert_eq!(subject.told(), ["close: 20.41"]);
    assert_eq!(subject.written(), []);
    assert!(subject.core.is_free());
}

#[test]
fn both_sides_close_at_once_ours_first() {
    let mut subject = Subject::open();
    subject.closes("close");
    assert_eq!(subject.written(), [CLOSE]);
    subject.hears(close());
    assert!(!subject.core.is_free(), "our answer is due");
    assert_eq!(subject.told(), ["close: 20.41"]);
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    // Theirs may come or not.
    subject.hears(closed_ok());
    subject.core.lose(&closed(), &mut subject.events);
    assert_eq!(subject.told(), [""; 0]);
    assert_eq!(subject.written(), []);
}

#[test]
fn both_sides_close_at_once_theirs_first() {
    let mut subject = Subject::open();
    subject.hears(close());
    subject.closes("close");
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    let told = subject.told();
    assert!(told[0].starts_with("closed: "), "{told:?}");
    assert_eq!(told[1..], [format!("close: {LATE}")]);
}

#[test]
fn theirs_comes_before_ours_was_written() {
    let mut subject = Subject::open();
    subject.closes("close");
    subject.hears(close());
    assert_eq!(subject.written(), [CLOSE_OK]);
    assert!(subject.core.is_free());
    assert_eq!(subject.told(), ["close: 20.41"]);
}

#[test]
fn a_message_is_put_together_from_frames_cut_anywhere() {
    let mut subject = Subject::busy();
    subject.hears(deliver(1));
    subject.try_hear_header(10).unwrap();
    for (bytes, is_last) in [
        (&b"0123"[..], false),
        (b"", false),
        (b"45", true),
        (b"6789", false),
        (b"", true),
    ] {
        assert_eq!(subject.told(), [""; 0]);
        subject.try_hear_body(bytes, is_last).unwrap();
    }
    assert_eq!(subject.told(), [r#"delivered #1 "0123456789" of 10"#]);
    subject.hears_message(deliver(2), b"");
    assert_eq!(subject.told(), [r#"delivered #2 "" of 0"#]);
}

#[test]
fn a_body_that_is_too_large_is_left_out_and_its_size_told() {
    let mut subject = Subject::busy();
    subject.core.limit_bodies(4);
    subject.hears_message(deliver(1), b"1234");
    subject.hears_message(deliver(2), b"12345");
    subject.calls(get(), "get");
    subject.written();
    subject.hears_message(get_ok(3), b"123456");
    let expected = [
        r#"delivered #1 "1234" of 4"#,
        r#"delivered #2 "" of 5"#,
        r#"get: #3 "" of 6"#,
    ];
    assert_eq!(subject.told(), expected);
    // The size that is announced is not reserved.
    subject.hears(deliver(4));
    subject.try_hear_header(u64::MAX).unwrap();
    let reserved = |core: &Core<_>| core.content.as_ref().unwrap().body.capacity();
    assert_eq!(reserved(&subject.core), 0);
    subject.core.limit_bodies(u64::MAX);
    let mut subject = Subject::busy();
    subject.hears(deliver(1));
    subject.try_hear_header(u64::MAX).unwrap();
    assert!(reserved(&subject.core) as u64 <= 2 * PREALLOCATED);
}

#[test]
fn get_brings_a_message_or_tells_that_there_is_none() {
    let mut subject = Subject::open();
    subject.calls(get(), "first");
    subject.calls(get(), "second");
    assert_eq!(subject.written(), [(60, 70)]);
    subject.hears(get_ok(1));
    assert_eq!(subject.written(), [], "not before it is complete");
    subject.try_hear_header(1).unwrap();
    subject.try_hear_body(b"x", true).unwrap();
    assert_eq!(subject.written(), [(60, 70)]);
    subject.hears(get_empty());
    assert_eq!(subject.told(), [r#"first: #1 "x" of 1"#, "second: empty"]);
}

#[test]
fn a_message_that_came_back_is_told_without_its_body() {
    let mut subject = Subject::busy();
    subject.hears_message(returned(), b"body");
    subject.hears(ack(9));
    let told = subject.told();
    assert_eq!(told[0], "returned nowhere NO_ROUTE");
    assert!(told[1].contains("tag: 9"), "{told:?}");
}

#[test]
fn a_cancel_of_the_broker_is_told_and_answered_where_it_asks() {
    let mut subject = Subject::busy();
    subject.hears(cancel(true));
    assert_eq!(subject.written(), []);
    subject.hears(cancel(false));
    assert_eq!(subject.written(), [(60, 31)]);
    assert_eq!(subject.told(), ["cancelled", "cancelled"]);
    assert!(subject.core.is_open());
}

#[test]
fn flow_is_answered_and_not_obeyed() {
    let mut subject = Subject::open();
    subject.hears(flow(false));
    assert!(subject.core.has_output());
    assert_eq!(subject.written(), [(20, 21)]);
    let mut out = BytesMut::new();
    subject.core.publish(&mut out, &message(b"")).unwrap();
    assert_eq!(subject.told(), [""; 0]);
}

#[test]
fn a_broker_that_asks_and_does_not_read_is_not_answered_for_ever() {
    let mut subject = Subject::busy();
    let mut out = BytesMut::new();
    for _ in 0..50_000 {
        subject.hears(flow(false));
        subject.hears(flow(true));
        subject.hears(cancel(false));
        subject.core.flush(&mut out);
        subject.events.clear();
    }
    assert!(out.len() < MAX_UNREAD_ANSWERS + 1000, "{}", out.len());
    // Once it has read, it is answered again.
    assert!(subject.core.has_output());
    assert_eq!(subject.written(), [(20, 21), (60, 31)]);
}

#[test]
fn delivery_tags_come_one_by_one() {
    for tags in [&[2][..], &[0], &[1, 1], &[1, 3], &[1, 2, 1]] {
        let mut subject = Subject::busy();
        let (last, before) = tags.split_last().unwrap();
        for tag in before {
            subject.hears_message(deliver(*tag), b"");
        }
        assert!(subject.try_hear(deliver(*last)).is_err(), "{tags:?}");
        // A message that is fetched has its place in the same row.
        let mut subject = Subject::busy();
        for tag in before {
            subject.hears_message(deliver(*tag), b"");
        }
        subject.calls(get(), "get");
        subject.written();
        assert!(subject.try_hear(get_ok(*last)).is_err(), "{tags:?}");
    }
}

#[test]
fn breaches_of_the_protocol_are_violations() {
    type Breach = fn(&mut Subject) -> Result<(), Violation>;
    let breaches: &[(&str, Breach)] = &[
        ("an answer that nobody asked for", |subject| {
            subject.try_hear(declare_ok())
        }),
        ("a second open-ok", |subject| subject.try_hear(open_ok())),
        ("get-ok that nobody asked for", |subject| {
            subject.try_hear(get_ok(1))
        }),
        ("get-empty that nobody asked for", |subject| {
            subject.try_hear(get_empty())
        }),
        ("the answer to another method", |subject| {
            subject.calls(purge(), "purge");
            subject.written();
            subject.try_hear(declare_ok())
        }),
        ("an answer before the method was written", |subject| {
            subject.calls(purge(), "purge");
            subject.try_hear(purge_ok())
        }),
        ("a method of a client", |subject| {
            subject.try_hear(declare())
        }),
        ("a header by itself", |subject| subject.try_hear_header(1)),
        ("a body by itself", |subject| {
            subject.try_hear_body(b"x", true)
        }),
        ("a body before its header", |subject| {
            subject.hears(deliver(1));
            subject.try_hear_body(b"x", true)
        }),
        ("a second header", |subject| {
            subject.hears(deliver(1));
            subject.try_hear_header(1)?;
            subject.try_hear_header(1)
        }),
        ("a body that is too long", |subject| {
            subject.hears(deliver(1));
            subject.try_hear_header(1)?;
            subject.try_hear_body(b"xy", true)
        }),
        ("a body where there is none", |subject| {
            subject.hears(deliver(1));
            subject.try_hear_header(0)?;
            subject.try_hear_body(b"", true)
        }),
        ("a method in the middle of a message", |subject| {
            subject.hears(deliver(1));
            subject.try_hear_header(1)?;
            subject.try_hear(ack(1))
        }),
        ("a header of another class", |subject| {
            subject.hears(deliver(1));
            let payload = [0, 61, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            subject
                .core
                .handle(Frame::Header(&payload), &mut subject.events)
        }),
        ("a header that is cut short", |subject| {
            subject.hears(deliver(1));
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
        // The end of the connection is told to all that wait, once.
        subject.told();
        subject.core.lose(&closed(), &mut subject.events);
        let told = subject.told();
        let ends = told.iter().filter(|told| told.starts_with("closed: "));
        assert_eq!(ends.count(), 1, "{what}: {told:?}");
    }
}

#[test]
fn a_close_may_come_in_the_middle_of_a_message() {
    let mut subject = Subject::open();
    subject.calls(get(), "get");
    subject.written();
    subject.hears(get_ok(1));
    subject.try_hear_header(100).unwrap();
    subject.hears(close());
    let told = subject.told();
    assert!(
        told[0].starts_with("get: ") && told[1].starts_with("closed: "),
        "{told:?}"
    );
    assert_eq!(subject.written(), [CLOSE_OK]);
}

#[test]
fn the_end_of_the_connection_is_told_once_to_each() {
    let reason = || Error::new(Kind::Closed);
    let lost = |mut subject: Subject| {
        subject.core.lose(&reason(), &mut subject.events);
        let told = subject.told();
        subject.core.lose(&reason(), &mut subject.events);
        assert_eq!(subject.told(), [""; 0]);
        assert_eq!(subject.written(), []);
        assert!(subject.core.is_free() && !subject.core.has_output());
        is_shut(&mut subject.core);
        told
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
    refused.hears(close());
    refused.told();
    assert_eq!(lost(refused), [""; 0]);
}

#[test]
fn what_is_late_for_the_channel_before_is_not_heard_as_said_of_this_one() {
    // Before and after the number is open again, with and without a consumer of its own.
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
        subject.hears_message(late.clone(), b"late");
        subject.hears_message(late, b"");
        let cancel = basic::Cancel {
            consumer_tag: "another".into(),
            nowait: false,
        };
        subject.hears(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
        subject.hears(ack(10));
        subject.hears(closed_ok());
        assert_eq!(subject.told(), [""; 0]);
        assert_eq!(subject.written(), []);
    }
    // Its own deliveries are numbered from 1 all the same, and its own confirms are heard.
    let mut subject = Subject::busy();
    subject.hears_message(deliver(1), b"own");
    subject.hears(ack(9));
    assert_eq!(subject.told().len(), 2);
}

#[test]
fn a_close_of_the_broker_may_be_followed_by_an_echo() {
    let mut refused = Subject::open();
    refused.hears(close());
    assert!(refused.core.may_have_echo());
    let mut both = Subject::open();
    both.closes("close");
    both.hears(close());
    both.hears(closed_ok());
    assert!(both.core.may_have_echo());
    let mut closed = Subject::open();
    closed.closes("close");
    closed.hears(closed_ok());
    assert!(!closed.core.may_have_echo());
}
