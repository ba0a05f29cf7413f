//! Protocol 1 as it is seen from outside: what a peer in another language reads and may write.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lepus::{Client, Codec, Server};
use lepus_tests::frames::{BASIC_ACK, BASIC_PUBLISH, Frame};
use lepus_tests::peer::{Caller, Reply, headers, short};
use lepus_tests::probe::{DivideByZero, ProbeClient, Rig};
use lepus_tests::proxy::{Proxy, Way};
use lepus_tests::raw::{Raw, delivery, table};
use lepus_tests::{Env, conformance, eventually};
use std::time::Duration;

conformance!(ours:
    a_request_byte_for_byte,
    a_request_with_everything,
    a_oneway_request,
    replies_byte_for_byte,
    requests_are_mandatory_and_replies_too,
    the_reply_is_written_before_the_acknowledgement,
    one_at_a_time_they_leave_together,
);

conformance!(theirs:
    arguments_by_name_and_by_position,
    content_types_by_their_other_names,
    a_tutorial_client_is_answered,
    a_tutorial_server_answers,
    replies_of_every_kind_are_read,
    headers_of_every_type_are_passed_on,
);

/// The tutorial's contract: no `type`, no content type, the number itself.
#[lepus::service(
    name = "fibonacci",
    queue = "rpc_queue",
    codec = "json",
    durable = false
)]
trait Fibonacci {
    #[rpc(default, params = "bare")]
    async fn fib(&self, n: u64) -> u64;
    async fn sum(&self, a: u64, b: u64) -> u64;
}

struct Iterative;

impl Fibonacci for Iterative {
    async fn fib(&self, n: u64) -> u64 {
        (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
    }

    async fn sum(&self, a: u64, b: u64) -> u64 {
        a + b
    }
}

/// What is in a message besides its body, in one line a property; the reply queue and the time
/// left, which differ from run to run, are checked and left out.
fn properties(message: &Delivery, reply_queue: &str) -> Vec<String> {
    let p = &message.properties;
    let texts = [
        ("content_type", p.content_type()),
        ("content_encoding", p.content_encoding()),
        ("correlation_id", p.correlation_id()),
        ("message_id", p.message_id()),
        ("type", p.kind()),
        ("user_id", p.user_id()),
        ("app_id", p.app_id()),
        ("cluster_id", p.cluster_id()),
    ];
    let mut lines: Vec<String> = texts
        .iter()
        .filter_map(|(name, text)| text.as_ref().map(|text| format!("{name} {text}")))
        .collect();
    // A request's has a mark that cannot be guessed.
    if p.reply_to().is_some() {
        for line in lines.iter_mut() {
            if let Some((mark, number)) = line
                .strip_prefix("correlation_id ")
                .and_then(|id| id.split_at_checked(11))
            {
                assert!(mark.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                *line = format!("correlation_id {number}");
            }
        }
    }
    lines.extend(
        p.headers()
            .as_ref()
            .map(|headers| format!("headers {headers:?}")),
    );
    lines.extend(
        p.delivery_mode()
            .map(|mode| format!("delivery_mode {mode}")),
    );
    lines.extend(p.priority().map(|priority| format!("priority {priority}")));
    lines.extend(p.timestamp().map(|time| format!("timestamp {time}")));
    if let Some(expiration) = p.expiration() {
        let millis: u64 = expiration.as_str().parse().expect("a number");
        assert!(
            (5_000..=10_000).contains(&millis),
            "the time left: {millis}"
        );
        lines.push("expiration".into());
    }
    if let Some(queue) = p.reply_to() {
        let id = queue.as_str().strip_prefix(&format!("{reply_queue}."));
        let id = id.unwrap_or_else(|| panic!("{queue} is not {reply_queue}.…"));
        assert!(
            id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{queue}"
        );
        lines.push("reply_to".into());
    }
    lines
}

/// Deliveries of the service's queue to a consumer by hand.
async fn requests(env: &Env) -> (Raw, lapin::Consumer) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    raw.declare(&queue).await;
    let consumer = raw.consume(&queue, 100).await;
    (raw, consumer)
}

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
    let json = Client::new(&calling, ProbeClient::DESCRIPTOR).codec(Codec::Json);
    let second = ProbeClient::with_client(json)
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
    let rig = Rig::over(&env, serving, env.connect().await).await;
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
        .send(&rig.queue, request("echo", json), br#"{"text":"hi"}"#)
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
        .send(&rig.queue, request("divide", msgpack), body)
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
            &rig.queue,
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
    rig.subject.gate.open_for_good();
    caller
        .send(&rig.queue, request("note", msgpack), b"\x81\xa2id\x01")
        .await;
    assert_eq!(delivery(&mut replies).await.data, b"\xc0");
    rig.is_well(&env).await;
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
    let rig = Rig::over(&env, serving, calling).await;
    rig.probe.echo("hi".into()).await.unwrap();
    rig.subject.gate.open_for_good();
    rig.probe.note(1).await.unwrap();
    rig.subject.gate.entered(1).await;
    let sent = publishes(&taps[1].frames(1, Way::Up));
    assert_eq!(sent, [(rig.queue.clone(), true), (rig.queue.clone(), true)]);
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
    let rig = Rig::over(&env, serving, env.connect().await).await;
    rig.subject.gate.open_for_good();
    for id in 0..20 {
        rig.probe.hold(id).await.unwrap();
    }
    rig.probe.hold_once(20).await.unwrap();
    rig.is_well(&env).await;
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
    let proxy = Proxy::start(&env.uri).await;
    let serving = env.builder_at(proxy.uri()).open().await.unwrap();
    let rig = Rig::over(&env, serving, env.connect().await).await;
    rig.is_well(&env).await;
    let tap = proxy.tap();
    for _ in 0..CALLS {
        rig.probe.echo("hi".into()).await.unwrap();
    }
    rig.is_well(&env).await;
    let sizes = tap.sizes(Way::Up);
    // A thread that is taken off its processor at the wrong moment may part one or two.
    assert!(
        sizes.len() <= CALLS + CALLS / 10,
        "{}: {sizes:?}",
        sizes.len()
    );
}

async fn arguments_by_name_and_by_position(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let bodies: [(&str, &[u8], &[u8]); 8] = [
        ("application/json", br#"{"dividend":9,"divisor":2}"#, b"4"),
        (
            "application/json",
            br#" { "divisor" : 2 , "dividend" : 9 } "#,
            b"4",
        ),
        (
            "application/json",
            br#"{"dividend":9,"divisor":2,"since":"2.0"}"#,
            b"4",
        ),
        ("application/json", b"[9,2]", b"4"),
        (
            "application/msgpack",
            b"\x82\xa8dividend\x09\xa7divisor\x02",
            b"\x04",
        ),
        (
            "application/msgpack",
            b"\x82\xa7divisor\x02\xa8dividend\xd3\0\0\0\0\0\0\0\x09",
            b"\x04",
        ),
        (
            "application/msgpack",
            b"\x83\xa8dividend\x09\xa5since\xa32.0\xa7divisor\x02",
            b"\x04",
        ),
        ("application/msgpack", b"\x92\x09\x02", b"\x04"),
    ];
    for (content_type, body, expected) in bodies {
        let properties = caller.json("divide").with_content_type(short(content_type));
        let reply = caller.ask(&rig.queue, properties, body).await;
        assert_eq!(reply.status, None, "{reply:?}");
        // As the request was, and so it does not say.
        assert_eq!((&reply.body[..], reply.content_type), (expected, None));
    }
    // Without a content type: the service's codec, by its name.
    let properties = caller.addressed("9").with_type("divide".into());
    let reply = caller.ask(&rig.queue, properties, b"\x92\x09\x02").await;
    assert_eq!(reply.body, b"\x04");
    assert_eq!(reply.content_type.as_deref(), Some("application/msgpack"));
    rig.is_well(&env).await;
}

async fn content_types_by_their_other_names(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    for content_type in [
        "application/x-msgpack",
        "application/vnd.msgpack",
        "APPLICATION/MsgPack",
        "application/msgpack ; v=5",
    ] {
        let properties = caller.json("echo").with_content_type(short(content_type));
        let reply = caller.ask(&rig.queue, properties, b"\x91\xa2hi").await;
        assert_eq!((&reply.body[..], reply.status), (&b"\xa2hi"[..], None));
    }
    rig.is_well(&env).await;
}

async fn a_tutorial_client_is_answered(env: Env) {
    let connection = env.connect().await;
    let queue = env.name("rpc_queue");
    let server = Server::new(&connection).serve(FibonacciServer::new(Iterative));
    let _server = server.start().await.unwrap();
    let caller = Caller::open(&env).await;
    // `basic_publish(exchange='', routing_key='rpc_queue', reply_to=…, correlation_id=…, body=str(n))`
    let id = "2f6a0a4e-5c3b-4f0c-9a5d-1a2b3c4d5e6f";
    let reply = caller.ask(&queue, caller.addressed(id), b"30").await;
    assert_eq!((&reply.body[..], reply.status), (&b"832040"[..], None));
    assert_eq!(reply.correlation_id.as_deref(), Some(id));
    // Such a body is no other method's, and other methods are still there.
    let reply = caller.ask(&queue, caller.json("sum"), b"30").await;
    assert_eq!(reply.failure().0, "invalid_argument");
    let reply = caller
        .ask(&queue, caller.json("sum"), br#"{"a":1,"b":2}"#)
        .await;
    assert_eq!(reply.body, b"3");
    let reply = caller.ask(&queue, caller.json("fib"), b"10").await;
    assert_eq!(reply.body, b"55");
}

/// Declares its queue as the tutorial does, reads `int(body)` and replies `str(result)`.
async fn a_tutorial_server_answers(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("rpc_queue");
    raw.declare_with(&queue, Default::default(), &[])
        .await
        .unwrap();
    let mut requests = raw.consume(&queue, 1).await;
    let calling = env.connect().await;
    let call = FibonacciClient::new(&calling).fib(30).send().await.unwrap();
    let request = delivery(&mut requests).await;
    let n: u64 = String::from_utf8(request.data.clone())
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(n, 30);
    let properties = BasicProperties::default()
        .with_correlation_id(request.properties.correlation_id().clone().unwrap());
    let reply_to = request.properties.reply_to().clone().unwrap();
    raw.publish_with("", reply_to.as_str(), b"832040", properties)
        .await
        .unwrap();
    assert_eq!(call.await.unwrap(), 832_040);
}

async fn replies_of_every_kind_are_read(env: Env) {
    let (raw, mut requests) = requests(&env).await;
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    let answer = async |status: FieldTable, content_type: Option<&str>, body: &[u8]| {
        let call = probe
            .divide(1, 0)
            .timeout(Duration::from_secs(30))
            .send()
            .await
            .unwrap();
        let request = delivery(&mut requests).await;
        let id = request.properties.correlation_id().clone().unwrap();
        let mut properties = BasicProperties::default()
            .with_correlation_id(id)
            .with_headers(status);
        if let Some(content_type) = content_type {
            properties = properties.with_content_type(short(content_type));
        }
        let queue = request.properties.reply_to().clone().unwrap();
        raw.publish_with("", queue.as_str(), body, properties)
            .await
            .unwrap();
        call.await
    };
    let mut answer = answer;
    let none = || FieldTable::default();
    let application = || headers(&[("rpc-status", "application")]);
    // The request was MessagePack: so is a reply that does not say otherwise.
    assert_eq!(answer(none(), None, b"\x05").await.unwrap(), 5);
    assert_eq!(
        answer(none(), Some("application/json"), b"6")
            .await
            .unwrap(),
        6
    );
    assert_eq!(answer(none(), Some("text/plain"), b"-7").await.unwrap(), -7);
    assert_eq!(
        answer(headers(&[("rpc-status", "ok")]), None, b"\x08")
            .await
            .unwrap(),
        8
    );
    let error = answer(
        application(),
        Some("application/json"),
        br#"{"dividend":1}"#,
    )
    .await;
    assert_eq!(
        error.unwrap_err().service(),
        Some(&DivideByZero { dividend: 1 })
    );
    let error = answer(application(), None, b"\x91\x02").await.unwrap_err();
    assert_eq!(error.service(), Some(&DivideByZero { dividend: 2 }));
    for code in [
        "not_found",
        "resource_exhausted",
        "unauthenticated",
        "cancelled",
    ] {
        let status = headers(&[("rpc-status", code), ("rpc-message", "so it is")]);
        let error = answer(status, None, b"ignored").await.unwrap_err();
        assert_eq!(error.code().map(|code| code.as_str()), Some(code));
        assert_eq!(error.rpc().unwrap().status().unwrap().message(), "so it is");
    }
    let error = answer(headers(&[("rpc-status", "aborted")]), None, b"")
        .await
        .unwrap_err();
    assert_eq!(error.rpc().unwrap().status().unwrap().message(), "");
}

#[lepus::service]
trait Headers {
    async fn list(&self) -> Vec<(String, String)>;
}

struct Lister;

impl Headers for Lister {
    async fn list(&self) -> Vec<(String, String)> {
        let context = lepus::Context::current();
        let headers = context.headers().iter();
        headers
            .map(|(name, value)| (name.clone(), format!("{value:?}")))
            .collect()
    }
}

async fn headers_of_every_type_are_passed_on(env: Env) {
    let connection = env.connect().await;
    let queue = env.name("headers");
    let server = Server::new(&connection).serve(HeadersServer::new(Lister));
    let _server = server.start().await.unwrap();
    let caller = Caller::open(&env).await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let sent = table(&[
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("i16", AMQPValue::ShortInt(-16)),
        ("i32", AMQPValue::LongInt(-32)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(-0.25)),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("text", text("häse")),
        ("not text", AMQPValue::LongString(vec![0xff, 0].into())),
        ("bytes", AMQPValue::ByteArray(vec![1, 2].into())),
        ("nothing", AMQPValue::Void),
        (
            "list",
            AMQPValue::FieldArray(vec![text("a"), AMQPValue::Void].into()),
        ),
        ("table", AMQPValue::FieldTable(table(&[("in", text("b"))]))),
    ]);
    let reply = caller
        .ask(&queue, caller.json("list").with_headers(sent), b"{}")
        .await;
    assert_eq!(reply.status, None, "{reply:?}");
    let list: Vec<(String, String)> = serde_json::from_slice(&reply.body).unwrap();
    let list: Vec<_> = list
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        list,
        [
            ("bool", "Bool(true)"),
            ("bytes", "Bytes([1, 2])"),
            ("f32", "Float(0.5)"),
            ("f64", "Float(-0.25)"),
            ("i16", "Int(-16)"),
            ("i32", "Int(-32)"),
            ("i64", "Int(-9223372036854775808)"),
            ("i8", "Int(-8)"),
            ("list", "List([Text(\"a\"), Null])"),
            ("not text", "Bytes([255, 0])"),
            ("nothing", "Null"),
            ("table", "Table({\"in\": Text(\"b\")})"),
            ("text", "Text(\"häse\")"),
            ("time", "Timestamp(1700000000)"),
        ]
    );
    let _: Reply = reply;
}
