//! The messages that peers in other languages send.

use super::requests;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use lepus::Server;
use lepus_tests::peer::{Caller, Reply, headers, short};
use lepus_tests::probe::{DivideByZero, ProbeClient, RpcFixture};
use lepus_tests::raw::{Raw, delivery, table};
use lepus_tests::{Env, conformance};
use std::time::Duration;

conformance!(
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

async fn arguments_by_name_and_by_position(env: Env) {
    let fixture = RpcFixture::start(&env).await;
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
        let reply = caller.ask(&fixture.queue, properties, body).await;
        assert_eq!(reply.status, None, "{reply:?}");
        // As the request was, and so it does not say.
        assert_eq!((&reply.body[..], reply.content_type), (expected, None));
    }
    // Without a content type: the service's codec, by its name.
    let properties = caller.addressed("9").with_type("divide".into());
    let reply = caller
        .ask(&fixture.queue, properties, b"\x92\x09\x02")
        .await;
    assert_eq!(reply.body, b"\x04");
    assert_eq!(reply.content_type.as_deref(), Some("application/msgpack"));
    fixture.is_well(&env).await;
}

async fn content_types_by_their_other_names(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    for content_type in [
        "application/x-msgpack",
        "application/vnd.msgpack",
        "APPLICATION/MsgPack",
        "application/msgpack ; v=5",
    ] {
        let properties = caller.json("echo").with_content_type(short(content_type));
        let reply = caller.ask(&fixture.queue, properties, b"\x91\xa2hi").await;
        assert_eq!((&reply.body[..], reply.status), (&b"\xa2hi"[..], None));
    }
    fixture.is_well(&env).await;
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
        assert_eq!(error.status().unwrap().message(), "so it is");
    }
    let error = answer(headers(&[("rpc-status", "aborted")]), None, b"")
        .await
        .unwrap_err();
    assert_eq!(error.status().unwrap().message(), "");
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
