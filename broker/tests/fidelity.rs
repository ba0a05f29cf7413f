//! Behaviour that other clients rely on where the standard alone would have it otherwise: as RabbitMQ
//! does it. `tests/tests/conformance/broker/` holds both brokers against the same and more.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable},
};
use lepus_broker::Broker;
use support::{
    long,
    raw::{Raw, Wish, encode},
    table,
};

fn declare(name: &str, durable: bool, arguments: FieldTable) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: name.into(),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments,
    }))
}

/// The code that a declaration is refused with, or 0; and the name that was declared.
async fn declared(raw: &mut Raw, declare: AMQPClass) -> (u16, String) {
    raw.send(1, declare).await;
    match raw.method().await.unwrap() {
        AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => (0, ok.queue.to_string()),
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
            raw.send(1, AMQPClass::Channel(close_ok)).await;
            let open = channel::AMQPMethod::Open(channel::Open {});
            raw.send(1, AMQPClass::Channel(open)).await;
            raw.method().await.unwrap();
            (close.reply_code, String::new())
        }
        other => panic!("{other:?}"),
    }
}

/// A message of one body frame.
fn published(key: &str, body: Vec<u8>) -> Vec<u8> {
    let publish = basic::AMQPMethod::Publish(basic::Publish {
        exchange: "".into(),
        routing_key: key.into(),
        mandatory: false,
        immediate: false,
    });
    let header = AMQPContentHeader {
        class_id: 60,
        body_size: body.len() as u64,
        properties: BasicProperties::default(),
    };
    [
        encode(&AMQPFrame::Method(1, AMQPClass::Basic(publish))),
        encode(&AMQPFrame::Header(1, header)),
        encode(&AMQPFrame::Body(1, body)),
    ]
    .concat()
}

#[tokio::test]
async fn a_payload_may_have_frame_max_octets() {
    let broker = Broker::builder().max_frame(8192).start().await.unwrap();
    let wish = Wish {
        frame_max: 8192,
        ..Wish::default()
    };
    let mut raw = Raw::open(broker.address(), &wish).await.unwrap();
    let open = channel::AMQPMethod::Open(channel::Open {});
    raw.send(1, AMQPClass::Channel(open)).await;
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    raw.send(1, AMQPClass::Confirm(select)).await;
    for _ in 0..2 {
        raw.method().await.unwrap();
    }
    raw.write(&published("nowhere", vec![0; 8192])).await;
    let confirmed = raw.method().await.unwrap();
    assert!(matches!(
        confirmed,
        AMQPClass::Basic(basic::AMQPMethod::Ack(_))
    ));
    raw.write(&published("nowhere", vec![0; 8193])).await;
    assert_eq!(raw.closed_with().await, 501);
}

#[tokio::test]
async fn a_handshake_takes_no_frame_above_4096_octets() {
    let broker = Broker::start().await.unwrap();
    let start_ok = |padding: usize| {
        let method = connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: table([("padding", long(&"x".repeat(padding)))]),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        });
        encode(&AMQPFrame::Method(0, AMQPClass::Connection(method)))
    };
    let around = start_ok(0).len() - 8;
    for (size, fits) in [(4096, true), (4097, false)] {
        let mut raw = Raw::dial(broker.address()).await;
        raw.write(b"AMQP\0\0\x09\x01").await;
        raw.method().await.unwrap();
        raw.write(&start_ok(size - around)).await;
        if fits {
            let tune = raw.method().await.unwrap();
            assert!(matches!(
                tune,
                AMQPClass::Connection(connection::AMQPMethod::Tune(_))
            ));
        } else {
            assert_eq!(raw.closed_with().await, 501);
        }
    }
}

/// `product`, `version` and `implementation` of a broker's greeting.
async fn introduction(broker: &Broker) -> [String; 3] {
    let mut raw = Raw::dial(broker.address()).await;
    raw.write(b"AMQP\0\0\x09\x01").await;
    match raw.method().await.unwrap() {
        AMQPClass::Connection(connection::AMQPMethod::Start(start)) => {
            ["product", "version", "implementation"].map(|name| {
                match &start.server_properties.inner()[name] {
                    AMQPValue::LongString(text) => text.to_string(),
                    other => panic!("{other:?}"),
                }
            })
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_introduces_itself_as_what_it_stands_in_for() {
    let own = concat!("lepus-broker ", env!("CARGO_PKG_VERSION"));
    let broker = Broker::start().await.unwrap();
    assert_eq!(introduction(&broker).await, ["RabbitMQ", "3.10.8", own]);
    let builder = Broker::builder().product("Other").version("4.1.0");
    let broker = builder.start().await.unwrap();
    assert_eq!(introduction(&broker).await, ["Other", "4.1.0", own]);
}

#[tokio::test]
async fn a_queue_may_live_for_ten_years() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    for (millis, code) in [
        (134_217_728_000, 0),
        (315_360_000_000, 0),
        (315_360_000_001, 406),
    ] {
        for name in ["x-message-ttl", "x-expires"] {
            let arguments = table([(name, AMQPValue::LongLongInt(millis))]);
            let queue = format!("{name} {millis}");
            let answer = declared(&mut raw, declare(&queue, false, arguments)).await;
            assert_eq!(answer.0, code, "{queue}");
        }
    }
    // The clock goes on behind these.
    let arguments = table([("x-expires", AMQPValue::LongLongInt(1))]);
    assert_eq!(
        declared(&mut raw, declare("short", false, arguments))
            .await
            .0,
        0
    );
    support::eventually(|| async { broker.queue("short").is_none().then_some(()) }).await;
}

#[tokio::test]
async fn names_lose_their_line_ends() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    let spoilt = declare("a\r\nb\rc\nd", false, FieldTable::default());
    assert_eq!(declared(&mut raw, spoilt).await, (0, "abcd".to_owned()));
    assert!(broker.queue("abcd").is_some());
    let (code, name) = declared(&mut raw, declare("\r\n", false, FieldTable::default())).await;
    assert_eq!(code, 0);
    assert!(name.starts_with("amq.gen-"), "{name}");
    let reserved = declare("am\rq.x", false, FieldTable::default());
    assert_eq!(declared(&mut raw, reserved).await.0, 403);
}

#[tokio::test]
async fn each_type_of_queue_has_its_own_arguments() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    let one = AMQPValue::LongInt(1);
    for (at, (kind, name, value, code)) in [
        ("classic", "x-delivery-limit", one.clone(), 406),
        ("classic", "x-queue-leader-locator", long("balanced"), 406),
        ("classic", "x-initial-cluster-size", one.clone(), 406),
        ("classic", "x-overflow", long("reject-publish-dlx"), 0),
        ("classic", "x-unknown", one.clone(), 0),
        ("quorum", "x-delivery-limit", AMQPValue::LongInt(-1), 0),
        ("quorum", "x-delivery-limit", long("any"), 0),
        ("quorum", "x-overflow", long("reject-publish-dlx"), 0),
        ("quorum", "x-overflow", long("any"), 406),
        ("quorum", "x-dead-letter-strategy", long("any"), 406),
        (
            "quorum",
            "x-quorum-initial-group-size",
            AMQPValue::LongInt(0),
            406,
        ),
        (
            "quorum",
            "x-max-in-memory-length",
            AMQPValue::LongInt(-1),
            406,
        ),
        ("quorum", "x-queue-leader-locator", long("any"), 406),
        ("quorum", "x-queue-master-locator", long("min-masters"), 406),
        ("quorum", "x-max-priority", one, 406),
    ]
    .into_iter()
    .enumerate()
    {
        let arguments = table([("x-queue-type", long(kind)), (name, value.clone())]);
        let answer = declared(&mut raw, declare(&format!("q{at}"), true, arguments)).await;
        assert_eq!(answer.0, code, "{kind} {name} {value:?}");
    }
}

/// A frame with a payload of the test's own making.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1][..], &size, payload, &[0xce]].concat()
}

#[tokio::test]
async fn properties_are_what_their_flags_announce() {
    let broker = Broker::start().await.unwrap();
    // A header of an empty body, with a weight and properties.
    let published = |weight: u8, properties: &[u8]| {
        let head = [&[0, 60, 0, weight][..], &[0; 8], properties].concat();
        [
            frame(1, b"\0\x3c\0\x28\0\0\0\x01q\0"),
            frame(2, &head),
            frame(1, b"\0\x3c\0\x46\0\0\x01q\x01"),
        ]
        .concat()
    };
    for (weight, properties, expected) in [
        (0, &b"\0\0"[..], Ok(())),
        (0, b"\x80\x03\x01\xff", Ok(())),
        (0, b"\x20\0\0\0\0\x04\x01\xfft\x01", Ok(())),
        (0, b"\0\0z", Err(541)),
        (0, b"\x80\0\x02a", Err(541)),
        (0, b"\0", Err(541)),
        (0, b"\x20\0\0\0\0\x03\x01aQ", Err(541)),
        (1, b"\0\0", Err(505)),
    ] {
        let mut raw = Raw::ready(broker.address()).await;
        assert_eq!(
            declared(&mut raw, declare("q", false, FieldTable::default()))
                .await
                .0,
            0
        );
        raw.write(&published(weight, properties)).await;
        match expected {
            Err(code) => assert_eq!(raw.closed_with().await, code, "{properties:?}"),
            Ok(()) => {
                // They go on as they came.
                let mut answer = Vec::new();
                let frame = frame(2, &[&[0, 60, 0, 0][..], &[0; 8], properties].concat());
                while !answer.windows(frame.len()).any(|window| window == frame) {
                    let read = tokio::io::AsyncReadExt::read_buf(&mut raw.stream, &mut answer);
                    let read = tokio::time::timeout(support::raw::PATIENCE, read).await;
                    assert_ne!(read.unwrap().unwrap(), 0, "{properties:?}: {answer:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn names_of_messages_may_be_any_octets() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    assert_eq!(
        declared(&mut raw, declare("q", false, FieldTable::default()))
            .await
            .0,
        0
    );
    // queue.bind of `q` to `amq.topic` with the key `a.*`, a message there with the key `a.\xff`,
    // basic.get.
    raw.write(&frame(
        1,
        b"\0\x32\0\x14\0\0\x01q\x09amq.topic\x03a.*\0\0\0\0\0",
    ))
    .await;
    raw.method().await.unwrap();
    raw.write(&frame(1, b"\0\x3c\0\x28\0\0\x09amq.topic\x03a.\xff\0"))
        .await;
    raw.write(&frame(2, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        .await;
    raw.write(&frame(1, b"\0\x3c\0\x46\0\0\x01q\x01")).await;
    let mut answer = [0; 7 + 4 + 9 + 10];
    tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut answer)
        .await
        .unwrap();
    let mut key = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut raw.stream, &mut key)
        .await
        .unwrap();
    assert_eq!(&answer[7..11], [0, 60, 0, 71]);
    assert_eq!(key, *b"\x03a.\xff");
}

#[tokio::test]
async fn who_asks_a_quorum_queue_is_told_of_a_first_time_too() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    let arguments = table([("x-queue-type", long("quorum"))]);
    assert_eq!(declared(&mut raw, declare("q", true, arguments)).await.0, 0);
    for count in 0..2 {
        if count == 0 {
            raw.write(&published("q", b"x".to_vec())).await;
        }
        let get = basic::Get {
            queue: "q".into(),
            no_ack: false,
        };
        raw.basic(basic::AMQPMethod::Get(get)).await;
        let Ok(AMQPClass::Basic(basic::AMQPMethod::GetOk(got))) = raw.method().await else {
            panic!("no message")
        };
        let Some(AMQPFrame::Header(_, header)) = raw.frame().await else {
            panic!("no header")
        };
        let headers = header.properties.headers().clone().unwrap();
        let expected = table([("x-delivery-count", AMQPValue::LongLongInt(count))]);
        assert_eq!(headers, expected);
        raw.frame().await;
        let nack = basic::Nack {
            delivery_tag: got.delivery_tag,
            multiple: false,
            requeue: true,
        };
        raw.basic(basic::AMQPMethod::Nack(nack)).await;
    }
}
