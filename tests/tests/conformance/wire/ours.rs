//! The messages that Lepus sends, and their order.

use super::{properties, requests};
use lapin::types::AMQPValue;
use lepus::Codec;
use lepus_tests::frames::{BASIC_ACK, BASIC_PUBLISH, Frame};
use lepus_tests::peer::{Caller, headers, short};
use lepus_tests::probe::{ProbeClient, RpcFixture};
use lepus_tests::proxy::{Proxy, Way};
use lepus_tests::raw::{delivery, table};
use lepus_tests::{Env, conformance, eventually};

conformance!(
    a_request_byte_for_byte,
    a_request_with_everything,
    a_oneway_request,
    replies_byte_for_byte,
    requests_are_mandatory_and_replies_too,
    the_reply_is_written_before_the_acknowledgement,
    one_at_a_time_they_leave_together,
);

async fn a_request_byte_for_byte(env: Env) {
    let (_raw, mut requests) = requests(&env).await;
    let calling = env.builder().name("hare").open().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let reply_queue = env.name("lepus.reply");

    let first = probe.divide(7, 2).send().await.unwrap();
    let request = delivery(&mut requests).await;
    assert_eq!(request.exchange.as_str(), "");
    assert_eq!(request.routing_key.as_str(), env.name("probe"));
    assert_eq!(request.data, b"\x82\xa8dividend\x07\xa7divisor\x02");
    assert_eq!(
        properties(&request, &reply_queue),
        [
            "content_type application/msgpack",
            "correlation_id 1",
            "type divide",
            "app_id hare",
            "expiration",
            "reply_to",
        ]
    );
    // In JSON, over the same reply queue.
    let second = ProbeClient::builder(&calling)
        .codec(Codec::Json)
        .build()
        .divide(7, 2)
        .send()
        .await
        .unwrap();
    let other = delivery(&mut requests).await;
    assert_eq!(other.data, br#"{"dividend":7,"divisor":2}"#);
    assert_eq!(
        properties(&other, &reply_queue)[..3],
        [
            "content_type application/json",
            "correlation_id 2",
            "type divide"
        ]
    );
    assert_eq!(other.properties.reply_to(), request.properties.reply_to());
    // Nothing at all is an empty map.
    let third = probe.facts().send().await.unwrap();
    assert_eq!(delivery(&mut requests).await.data, b"\x80");
    // Whoever was given no name has none.
    let nameless = env.builder().open().await.unwrap();
    let fourth = ProbeClient::new(&nameless).facts().send().await.unwrap();
    assert_eq!(*delivery(&mut requests).await.properties.app_id(), None);
    drop((first, second, third, fourth));
}

async fn a_request_with_everything(env: Env) {
    let (_raw, mut requests) = requests(&env).await;
    let calling = env.builder().name("hare").open().await.unwrap();
    let call = ProbeClient::new(&calling)
        .hold_idempotent(5)
        .priority(9)
        .header("traceparent", "00-1-2-01")
        .header("text", "häse")
        .header("int", -1)
        .header("float", 0.5)
        .header("bool", true)
        .header("bytes", vec![0, 255])
        .send()
        .await
        .unwrap();
    let request = delivery(&mut requests).await;
    let mut lines = properties(&request, &env.name("lepus.reply"));
    lines.retain(|line| !line.starts_with("headers") && !line.starts_with("message_id"));
    assert_eq!(
        lines,
        [
            "content_type application/msgpack",
            "correlation_id 1",
            "type hold_idempotent",
            "app_id hare",
            "priority 9",
            "expiration",
            "reply_to",
        ]
    );
    let headers = request.properties.headers().as_ref().expect("headers");
    let expected = table(&[
        ("traceparent", AMQPValue::LongString("00-1-2-01".into())),
        ("text", AMQPValue::LongString("häse".into())),
        ("int", AMQPValue::LongLongInt(-1)),
        ("float", AMQPValue::Double(0.5)),
        ("bool", AMQPValue::Boolean(true)),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
    ]);
    assert_eq!(*headers, expected);
    let key = request
        .properties
        .message_id()
        .as_ref()
        .expect("an idempotency key");
    let (client, number) = key.as_str().split_once('-').expect("client and number");
    assert!(client.len() == 22 && number.parse::<u64>().is_ok(), "{key}");
    drop(call);
}

async fn a_oneway_request(env: Env) {
    let (_raw, mut requests) = requests(&env).await;
    let calling = env.builder().name("hare").open().await.unwrap();
    ProbeClient::new(&calling).note(300).await.unwrap();
    let request = delivery(&mut requests).await;
    assert_eq!(request.data, b"\x81\xa2id\xcd\x01\x2c");
    let mut lines = properties(&request, "no reply queue");
    lines.retain(|line| !line.starts_with("message_id"));
    assert_eq!(
        lines,
        [
            "content_type application/msgpack",
            "type note",
            "app_id hare",
            "expiration",
        ]
    );
}

async fn replies_byte_for_byte(env: Env) {
    let serving = env.builder().name("hutch").open().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    let caller = Caller::open(&env).await;
    let mut replies = caller.raw.consume(&caller.replies, 10).await;
    let id = "any\u{1f407} id, up to 255 bytes";
    let request = |method: &str, content_type: &str| {
        caller
            .addressed(id)
            .with_type(short(method))
            .with_content_type(short(content_type))
    };

    // A value, written as the request is.
    let json = "application/json; charset=utf-8";
    caller
        .send(&fixture.queue, request("echo", json), br#"{"text":"hi"}"#)
        .await;
    let reply = delivery(&mut replies).await;
    assert_eq!(
        (reply.exchange.as_str(), &reply.data[..]),
        ("", &b"\"hi\""[..])
    );
    assert_eq!(
        properties(&reply, ""),
        [format!("correlation_id {id}"), "app_id hutch".to_owned(),]
    );

    // The method's own error.
    let msgpack = "application/msgpack";
    let body = b"\x82\xa8dividend\x07\xa7divisor\x00";
    caller
        .send(&fixture.queue, request("divide", msgpack), body)
        .await;
    let reply = delivery(&mut replies).await;
    assert_eq!(reply.data, b"\x81\xa8dividend\x07");
    assert_eq!(
        reply.properties.headers(),
        &Some(headers(&[("rpc-status", "application")]))
    );

    // A status.
    caller
        .send(
            &fixture.queue,
            request("panic", msgpack),
            b"\x81\xa4text\xa4boom",
        )
        .await;
    let reply = delivery(&mut replies).await;
    assert_eq!(reply.data, b"");
    let status = [
        ("rpc-status", "internal"),
        ("rpc-message", "`panic` panicked"),
    ];
    assert_eq!(reply.properties.headers(), &Some(headers(&status)));
    assert_eq!(reply.properties.correlation_id(), &Some(short(id)));

    // Nothing is `nil` or `null`.
    fixture.subject.gate.open_for_good();
    caller
        .send(&fixture.queue, request("note", msgpack), b"\x81\xa2id\x01")
        .await;
    assert_eq!(delivery(&mut replies).await.data, b"\xc0");
    fixture.is_well(&env).await;
}

/// Of each publish in a tap: its routing key, and whether it is mandatory.
fn publishes(frames: &[Frame]) -> Vec<(String, bool)> {
    let publishes = frames
        .iter()
        .filter(|frame| frame.method() == Some(BASIC_PUBLISH));
    publishes
        .map(|frame| {
            // Class, method, a reserved number, exchange, routing key, bits.
            let mut rest = &frame.payload[6..];
            let mut text = || {
                let (text, after) = rest[1..].split_at(rest[0].into());
                rest = after;
                String::from_utf8(text.to_vec()).unwrap()
            };
            assert_eq!(text(), "", "by the default exchange");
            let key = text();
            (key, rest[0] & 1 == 1)
        })
        .collect()
}

async fn requests_are_mandatory_and_replies_too(env: Env) {
    let (serving, calling) = (Proxy::start(&env.uri).await, Proxy::start(&env.uri).await);
    let taps = [serving.tap(), calling.tap()];
    let connections = [
        env.builder_at(serving.uri()).open().await.unwrap(),
        env.builder_at(calling.uri()).open().await.unwrap(),
    ];
    let [serving, calling] = connections;
    let fixture = RpcFixture::over(&env, serving, calling).await;
    fixture.probe.echo("hi".into()).await.unwrap();
    fixture.subject.gate.open_for_good();
    fixture.probe.note(1).await.unwrap();
    fixture.subject.gate.entered(1).await;
    let sent = publishes(&taps[1].frames(1, Way::Up));
    assert_eq!(
        sent,
        [(fixture.queue.clone(), true), (fixture.queue.clone(), true)]
    );
    let answered = publishes(&taps[0].frames(1, Way::Up));
    let [(queue, true)] = &answered[..] else {
        panic!("one reply, mandatory: {answered:?}");
    };
    assert!(queue.contains("lepus.reply."), "{queue}");
}

async fn the_reply_is_written_before_the_acknowledgement(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let tap = proxy.tap();
    let serving = env.builder_at(proxy.uri()).open().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    fixture.subject.gate.open_for_good();
    for id in 0..20 {
        fixture.probe.hold(id).await.unwrap();
    }
    fixture.probe.hold_once(20).await.unwrap();
    fixture.is_well(&env).await;
    eventually("22 acknowledgements", || async {
        let frames = tap.frames(1, Way::Up);
        frames
            .iter()
            .filter(|frame| frame.method() == Some(BASIC_ACK))
            .count()
            == 22
    })
    .await;
    let frames = tap.frames(1, Way::Up);
    let settling: Vec<&Frame> = frames
        .iter()
        .filter(|frame| [Some(BASIC_PUBLISH), Some(BASIC_ACK)].contains(&frame.method()))
        .collect();
    let channel = settling[0].channel;
    assert!(
        settling.iter().all(|frame| frame.channel == channel),
        "on one channel"
    );
    let order: Vec<_> = settling
        .iter()
        .map(|frame| frame.method().unwrap())
        .collect();
    let mut expected = [BASIC_PUBLISH, BASIC_ACK].repeat(20);
    expected.extend([BASIC_ACK, BASIC_PUBLISH]); // at most once
    expected.extend([BASIC_PUBLISH, BASIC_ACK]);
    assert_eq!(order, expected);
}

/// The broker waits for the acknowledgement before it sends the next request.
async fn one_at_a_time_they_leave_together(env: Env) {
    const CALLS: usize = 100;
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    fixture.is_well(&env).await;
    let tap = proxy.tap();
    for _ in 0..CALLS {
        fixture.probe.echo("hi".into()).await.unwrap();
    }
    fixture.is_well(&env).await;
    let sizes = tap.sizes(Way::Up);
    // A thread that is taken off its processor at the wrong moment may part one or two.
    assert!(
        sizes.len() <= CALLS + CALLS / 10,
        "{}: {sizes:?}",
        sizes.len()
    );
}
