//! The protocol itself, as a client sees it that does not behave.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::{Duration, Instant};

use amq_protocol::{
    frame::{AMQPFrame, WriteContext},
    protocol::{AMQPClass, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable, generation::gen_field_table},
};
use lepus_broker::Broker;
use support::{
    eventually,
    raw::{Raw, Wish, encode, publish_frames},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn refused(broker: &Broker, wish: Wish) -> (u16, String) {
    match Raw::open(broker.address(), &wish).await {
        Err(Some(close)) => (close.reply_code, close.reply_text.to_string()),
        Err(None) => (0, String::new()),
        Ok(_) => panic!("{wish:?} was accepted"),
    }
}

fn declare(name: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: name.into(),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn consume(queue: &str, no_ack: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: "c".into(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    })
}

#[tokio::test]
async fn another_version_is_told_ours() {
    let broker = Broker::start().await.unwrap();
    for greeting in [b"AMQP\0\x01\0\0", b"AMQP\x01\x01\x08\0", b"GET / HT"] {
        let mut raw = Raw::dial(broker.address()).await;
        raw.write(greeting).await;
        let mut answer = Vec::new();
        raw.stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"AMQP\0\0\x09\x01");
    }
}

#[tokio::test]
async fn logins_are_checked() {
    let broker = Broker::builder()
        .user("admin", "a:b/c@ d")
        .user_in("guest", "guest", &["/"])
        .vhost("/")
        .vhost("other")
        .start()
        .await
        .unwrap();
    let address = broker.address();
    assert!(Raw::open(address, &Wish::default()).await.is_ok());
    let wrong = Wish {
        response: b"\0guest\0wrong".to_vec(),
        ..Wish::default()
    };
    assert_eq!(
        refused(&broker, wrong.clone()).await,
        (
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details \
             see the broker logfile."
                .to_owned()
        )
    );
    // Who does not know of the close gets none.
    assert_eq!(
        refused(
            &broker,
            Wish {
                capabilities: &[],
                ..wrong
            }
        )
        .await
        .0,
        0
    );
    let vhost = |vhost| Wish {
        vhost,
        ..Wish::default()
    };
    assert_eq!(
        refused(&broker, vhost("nope")).await,
        (530, "NOT_ALLOWED - vhost nope not found".to_owned())
    );
    assert_eq!(
        refused(&broker, vhost("other")).await,
        (
            530,
            "NOT_ALLOWED - access to vhost 'other' refused for user 'guest'".to_owned()
        )
    );
    support::connect(&broker.uri_for("admin", "a:b/c@ d", "other"))
        .await
        .unwrap();
}

#[tokio::test]
async fn amqplain_logs_in() {
    let broker = Broker::start().await.unwrap();
    let response = |password: &str| {
        let mut table = FieldTable::default();
        table.insert("LOGIN".into(), AMQPValue::LongString("guest".into()));
        table.insert("PASSWORD".into(), AMQPValue::LongString(password.into()));
        let bytes = gen_field_table(&table)(WriteContext::from(Vec::new()))
            .unwrap()
            .into_inner()
            .0;
        bytes[4..].to_vec()
    };
    let wish = |password| Wish {
        mechanism: "AMQPLAIN",
        response: response(password),
        ..Wish::default()
    };
    assert!(Raw::open(broker.address(), &wish("guest")).await.is_ok());
    assert_eq!(refused(&broker, wish("no")).await.0, 403);
    assert_eq!(
        refused(
            &broker,
            Wish {
                mechanism: "EXTERNAL",
                ..Wish::default()
            }
        )
        .await
        .0,
        503
    );
}

#[tokio::test]
async fn limits_are_negotiated() {
    let broker = Broker::builder()
        .max_channels(5)
        .max_frame(8192)
        .start()
        .await
        .unwrap();
    for (channel_max, frame_max) in [(0, 8192), (6, 8192), (5, 0), (5, 8193), (5, 100)] {
        let wish = Wish {
            channel_max,
            frame_max,
            ..Wish::default()
        };
        assert_eq!(
            refused(&broker, wish).await.0,
            530,
            "{channel_max} {frame_max}"
        );
    }
    let wish = Wish {
        channel_max: 2,
        frame_max: 4096,
        ..Wish::default()
    };
    let mut raw = Raw::open(broker.address(), &wish).await.unwrap();
    for number in 1..=3 {
        raw.send(
            number,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        )
        .await;
    }
    assert_eq!(raw.closed_with().await, 530);
}

#[tokio::test]
async fn bodies_are_cut_to_the_frame_agreed_on() {
    let broker = Broker::start().await.unwrap();
    let wish = Wish {
        frame_max: 4096,
        ..Wish::default()
    };
    let mut raw = Raw::open(broker.address(), &wish).await.unwrap();
    raw.send(
        1,
        AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
    )
    .await;
    raw.send(1, declare("q")).await;
    raw.basic(consume("q", true)).await;
    for _ in 0..3 {
        raw.method().await.unwrap();
    }
    let mut publisher = Raw::ready(broker.address()).await;
    let body: Vec<u8> = (0..150_000_u32).map(|n| n as u8).collect();
    publisher.publish("q", &body, false).await;
    let mut received = Vec::new();
    while received.len() < body.len() {
        match raw.frame().await.unwrap() {
            AMQPFrame::Body(1, chunk) => {
                assert!(chunk.len() <= 4096 - 8);
                received.extend(chunk);
            }
            AMQPFrame::Method(1, _) | AMQPFrame::Header(1, _) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(received == body);
}

#[tokio::test]
async fn octets_may_come_one_by_one() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    raw.stream.set_nodelay(true).unwrap();
    let mut bytes = encode(&AMQPFrame::Method(1, declare("slow")));
    bytes.extend(publish_frames("slow", b"body", false));
    for byte in bytes {
        raw.stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    eventually(|| async { broker.queue("slow").filter(|queue| queue.ready == 1) }).await;
}

#[tokio::test]
async fn one_clients_fault_is_not_anothers() {
    let broker = Broker::start().await.unwrap();
    let mut good = Raw::ready(broker.address()).await;
    for (bytes, code) in [
        (&b"\x01\0\x01\0\0\0\x04\0\x3c\x03\xe7\xce"[..], 501),
        (b"\x07\0\x01\0\0\0\0\xce", 501),
        (b"\x01\0\x01\0\0\0\x01\0\0", 501),
        (b"\x01\0\x01\xff\xff\xff\xff", 501),
        (b"\x03\0\x01\0\0\0\x01a\xce", 505),
        (b"\x02\0\x01\0\0\0\x01a\xce", 501),
        (b"\x08\0\x01\0\0\0\0\xce", 505),
        (b"\x03\0\0\0\0\0\0\xce", 505),
        (b"\x01\0\x09\0\0\0\x05\0\x14\0\x14\x01\xce", 504),
        (b"\x01\0\x01\0\0\0\x05\0\x14\0\x0a\0\xce", 504),
        (
            b"\x01\0\x01\0\0\0\x0b\0\x3c\0\x0a\0\0\0\x05\0\x01\0\xce",
            540,
        ),
    ] {
        let mut bad = Raw::ready(broker.address()).await;
        bad.write(bytes).await;
        assert_eq!(bad.closed_with().await, code, "{bytes:?}");
        // The rest of the dialogue: our close-ok ends it.
        bad.send(
            0,
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})),
        )
        .await;
        assert!(bad.frame().await.is_none());
    }
    good.send(1, declare("fine")).await;
    assert!(good.method().await.is_ok());
}

#[tokio::test]
async fn content_out_of_turn_is_unexpected() {
    let broker = Broker::start().await.unwrap();
    let whole = publish_frames("q", b"body", false);
    let (method, rest) = whole.split_at(whole.iter().position(|byte| *byte == 0xce).unwrap() + 1);
    let header = &rest[..rest.iter().position(|byte| *byte == 0xce).unwrap() + 1];
    for sequence in [[method, method], [method, b"\x03\0\x01\0\0\0\x01a\xce"]] {
        let mut raw = Raw::ready(broker.address()).await;
        raw.write(&sequence.concat()).await;
        assert_eq!(raw.closed_with().await, 505);
    }
    for third in [method, header] {
        let mut raw = Raw::ready(broker.address()).await;
        raw.write(&[method, header, third].concat()).await;
        assert_eq!(raw.closed_with().await, 505);
    }
}

#[tokio::test]
async fn a_channel_closed_by_the_broker_is_usable_again() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    // More commands are on their way when the channel dies of the first; they do nothing.
    raw.basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag: 5,
        multiple: false,
    }))
    .await;
    raw.send(1, declare("ignored")).await;
    raw.publish("ignored", b"ignored", false).await;
    match raw.method().await.unwrap() {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            assert_eq!(
                (close.reply_code, close.class_id, close.method_id),
                (406, 60, 80)
            );
            assert_eq!(
                close.reply_text.as_str(),
                "PRECONDITION_FAILED - unknown delivery tag 5"
            );
        }
        other => panic!("{other:?}"),
    }
    raw.send(
        1,
        AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
    )
    .await;
    raw.send(
        1,
        AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
    )
    .await;
    assert!(matches!(
        raw.method().await.unwrap(),
        AMQPClass::Channel(channel::AMQPMethod::OpenOk(_))
    ));
    assert!(broker.queue("ignored").is_none());
}

#[tokio::test]
async fn confirms_come_in_order_and_returns_before_them() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    raw.send(1, declare("q")).await;
    raw.send(
        1,
        AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
            nowait: false,
        })),
    )
    .await;
    let mut all = Vec::new();
    for n in 0..300_u32 {
        all.extend(publish_frames(
            if n % 3 == 0 { "nowhere" } else { "q" },
            &n.to_be_bytes(),
            true,
        ));
    }
    raw.write(&all).await;
    let (mut confirmed, mut returned, mut last_returned) = (0, 0, None);
    while confirmed < 300 {
        match raw.frame().await.unwrap() {
            AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                assert!(
                    ack.delivery_tag == confirmed + 1
                        || ack.multiple && ack.delivery_tag > confirmed
                );
                confirmed = ack.delivery_tag;
            }
            AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(_))) => returned += 1,
            AMQPFrame::Body(1, body) => {
                let number = u64::from(u32::from_be_bytes(body.try_into().unwrap()));
                // Message n has delivery tag n + 1.
                assert!(confirmed <= number, "the confirm overtook the return");
                assert!(last_returned.is_none_or(|last| last < number));
                last_returned = Some(number);
            }
            _ => {}
        }
    }
    assert_eq!(returned, 100);
}

#[tokio::test]
async fn silence_costs_a_client_its_connection_and_earns_it_heartbeats() {
    let broker = Broker::start().await.unwrap();
    let started = Instant::now();
    let wish = Wish {
        heartbeat: 1,
        ..Wish::default()
    };
    let mut raw = Raw::open(broker.address(), &wish).await.unwrap();
    let mut heartbeats = 0;
    while let Some(frame) = raw.frame().await {
        assert_eq!(frame, AMQPFrame::Heartbeat);
        heartbeats += 1;
    }
    let lived = started.elapsed();
    assert!(heartbeats >= 2, "{heartbeats}");
    assert!(lived >= Duration::from_secs(2), "{lived:?}");
}

#[tokio::test]
async fn a_client_that_beats_lives() {
    let broker = Broker::start().await.unwrap();
    let wish = Wish {
        heartbeat: 1,
        ..Wish::default()
    };
    let mut raw = Raw::open(broker.address(), &wish).await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        raw.write(&encode(&AMQPFrame::Heartbeat)).await;
    }
    assert_eq!(broker.connections().len(), 1);
}

#[tokio::test]
async fn who_does_not_log_in_is_hung_up_on() {
    let limit = Duration::from_millis(100);
    let broker = Broker::builder()
        .handshake_timeout(limit)
        .start()
        .await
        .unwrap();
    for greeting in [&b""[..], b"AMQP\0\0\x09\x01"] {
        let mut raw = Raw::dial(broker.address()).await;
        raw.write(greeting).await;
        let mut answer = Vec::new();
        raw.stream.read_to_end(&mut answer).await.ok();
    }
}

#[tokio::test]
async fn too_many_connections_are_turned_away() {
    let broker = Broker::builder().max_connections(2).start().await.unwrap();
    let first = Raw::ready(broker.address()).await;
    let _second = Raw::ready(broker.address()).await;
    let mut third = Raw::dial(broker.address()).await;
    third.write(b"AMQP\0\0\x09\x01").await;
    assert!(third.frame().await.is_none());
    drop(first);
    eventually(|| async { Raw::open(broker.address(), &Wish::default()).await.ok() }).await;
}

#[tokio::test]
async fn large_messages_and_many_queues_are_refused() {
    let broker = Broker::builder()
        .max_message(1000)
        .max_queues(1)
        .start()
        .await
        .unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    raw.publish("q", &[0; 1001], false).await;
    match raw.method().await.unwrap() {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => assert_eq!(
            close.reply_text.as_str(),
            "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000"
        ),
        other => panic!("{other:?}"),
    }
    raw.send(
        1,
        AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
    )
    .await;
    raw.send(
        1,
        AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
    )
    .await;
    raw.send(1, declare("one")).await;
    raw.send(1, declare("two")).await;
    assert!(matches!(
        raw.method().await.unwrap(),
        AMQPClass::Channel(channel::AMQPMethod::OpenOk(_))
    ));
    assert!(matches!(raw.method().await.unwrap(), AMQPClass::Queue(_)));
    match raw.method().await.unwrap() {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => assert_eq!(close.reply_code, 406),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn streams_are_not_implemented() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("stream".into()),
    );
    let AMQPClass::Queue(queue::AMQPMethod::Declare(mut stream)) = declare("s") else {
        panic!()
    };
    stream.arguments = arguments;
    raw.send(1, AMQPClass::Queue(queue::AMQPMethod::Declare(stream)))
        .await;
    assert_eq!(raw.closed_with().await, 540);
}

#[tokio::test]
async fn a_reader_that_sleeps_stalls_nobody_and_holds_little() {
    let broker = Broker::start().await.unwrap();
    let mut sleeper = Raw::ready(broker.address()).await;
    sleeper.send(1, declare("flood")).await;
    sleeper.basic(consume("flood", true)).await;
    let mut publisher = Raw::ready(broker.address()).await;
    let body = vec![0; 100_000];
    for _ in 0..400 {
        publisher.publish("flood", &body, false).await;
    }
    // What neither the sockets nor the window take stays in the queue.
    publisher.send(1, declare("flood")).await;
    assert!(publisher.method().await.is_ok());
    let queue = broker.queue("flood").unwrap();
    assert!(
        queue.ready > 300,
        "{} of 400 are still in the queue",
        queue.ready
    );
    // Somebody awake gets messages at once.
    let mut other = Raw::ready(broker.address()).await;
    other
        .basic(basic::AMQPMethod::Get(basic::Get {
            queue: "flood".into(),
            no_ack: true,
        }))
        .await;
    assert!(matches!(
        other.method().await.unwrap(),
        AMQPClass::Basic(basic::AMQPMethod::GetOk(_))
    ));
    // Awake again, the sleeper gets all the rest.
    let mut received = 0;
    while received < 399 * body.len() {
        if let AMQPFrame::Body(_, chunk) = sleeper.frame().await.unwrap() {
            received += chunk.len();
        }
    }
    eventually(|| async { (broker.memory() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn answers_to_who_does_not_read_are_bounded() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    // Returned messages come back whole: 200 MB of answers nobody reads.
    let frames = publish_frames("nowhere", &vec![0; 100_000], true);
    let flood = async {
        for _ in 0..2000 {
            if raw.stream.write_all(&frames).await.is_err() {
                break;
            }
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_millis(500), flood)
            .await
            .is_err(),
        "the broker went on reading"
    );
    assert!(broker.memory() < 4_000_000, "{}", broker.memory());
}

#[tokio::test]
async fn a_memory_cap_blocks_publishers_and_not_consumers() {
    let broker = Broker::builder()
        .max_memory(1_000_000)
        .start()
        .await
        .unwrap();
    let mut consumer = Raw::ready(broker.address()).await;
    consumer.send(1, declare("big")).await;
    consumer.method().await.unwrap();
    let mut publisher = Raw::ready(broker.address()).await;
    let frames = publish_frames("big", &[0; 10_000], false);
    let flood = async {
        for _ in 0..10_000 {
            publisher.stream.write_all(&frames).await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_millis(500), flood)
            .await
            .is_err()
    );
    assert!(broker.memory() < 2_000_000, "{}", broker.memory());
    assert!(
        broker
            .connections()
            .iter()
            .any(|connection| connection.blocked)
    );
    match publisher.method().await.unwrap() {
        AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) => {
            assert_eq!(blocked.reason.as_str(), "low on memory");
        }
        other => panic!("{other:?}"),
    }
    consumer
        .send(
            1,
            AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge {
                queue: "big".into(),
                nowait: false,
            })),
        )
        .await;
    assert!(consumer.method().await.is_ok());
    assert!(matches!(
        publisher.method().await.unwrap(),
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(_))
    ));
}

#[tokio::test]
async fn tables_nested_without_end_are_refused() {
    let broker = Broker::start().await.unwrap();
    for (levels, refused) in [(60, false), (20_000, true)] {
        let mut table = Vec::new();
        for _ in 0..levels {
            let length = u32::try_from(table.len()).unwrap().to_be_bytes();
            table = [&b"A"[..], &length, &table].concat();
        }
        let table = [&b"\x01k"[..], &table].concat();
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        let payload = [b"\0\x32\0\x0a\0\0\x01n\0", &length[..], &table].concat();
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut raw = Raw::ready(broker.address()).await;
        raw.write(&[&b"\x01\0\x01"[..], &size, &payload, b"\xce"].concat())
            .await;
        if refused {
            assert_eq!(raw.closed_with().await, 501);
        } else {
            assert!(matches!(raw.method().await.unwrap(), AMQPClass::Queue(_)));
        }
    }
}

#[tokio::test]
async fn bindings_and_consumers_are_capped() {
    let broker = Broker::builder()
        .max_bindings(2)
        .max_consumers(2)
        .start()
        .await
        .unwrap();
    for bound in [true, false] {
        let mut raw = Raw::ready(broker.address()).await;
        raw.send(1, declare("q")).await;
        raw.method().await.unwrap();
        for n in 0..3 {
            if bound {
                let bind = queue::Bind {
                    queue: "q".into(),
                    exchange: "amq.topic".into(),
                    routing_key: format!("{n}").into(),
                    nowait: false,
                    arguments: FieldTable::default(),
                };
                raw.send(1, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)))
                    .await;
            } else {
                let basic::AMQPMethod::Consume(mut consume) = consume("q", false) else {
                    panic!()
                };
                consume.consumer_tag = format!("{n}").into();
                raw.basic(basic::AMQPMethod::Consume(consume)).await;
            }
            let answer = raw.method().await.unwrap();
            let closed = matches!(&answer, AMQPClass::Channel(channel::AMQPMethod::Close(close)) if close.reply_code == 406);
            assert_eq!(closed, n == 2, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn the_last_words_follow_all_that_was_asked_for() {
    let broker = Broker::start().await.unwrap();
    let mut raw = Raw::ready(broker.address()).await;
    raw.send(1, declare("q")).await;
    let body = vec![0; 50_000];
    for _ in 0..20 {
        raw.publish("q", &body, false).await;
    }
    eventually(|| async { broker.queue("q").filter(|queue| queue.ready == 20) }).await;
    // Far more answers than one write takes, and goodbye in the same breath.
    let get = basic::Get {
        queue: "q".into(),
        no_ack: true,
    };
    let get = AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Get(get)));
    let close = connection::Close {
        reply_code: 200,
        reply_text: "".into(),
        class_id: 0,
        method_id: 0,
    };
    let close = AMQPClass::Connection(connection::AMQPMethod::Close(close));
    let mut bytes = encode(&get).repeat(20);
    bytes.extend(encode(&AMQPFrame::Method(0, close)));
    raw.write(&bytes).await;
    let (mut received, mut closed) = (0, false);
    while let Some(frame) = raw.frame().await {
        match frame {
            AMQPFrame::Body(1, chunk) => received += chunk.len(),
            AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) => {
                closed = true;
            }
            _ => {}
        }
    }
    assert_eq!((received, closed), (20 * body.len(), true));
}
