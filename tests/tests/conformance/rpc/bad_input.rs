//! Requests and replies that no client or server of ours would send. Each costs its sender an
//! answer at most, and nobody else anything: the worker that met it goes on, at a concurrency of
//! one, where a request that is not settled would be its last.

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{Code, Codec, Connection, Outcome, Topic, WorkQueue};
use lepus_tests::peer::{Caller, headers, short};
use lepus_tests::probe::{ProbeClient, Rig, Subject, is_settled, serve};
use lepus_tests::proxy::{Proxy, Way};
use lepus_tests::raw::{Raw, delivery, table};
use lepus_tests::{Env, conformance, eventually};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(200);
/// Enough for a request to reach its handler, also on a slow machine.
const FAIR: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

conformance!(requests:
    an_unknown_method_is_told_which_there_are,
    arguments_that_do_not_decode,
    an_argument_that_does_not_decode_is_named,
    optional_arguments_may_be_missing,
    bytes_behind_the_arguments_are_refused,
    arguments_that_are_hostile,
    random_bytes_are_answered,
    another_content_type,
    a_text_of_any_length_fits_the_reply,
    a_request_with_large_headers_is_served,
    headers_that_fit_no_frame_are_not_sent,
    a_request_without_reply_to_runs,
    a_request_without_correlation_id_is_answered,
    a_hostile_reply_to_harms_nobody,
    texts_that_are_no_text_harm_nobody,
    a_direct_reply_to_an_unknown_node_costs_nobody_the_connection,
    a_reply_to_by_direct_reply_is_answered,
    replies_go_where_the_server_allows,
    a_correlation_id_that_is_no_text_comes_back_as_it_is,
    a_caller_that_is_gone_is_counted,
    a_request_too_large_is_refused_by_the_server,
    a_request_too_large_is_not_sent,
    an_expired_request_never_runs,
);

conformance!(headers_of_users:
    reserved_headers_are_not_sent,
    several_headers_go_along,
);

conformance!(what_json_has_not:
    a_number_that_json_has_not_is_not_sent,
    a_reply_that_json_cannot_write_is_told_to_its_caller,
);

conformance!(replies:
    a_reply_too_large_is_told_to_its_caller,
    a_reply_too_large_for_the_caller,
    replies_nobody_waits_for_are_dropped_and_counted,
    an_answer_to_another_call_cannot_be_made_up,
    a_reply_that_does_not_decode_fails_its_call_alone,
    a_status_nobody_knows_is_unknown,
);

async fn an_unknown_method_is_told_which_there_are(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let reply = caller.ask(&rig.queue, caller.json("fob"), b"{}").await;
    let (code, text) = reply.failure();
    assert_eq!(code, "unimplemented");
    assert!(text.contains("`probe`") && text.contains("`fob`"), "{text}");
    assert!(text.contains("divide, echo, facts"), "{text}");
    assert_eq!(reply.correlation_id.as_deref(), Some("1"));
    assert_eq!(reply.content_type, None);
    assert_eq!(reply.body, b"");

    // Without a name, and without a default method.
    for properties in [
        caller.addressed("2"),
        caller.addressed("2").with_type("".into()),
    ] {
        let reply = caller.ask(&rig.queue, properties, b"{}").await;
        assert_eq!(reply.failure().0, "unimplemented");
        assert_eq!(reply.correlation_id.as_deref(), Some("2"));
    }
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 3);
    assert_eq!(caller.waiting().await, 0, "one reply each");
}

/// What a body of `echo` or `divide` may not be.
async fn is_refused(rig: &Rig, caller: &Caller, content_type: &str, method: &str, body: &[u8]) {
    let properties = caller.json(method).with_content_type(short(content_type));
    let reply = caller.ask(&rig.queue, properties, body).await;
    let (code, text) = reply.failure();
    let start = &body[..body.len().min(40)];
    assert_eq!(code, "invalid_argument", "{start:x?}: {text}");
    let expected = format!("the arguments of `{method}` do not decode: {content_type}: ");
    assert!(text.starts_with(&expected), "{start:x?}: {text}");
    assert!(text.len() > expected.len(), "no reason: {text}");
}

async fn arguments_that_do_not_decode(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"null",
        b"{}",
        br#"{"text":1}"#,
        br#"{"text":"a","text":"b"}"#,
        b"\"text\"",
        b"[]",
    ];
    for body in bodies {
        is_refused(&rig, &caller, "application/json", "echo", body).await;
    }
    let bodies: [&[u8]; 6] = [b"", b"\x81", b"\xc0", b"\x80", b"\x81\xa4text\x01", b"\xc1"];
    for body in bodies {
        is_refused(&rig, &caller, "application/msgpack", "echo", body).await;
    }
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 14);
    assert_eq!(caller.waiting().await, 0);
}

/// A service with arguments that may be missing.
#[lepus::service(codec = "json")]
trait Zoom {
    /// Which of them there were.
    async fn zoom(&self, width: u64, height: Option<u64>, fit: std::option::Option<bool>)
    -> String;
    #[rpc(params = "bare")]
    async fn half(&self, x: f64) -> f64;
}

struct Glass;

impl Zoom for Glass {
    async fn zoom(&self, width: u64, height: Option<u64>, fit: Option<bool>) -> String {
        format!("{width} {height:?} {fit:?}")
    }

    async fn half(&self, x: f64) -> f64 {
        x / 0.0
    }
}

async fn zoom(env: &Env, serving: &Connection) -> lepus::Running {
    let server = lepus::Server::new(serving).serve(ZoomServer::new(Glass));
    // It is deleted at the end of the test.
    env.name("zoom");
    server.start().await.unwrap()
}

async fn optional_arguments_may_be_missing(env: Env) {
    let serving = env.connect().await;
    let _server = zoom(&env, &serving).await;
    let (caller, queue) = (Caller::open(&env).await, env.name("zoom"));
    for (json, msgpack, zoomed) in [
        (&b"[1]"[..], &b"\x91\x01"[..], "1 None None"),
        (b"[1,2]", b"\x92\x01\x02", "1 Some(2) None"),
        (b"[1,null,true]", b"\x93\x01\xc0\xc3", "1 None Some(true)"),
        (br#"{"width":1}"#, b"\x81\xa5width\x01", "1 None None"),
        (
            br#"{"fit":false,"width":1}"#,
            b"\x82\xa3fit\xc2\xa5width\x01",
            "1 None Some(false)",
        ),
    ] {
        let reply = caller.ask(&queue, caller.json("zoom"), json).await;
        assert_eq!(reply.status, None, "{:?}", reply.message);
        assert_eq!(reply.body, format!("{zoomed:?}").into_bytes());
        let properties = caller.json("zoom");
        let properties = properties.with_content_type(short("application/msgpack"));
        let reply = caller.ask(&queue, properties, msgpack).await;
        assert_eq!(reply.status, None, "{:?}", reply.message);
        assert_eq!(reply.body[1..], *zoomed.as_bytes());
    }
}

async fn an_argument_that_does_not_decode_is_named(env: Env) {
    let serving = env.connect().await;
    let _server = zoom(&env, &serving).await;
    let (caller, queue) = (Caller::open(&env).await, env.name("zoom"));
    let all = "expected a map or an array of the arguments `width`, `height`, `fit` of `zoom`";
    for (method, body, reason) in [
        ("zoom", "[]", format!("invalid length 0, {all}")),
        ("zoom", "7", format!("invalid type: integer `7`, {all}")),
        ("zoom", "{}", "missing field `width`".to_owned()),
        (
            "zoom",
            r#"[1,"x"]"#,
            "argument `height`: invalid type: string \"x\", expected u64".to_owned(),
        ),
        (
            "zoom",
            r#"{"fit":7,"width":1}"#,
            "argument `fit`: invalid type: integer `7`, expected a boolean".to_owned(),
        ),
        (
            "half",
            "null",
            "argument `x`: invalid type: null, expected f64".to_owned(),
        ),
    ] {
        let asked = caller.ask(&queue, caller.json(method), body.as_bytes());
        let reply = asked.await;
        let (code, text) = reply.failure();
        assert_eq!(code, "invalid_argument", "{text}");
        let expected = format!("the arguments of `{method}` do not decode: application/json: ");
        assert!(text.starts_with(&expected), "{text}");
        assert!(text[expected.len()..].starts_with(&reason), "{text}");
    }
}

async fn bytes_behind_the_arguments_are_refused(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let body = b"\x81\xa4text\xa1x\xc0";
    is_refused(&rig, &caller, "application/msgpack", "echo", body).await;
    is_refused(&rig, &caller, "application/json", "echo", b"[\"x\"]]").await;
    rig.is_well(&env).await;
}

async fn reserved_headers_are_not_sent(env: Env) {
    let connection = env.connect().await;
    let probe = ProbeClient::new(&connection);
    let jobs = WorkQueue::<u32>::new("jobs").producer(&connection);
    let events = Topic::<u32>::new("events").publisher(&connection);
    for name in [
        "rpc-accept",
        "rpc-status",
        "attempt",
        "error",
        "failed-at",
        "source-exchange",
        "source-routing-key",
        "source-user-id",
        "x-death",
        "x-delivery-count",
    ] {
        let table = || lepus::Table::from([(name.to_owned(), lepus::Value::from(7))]);
        let calls = [
            probe.facts().header(name, 7).await.map(drop),
            probe
                .facts()
                .headers(table())
                .header("tenant", 7)
                .await
                .map(drop),
            probe.note(1).header(name, 7).await,
        ];
        let calls = calls.map(|call| call.map_err(|error| error.rpc().cloned().unwrap()));
        let others = [
            jobs.push(&1).header(name, 7).await,
            jobs.push(&1).headers(table()).await,
            events.publish("a", &1).header(name, 7).await,
            events.publish("a", &1).headers(table()).await,
        ];
        for refused in calls.into_iter().chain(others) {
            let error = refused.unwrap_err();
            assert!(error.is_invalid(), "{name}: {error}");
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
            assert!(!error.may_have_executed(), "{error}");
        }
    }
    // A local one is no exception: it becomes a remote one some day.
    let local = ZoomClient::local(Glass)
        .half(1.0)
        .header("error", "x")
        .await;
    assert!(
        local
            .unwrap_err()
            .rpc()
            .is_some_and(lepus::Error::is_invalid)
    );
}

async fn several_headers_go_along(env: Env) {
    let rig = Rig::start(&env).await;
    let table = lepus::Table::from([
        ("tenant".to_owned(), lepus::Value::from("fox")),
        ("size".to_owned(), lepus::Value::from(u64::MAX)),
    ]);
    let call = rig
        .probe
        .facts()
        .header("tenant", "hare")
        .header("colour", "grey");
    let facts = call.headers(table).await.unwrap();
    let seen: Vec<_> = facts
        .headers
        .iter()
        .map(|(a, b)| (&a[..], &b[..]))
        .collect();
    let size = u64::MAX.to_string();
    assert_eq!(
        seen,
        [("colour", "grey"), ("size", &size), ("tenant", "fox")]
    );
    rig.is_well(&env).await;
}

async fn a_number_that_json_has_not_is_not_sent(env: Env) {
    let connection = env.connect().await;
    let calls = ZoomClient::new(&connection).half(f64::NAN).await;
    let call = calls.unwrap_err().rpc().cloned().unwrap();
    let queue = WorkQueue::<f64>::new("lengths").codec(Codec::Json);
    let producer = queue.producer(&connection);
    let push = producer.push(&f64::INFINITY).await.unwrap_err();
    let topic = Topic::<f64>::new("lengths").codec(Codec::Json);
    let publisher = topic.publisher(&connection);
    let publish = publisher.publish("a", &f64::NAN).await.unwrap_err();
    for (error, number) in [(call, "NaN"), (push, "inf"), (publish, "NaN")] {
        assert!(error.is_encode(), "{error}");
        assert!(!error.may_have_executed(), "{error}");
        let reason = error.source().map(ToString::to_string);
        let expected = format!("application/json: {number} is not a number that JSON can write");
        assert_eq!(reason, Some(expected));
    }
    let all = producer.push_all(&[1.0, f64::NAN, 2.0]).await;
    assert!(
        all[0].is_ok() && all[1].is_err() && all[2].is_ok(),
        "{all:?}"
    );
    env.name("lengths");
    env.name("lengths.dead");
}

async fn a_reply_that_json_cannot_write_is_told_to_its_caller(env: Env) {
    let serving = env.connect().await;
    let _server = zoom(&env, &serving).await;
    let error = ZoomClient::new(&serving).half(1.0).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal), "{error}");
    let text = "the reply of `half` cannot be encoded: application/json: inf is not a number";
    assert!(error.to_string().contains(text), "{error}");
}

async fn arguments_that_are_hostile(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let depth = 200_000;
    // Nested where a value is expected, and where nobody looks.
    let deep = "[".repeat(depth);
    is_refused(&rig, &caller, "application/json", "echo", deep.as_bytes()).await;
    let deep = [br#"{"text":"#, "[".repeat(depth).as_bytes()].concat();
    is_refused(&rig, &caller, "application/json", "echo", &deep).await;
    let deep = [br#"{"other":"#, "[".repeat(depth).as_bytes()].concat();
    is_refused(&rig, &caller, "application/json", "echo", &deep).await;
    let deep = vec![0x91; depth];
    is_refused(&rig, &caller, "application/msgpack", "echo", &deep).await;
    let deep = [b"\x82\xa5other", &vec![0x91; depth][..]].concat();
    is_refused(&rig, &caller, "application/msgpack", "echo", &deep).await;
    // Declared lengths of 4 GiB.
    let bodies: [&[u8]; 4] = [
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\x01",
        b"\x81\xa4text\xdb\xff\xff\xff\xffx",
        b"\x81\xa4text\xc6\xff\xff\xff\xffx",
    ];
    for body in bodies {
        is_refused(&rig, &caller, "application/msgpack", "echo", body).await;
    }
    rig.is_well(&env).await;
}

async fn random_bytes_are_answered(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let types = [
        "application/msgpack",
        "application/json",
        "text/plain",
        "application/octet-stream",
    ];
    for number in 0..120 {
        let body: Vec<u8> = (0..random() % 60).map(|_| random() as u8).collect();
        let content_type = types[number % types.len()];
        let properties = caller
            .addressed(&number.to_string())
            .with_type("divide".into());
        let properties = properties.with_content_type(short(content_type));
        caller.send(&rig.queue, properties, &body).await;
    }
    for number in 0..120 {
        let reply = caller.reply().await;
        assert_eq!(reply.correlation_id, Some(number.to_string()), "in order");
        assert_eq!(reply.failure().0, "invalid_argument");
    }
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 120);
}

async fn another_content_type(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let xml = caller
        .json("echo")
        .with_content_type("application/xml".into());
    let reply = caller.ask(&rig.queue, xml, b"<text/>").await;
    let (code, text) = reply.failure();
    assert_eq!(code, "invalid_argument");
    assert!(text.contains("`application/xml`"), "{text}");
    assert!(
        text.contains("application/msgpack") && text.contains("application/json"),
        "{text}"
    );
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 1);
}

/// A reply's message is a header, and headers have to fit in one frame.
async fn a_text_of_any_length_fits_the_reply(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let generations = connections(&rig);

    let body = format!(r#"{{"dividend":"{}","divisor":1}}"#, "ä".repeat(150_000));
    let reply = caller
        .ask(&rig.queue, caller.json("divide"), body.as_bytes())
        .await;
    let (code, text) = reply.failure();
    assert_eq!(code, "invalid_argument");
    assert!(
        text.contains("ää") && text.len() < 10_000,
        "{} bytes",
        text.len()
    );

    let error = rig.probe.panic("ö".repeat(150_000)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal));
    assert!(!error.to_string().contains("öö"), "the log's business");

    rig.is_well(&env).await;
    assert_eq!(
        connections(&rig),
        generations,
        "nobody lost the connection over it"
    );
}

/// Whether both ends are still as they were.
fn connections(rig: &Rig) -> [bool; 4] {
    let ends = [&rig.serving, &rig.calling];
    let changed = ends.map(|end| end.state().has_changed().unwrap());
    let connected = ends.map(|end| end.state().borrow().is_connected());
    [changed[0], changed[1], connected[0], connected[1]]
}

/// A peer may have agreed on larger frames than we would ask for.
async fn a_request_with_large_headers_is_served(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let large = "h".repeat(100_000);
    let properties = caller
        .json("facts")
        .with_headers(headers(&[("large", &large)]));
    let reply = caller.ask(&rig.queue, properties, b"{}").await;
    assert_eq!(reply.status, None, "{:?}", reply.message);
    let facts: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(facts["headers"]["large"], large);
    assert_eq!(facts["redelivered"], false);
    rig.is_well(&env).await;
}

async fn headers_that_fit_no_frame_are_not_sent(env: Env) {
    let rig = Rig::start(&env).await;
    let other = rig.probe.hold(1).send().await.unwrap();
    rig.subject.gate.entered(1).await;
    let large = "h".repeat(1_000_000);
    for call in [
        rig.probe
            .note(2)
            .header("large", large.as_str())
            .await
            .unwrap_err(),
        rig.probe
            .note(2)
            .header("large", large.into_bytes())
            .await
            .unwrap_err(),
    ] {
        assert!(call.rpc().is_some_and(lepus::Error::is_too_large), "{call}");
        assert!(!call.may_have_executed());
    }
    let error = rig
        .probe
        .facts()
        .header("large", "h".repeat(1_000_000))
        .await
        .unwrap_err();
    assert!(
        error.rpc().is_some_and(lepus::Error::is_too_large),
        "{error}"
    );
    assert!(!error.may_have_executed());
    // Nor a header's name, which is a short string.
    let error = rig
        .probe
        .facts()
        .header(&"n".repeat(256), 1)
        .await
        .unwrap_err();
    assert!(error.rpc().is_some_and(lepus::Error::is_invalid), "{error}");
    // Another call in flight over the same connection has not noticed.
    rig.subject.gate.open_for_good();
    assert_eq!(other.await.unwrap(), 1);
    rig.is_well(&env).await;
    assert_eq!(rig.subject.ids(), [1]);
}

async fn a_request_without_reply_to_runs(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    rig.subject.gate.open_for_good();
    let nobody = BasicProperties::default()
        .with_type("hold".into())
        .with_content_type("application/json".into());
    caller
        .send(&rig.queue, nobody.clone(), br#"{"id":7}"#)
        .await;
    caller
        .send(
            &rig.queue,
            nobody.clone().with_reply_to("".into()),
            br#"{"id":8}"#,
        )
        .await;
    // Nor is there anybody to tell of a mistake.
    caller
        .send(&rig.queue, nobody.clone().with_type("fob".into()), b"")
        .await;
    caller
        .send(
            &rig.queue,
            nobody.with_type("panic".into()),
            br#"{"text":"x"}"#,
        )
        .await;
    eventually("the panic", || async { rig.serving.stats().panics == 1 }).await;
    assert_eq!(rig.subject.ids(), [7, 8]);
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 1);
}

async fn a_request_without_correlation_id_is_answered(env: Env) {
    let rig = Rig::start(&env).await;
    let caller = Caller::open(&env).await;
    let properties = BasicProperties::default()
        .with_type("echo".into())
        .with_reply_to(short(&caller.replies));
    let reply = caller
        .ask(&rig.queue, properties, b"\x81\xa4text\xa2hi")
        .await;
    assert_eq!((reply.status, reply.correlation_id), (None, None));
    assert_eq!(reply.body, b"\xa2hi");
    rig.is_well(&env).await;
}

async fn a_hostile_reply_to_harms_nobody(env: Env) {
    let rig = hasty(&env).await;
    let caller = Caller::open(&env).await;
    let victim = env.name("victim");
    caller.raw.declare(&victim).await;
    let longest = "q".repeat(255);
    let nowhere = [
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.!",
        "amq.rabbitmq.reply-to.Zm9v.YmFy",
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxMjcuMC4wLjEAAAAAAAAAAAAAAAA=.AAAA",
        "amq.rabbitmq.reply-to.\u{1f407}",
        "amq.rabbitmq.trace",
        "amq.direct",
        " ",
        &longest,
    ];
    let before = connections(&rig);
    for (number, queue) in nowhere.iter().enumerate() {
        let properties = caller.json("hold").with_reply_to(short(queue));
        let body = format!(r#"{{"id":{number}}}"#);
        caller.send(&rig.queue, properties, body.as_bytes()).await;
        rig.is_well(&env).await;
    }
    assert_eq!(connections(&rig), before, "nobody lost the connection");
    let is_run =
        |queue: &str| !(is_direct_reply_risky(&env) && queue.starts_with("amq.rabbitmq.reply-to"));
    let run = (0..).zip(nowhere).filter(|(_, queue)| is_run(queue));
    let run: Vec<u32> = run.map(|(number, _)| number).collect();
    assert_eq!(rig.subject.ids(), run);

    // Another's queue gets a message that is not for it: AMQP knows no owner of a name. The
    // service's own queue gets one that is no request, and no answer follows that one.
    let properties = caller.json("echo").with_reply_to(short(&victim));
    caller
        .send(&rig.queue, properties, br#"{"text":"not yours"}"#)
        .await;
    assert_eq!(caller.raw.next(&victim).await.data, b"\"not yours\"");
    let before = rig.serving.stats().malformed;
    let properties = caller.json("echo").with_reply_to(short(&rig.queue));
    caller
        .send(&rig.queue, properties, br#"{"text":"loop"}"#)
        .await;
    eventually("its own reply", || async {
        rig.serving.stats().malformed == before + 1
    })
    .await;
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, before + 1);
}

/// A broker passes on whatever a peer has put into a property.
async fn texts_that_are_no_text_harm_nobody(env: Env) {
    const TEXT: &str = "no-text!";
    let proxy = Proxy::start(&env.uri).await;
    proxy.garble(TEXT);
    let rig = hasty(&env).await;
    let caller = Caller::open(&env).await;
    let mut state = rig.serving.state();
    state.borrow_and_update();
    let no_text = || short(TEXT);
    let good = || caller.json("echo").with_reply_to("nowhere".into());
    let each = [
        good().with_type(no_text()),
        good().with_content_type(no_text()),
        good().with_content_encoding(no_text()),
        good().with_correlation_id(no_text()),
        good().with_reply_to(no_text()),
        good().with_message_id(no_text()),
        good()
            .with_expiration("10000".into())
            .with_app_id(no_text()),
        good().with_headers(table(&[(TEXT, AMQPValue::Boolean(true))])),
        good().with_headers(headers(&[("x", TEXT)])),
    ];
    for properties in each {
        let raw = Raw::open(proxy.uri()).await;
        let published = raw.publish_with("", &rig.queue, br#"{"text":"x"}"#, properties);
        published.await.expect("a broker takes it");
        rig.is_well(&env).await;
    }
    assert!(
        !state.has_changed().expect("a connection"),
        "{:?}",
        *state.borrow()
    );
}

/// RabbitMQ before 4.0 ends the connection over a direct reply to an address that somebody has made
/// up; to its clients the embedded broker is one.
fn is_direct_reply_risky(env: &Env) -> bool {
    let major = env.server.version.split('.').next();
    let is_old = major.and_then(|major| major.parse().ok()) < Some(4_u32);
    env.embedded().is_some() || (env.server.product == "RabbitMQ" && is_old)
}

/// An address as RabbitMQ makes them, of a node that it does not know.
async fn a_direct_reply_to_an_unknown_node_costs_nobody_the_connection(env: Env) {
    let rig = hasty(&env).await;
    let caller = Caller::open(&env).await;
    let before = connections(&rig);
    let process = "g1h2AApyZXBseUAxMjM0AAAAAQAAAAAAAAAB";
    let address = format!("amq.rabbitmq.reply-to.{process}.aGFyZWhhcmVoYXJlaGFyZQ==");
    for (id, method) in [(1, "hold"), (2, "hold_once"), (3, "hold")] {
        let properties = caller.json(method).with_reply_to(short(&address));
        caller
            .send(
                &rig.queue,
                properties,
                format!(r#"{{"id":{id}}}"#).as_bytes(),
            )
            .await;
        rig.is_well(&env).await;
    }
    assert_eq!(connections(&rig), before, "nobody lost the connection");
    if is_direct_reply_risky(&env) {
        assert_eq!(rig.subject.ids(), [0; 0]);
        assert_eq!(rig.serving.stats().malformed, 3);
    } else {
        assert_eq!(rig.subject.ids(), [1, 2, 3]);
    }
}

/// A rig whose server is soon back, and whose gate is open.
async fn hasty(env: &Env) -> Rig {
    let soon = Duration::from_millis(10);
    let serving = env.builder().backoff(soon, SHORT).open().await.unwrap();
    let rig = Rig::over(env, serving, env.connect().await).await;
    rig.subject.gate.open_for_good();
    rig
}

/// RabbitMQ's direct reply-to: a reply queue that is none.
async fn a_reply_to_by_direct_reply_is_answered(env: Env) {
    use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
    let (serving, subject) = (env.connect().await, Arc::new(Subject::default()));
    let server = serve(&serving, &subject)
        .allow_reply_to("")
        .allow_reply_to("amq.rabbitmq.reply-to");
    let _server = server.start().await.unwrap();
    let queue = env.name("probe");
    let raw = Raw::open(&env.uri).await;
    let channel = raw.connection.create_channel().await.unwrap();
    let direct = "amq.rabbitmq.reply-to";
    let options = BasicConsumeOptions {
        no_ack: true,
        ..Default::default()
    };
    let consume = channel.basic_consume(direct.into(), "".into(), options, table(&[]));
    let mut replies = consume.await.unwrap();
    for text in ["one", "two"] {
        let properties = BasicProperties::default()
            .with_type("echo".into())
            .with_content_type("application/json".into())
            .with_correlation_id(short(text))
            .with_reply_to(direct.into());
        let body = format!(r#"{{"text":"{text}"}}"#);
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(
            "".into(),
            short(&queue),
            options,
            body.as_bytes(),
            properties,
        );
        sent.await.unwrap();
        let reply = delivery(&mut replies).await;
        assert_eq!(reply.data, format!("\"{text}\"").as_bytes());
        assert_eq!(reply.properties.correlation_id(), &Some(short(text)));
    }
    let probe = ProbeClient::new(&serving);
    assert_eq!(probe.echo("as ever".into()).await.unwrap(), "as ever");
    assert_eq!(serving.stats().returned_replies, 0);
}

async fn replies_go_where_the_server_allows(env: Env) {
    let (serving, subject) = (env.connect().await, Arc::new(Subject::default()));
    subject.gate.open_for_good();
    let server = serve(&serving, &subject).allow_reply_to(&env.name("lepus.reply."));
    let _server = server.start().await.unwrap();
    let (queue, calling) = (env.name("probe"), env.connect().await);
    let caller = Caller::open(&env).await;
    for (id, method) in [(1, "hold"), (2, "note"), (3, "no_such_method")] {
        let body = format!(r#"{{"id":{id}}}"#);
        caller
            .send(&queue, caller.json(method), body.as_bytes())
            .await;
    }
    let several = caller.json("lepus.calls/1");
    caller.send(&queue, several, b"\x90").await;
    let probe = ProbeClient::new(&calling);
    assert_eq!(probe.echo("ours".into()).await.unwrap(), "ours");
    is_settled(&env, &queue).await;
    assert_eq!(subject.ids(), [2], "what has no reply");
    assert_eq!(caller.waiting().await, 0);
    assert_eq!(serving.stats().malformed, 4);
}

/// The broker may not take it: then nobody has to.
async fn a_correlation_id_that_is_no_text_comes_back_as_it_is(env: Env) {
    const TEXT: &str = "no-text!";
    let garbled = Proxy::start(&env.uri).await;
    garbled.garble(TEXT);
    let watched = Proxy::start(&env.uri).await;
    let tap = watched.tap();
    let serving = env.builder_at(watched.uri()).open().await.unwrap();
    let rig = Rig::over(&env, serving, env.connect().await).await;
    let caller = Caller::open(&env).await;
    let raw = Raw::open(garbled.uri()).await;
    let properties = caller.json("echo").with_correlation_id(short(TEXT));
    let sent = raw.publish_with("", &rig.queue, br#"{"text":"x"}"#, properties);
    if sent.await.is_err() {
        return env.leave_out("the broker takes no property that is no text");
    }
    // lapin does not show bytes that are no text: they are looked at on the wire.
    eventually("the same bytes in the reply", || async {
        let id = [&[TEXT.len() as u8][..], &[0xFF; TEXT.len()]].concat();
        let mut bytes = (1..=watched.accepted()).map(|link| tap.bytes(link, Way::Up));
        bytes.any(|bytes| bytes.windows(id.len()).any(|window| window == id))
    })
    .await;
    rig.is_well(&env).await;
}

async fn a_caller_that_is_gone_is_counted(env: Env) {
    let rig = Rig::start(&env).await;
    let gone = Caller::open(&env).await;
    let properties = gone.json("hold");
    gone.send(&rig.queue, properties, br#"{"id":1}"#).await;
    rig.subject.gate.entered(1).await;
    let queue = gone.replies.clone();
    gone.raw.close().await;
    let raw = Raw::open(&env.uri).await;
    eventually("no reply queue", || async { !raw.exists(&queue).await }).await;
    rig.subject.gate.open(1);
    rig.is_well(&env).await;
    eventually("a reply that came back", || async {
        rig.serving.stats().returned_replies == 1
    })
    .await;
    assert_eq!(rig.subject.ids(), [1], "not again");
}

async fn limited(env: &Env, bytes: usize) -> Connection {
    let opened = env.builder().max_message_size(bytes).open().await;
    opened.unwrap_or_else(|error| panic!("{error}"))
}

async fn a_request_too_large_is_refused_by_the_server(env: Env) {
    let rig = Rig::over(&env, limited(&env, 1000).await, env.connect().await).await;
    assert_eq!(rig.probe.echo("x".repeat(900)).await.unwrap().len(), 900);
    let error = rig.probe.echo("x".repeat(1000)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    let text = error.to_string();
    assert!(text.contains("the limit is 1000"), "{text}");
    rig.is_well(&env).await;
    assert_eq!(rig.serving.stats().malformed, 1);
}

async fn a_request_too_large_is_not_sent(env: Env) {
    let rig = Rig::over(&env, env.connect().await, limited(&env, 1000).await).await;
    let error = rig.probe.echo("x".repeat(1000)).await.unwrap_err();
    assert!(
        error.rpc().is_some_and(lepus::Error::is_too_large),
        "{error}"
    );
    assert_eq!(error.rpc().unwrap().outcome(), Some(Outcome::NotSent));
    assert!(error.to_string().contains("the limit is 1000"), "{error}");
    assert!(!error.may_have_executed());
    rig.is_well(&env).await;
    assert_eq!(rig.calling.stats().pending_calls, 0);
}

async fn an_expired_request_never_runs(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    raw.declare(&queue).await;
    let probe = ProbeClient::new(&calling);
    let error = probe.hold(1).timeout(FAIR).await.unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");

    // The broker has its own clock, and drops it a moment later at most.
    raw.until_messages(&queue, 0).await;
    let subject = Arc::new(Subject::default());
    let _server = serve(&serving, &subject).start().await.unwrap();
    assert_eq!(probe.echo("later".into()).await.unwrap(), "later");
    assert_eq!(subject.ids(), [0; 0]);

    // No time left at all: what the broker hands over at once the server drops.
    let caller = Caller::open(&env).await;
    let properties = caller.json("hold").with_expiration("0".into());
    caller.send(&queue, properties, br#"{"id":2}"#).await;
    assert_eq!(probe.echo("after".into()).await.unwrap(), "after");
    assert_eq!(subject.ids(), [0; 0]);
    assert_eq!(
        caller.waiting().await,
        0,
        "nobody waits for an answer any more"
    );
    raw.until_messages(&queue, 0).await;
}

async fn a_reply_too_large_is_told_to_its_caller(env: Env) {
    let rig = Rig::over(&env, limited(&env, 1000).await, env.connect().await).await;
    let error = rig.probe.large(2000).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    let text = error.to_string();
    assert!(
        text.contains("the reply has 2001 bytes, the limit is 1000")
            || text.contains("the reply has 2003 bytes, the limit is 1000"),
        "{text}"
    );
    assert!(error.may_have_executed());
    rig.is_well(&env).await;
}

async fn a_reply_too_large_for_the_caller(env: Env) {
    let rig = Rig::over(&env, env.connect().await, limited(&env, 1000).await).await;
    let error = rig.probe.large(2000).await.unwrap_err();
    let error = error.rpc().unwrap();
    assert!(error.is_too_large() && error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::Answered));
    rig.is_well(&env).await;
}

/// A server by hand, for replies that ours would not give.
struct Hand {
    raw: Raw,
    requests: lapin::Consumer,
}

impl Hand {
    async fn serve(env: &Env) -> Hand {
        let raw = Raw::open(&env.uri).await;
        let queue = env.name("probe");
        raw.declare(&queue).await;
        let requests = raw.consume(&queue, 10).await;
        Hand { raw, requests }
    }

    /// The next request's reply queue and correlation id.
    async fn next(&mut self) -> (String, String) {
        let request = delivery(&mut self.requests).await;
        let properties = &request.properties;
        let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().to_string();
        let address = (
            text(properties.reply_to()),
            text(properties.correlation_id()),
        );
        request.ack(Default::default()).await.unwrap();
        address
    }

    async fn reply(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        let sent = self.raw.publish_with("", queue, body, properties).await;
        assert!(sent.unwrap().take_message().is_none(), "no reply queue");
    }
}

fn id(text: &str) -> BasicProperties {
    BasicProperties::default().with_correlation_id(short(text))
}

async fn replies_nobody_waits_for_are_dropped_and_counted(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling);
    let dropped = || calling.stats().dropped_replies;

    // Unknown ids and none, before the answer.
    let call = probe.hold(7).send().await.unwrap();
    let (queue, first) = hand.next().await;
    for unknown in [
        "999",
        "-1",
        "",
        "no number",
        "18446744073709551616",
        " 1",
        "\u{1f407}",
    ] {
        hand.reply(&queue, id(unknown), b"\x00").await;
    }
    hand.reply(&queue, BasicProperties::default(), b"\x00")
        .await;
    eventually("eight dropped", || async { dropped() == 8 }).await;
    assert_eq!(
        calling.stats().pending_calls,
        1,
        "nobody was taken for another"
    );
    // The first answer counts, its double does not.
    hand.reply(&queue, id(&first), b"\x07").await;
    hand.reply(&queue, id(&first), b"\x08").await;
    assert_eq!(call.await.unwrap(), 7);
    eventually("a double dropped", || async { dropped() == 9 }).await;

    // Late.
    let error = probe.hold(8).timeout(FAIR).await.unwrap_err();
    assert!(error.is_timeout());
    let (queue, late) = hand.next().await;
    hand.reply(&queue, id(&late), b"\x08").await;
    eventually("a late one dropped", || async { dropped() == 10 }).await;

    let call = probe.hold(9).send().await.unwrap();
    let (queue, last) = hand.next().await;
    hand.reply(&queue, id(&last), b"\x09").await;
    assert_eq!(call.await.unwrap(), 9);
    assert_eq!((dropped(), calling.stats().pending_calls), (10, 0));
}

/// A service that was called once knows the reply queue, and its own correlation id.
async fn an_answer_to_another_call_cannot_be_made_up(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling);
    let call = probe.hold(1).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let others = [2, 3].map(|id| probe.hold(id).timeout(LONG).send());
    let others = futures_util::future::join_all(others).await;
    let mut theirs = Vec::new();
    for _ in &others {
        theirs.push(hand.next().await.1);
    }
    let (mark, number) = mine.split_at(11);
    let number: u64 = number.parse().expect("a number");
    let mut forged = 0;
    for next in number..number + 4 {
        for made_up in [
            next.to_string(),
            format!("m{next}"),
            format!("00000000000{next}"),
            format!("{mark}{next}"),
            format!("{mark}m{next}"),
        ] {
            // The last two of its own number are its own to answer.
            if !(next == number && made_up.starts_with(mark)) {
                hand.reply(&queue, id(&made_up), b"\x63").await;
                forged += 1;
            }
        }
    }
    // As if several calls had been sent in its message.
    let replies = id(&format!("{mark}m{number}")).with_type("lepus.replies/1".into());
    let body = [
        &b"\x92"[..],
        b"\x94\x02\xc0\xc0\xc4\x01\x63",
        b"\x94\x03\xc0\xc0\xc4\x01\x63",
    ];
    hand.reply(&queue, replies, &body.concat()).await;
    forged += 2;
    eventually("all dropped", || async {
        let dropped = calling.stats().dropped_replies;
        if dropped == forged {
            Ok(())
        } else {
            Err(dropped)
        }
    })
    .await;
    assert_eq!(calling.stats().pending_calls, 3);
    hand.reply(&queue, id(&mine), b"\x01").await;
    assert_eq!(call.await.unwrap(), 1);
    for ((call, theirs), number) in others.into_iter().zip(theirs).zip(2..) {
        hand.reply(&queue, id(&theirs), &[number]).await;
        assert_eq!(call.unwrap().await.unwrap(), u32::from(number));
    }
}

async fn a_reply_that_does_not_decode_fails_its_call_alone(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling);
    let other = probe.hold(1).send().await.unwrap();
    let (_, others) = hand.next().await;

    let garbage: [(&str, &[u8], &str); 5] = [
        ("application/msgpack", b"\xa4text", "application/msgpack: "),
        ("application/msgpack", b"", "application/msgpack: "),
        ("application/json", b"{", "application/json: "),
        (
            "application/octet-stream",
            b"\x01",
            "application/octet-stream: ",
        ),
        (
            "application/xml",
            b"<n/>",
            "the reply is `application/xml`, the request was `application/msgpack`",
        ),
    ];
    for (content_type, body, reason) in garbage {
        let call = probe.hold(2).send().await.unwrap();
        let (queue, mine) = hand.next().await;
        hand.reply(
            &queue,
            id(&mine).with_content_type(short(content_type)),
            body,
        )
        .await;
        let error = call.await.unwrap_err();
        let error = error.rpc().unwrap();
        assert!(error.is_decode() && error.may_have_executed(), "{error}");
        assert_eq!(error.outcome(), Some(Outcome::Answered));
        let source = error.source().unwrap().to_string();
        assert!(source.starts_with(reason), "{source}");
    }
    // The method has no error of its own that this could be.
    let call = probe.hold(3).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let application = id(&mine).with_headers(headers(&[("rpc-status", "application")]));
    hand.reply(&queue, application, b"\x01").await;
    assert!(call.await.unwrap_err().rpc().unwrap().is_decode());

    hand.reply(&queue, id(&others), b"\x01").await;
    assert_eq!(other.await.unwrap(), 1);
    assert_eq!(calling.stats().dropped_replies, 0);
}

async fn a_status_nobody_knows_is_unknown(env: Env) {
    let calling = env.connect().await;
    let mut hand = Hand::serve(&env).await;
    let probe = ProbeClient::new(&calling).clone();
    let statuses = [
        (
            headers(&[("rpc-status", "teapot"), ("rpc-message", "short and stout")]),
            "teapot: short and stout",
        ),
        (headers(&[("rpc-status", "")]), ": "),
        (headers(&[("rpc-status", "NOT_FOUND")]), "NOT_FOUND: "),
    ];
    for (status, text) in statuses {
        let call = probe.hold(1).timeout(LONG).send().await.unwrap();
        let (queue, mine) = hand.next().await;
        hand.reply(&queue, id(&mine).with_headers(status), b"\x01")
            .await;
        let error = call.await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Unknown));
        assert_eq!(error.rpc().unwrap().status().unwrap().message(), text);
    }
    // Headers of other types and with other names are no status.
    let call = probe.hold(4).send().await.unwrap();
    let (queue, mine) = hand.next().await;
    let odd = table(&[
        ("rpc-status", AMQPValue::LongInt(5)),
        ("x-other", AMQPValue::Void),
    ]);
    hand.reply(&queue, id(&mine).with_headers(odd), b"\x04")
        .await;
    assert_eq!(call.await.unwrap(), 4);
}
