//! Requests that no client of ours would send, or that it refuses to.

use super::{FAIR, limited, zoom};
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{Code, Outcome};
use lepus_tests::peer::{Caller, headers, short};
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, is_settled, serve};
use lepus_tests::proxy::{Proxy, Way};
use lepus_tests::raw::{Raw, delivery, table};
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(200);

conformance!(
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

async fn an_unknown_method_is_told_which_there_are(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let reply = caller.ask(&fixture.queue, caller.json("fob"), b"{}").await;
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
        let reply = caller.ask(&fixture.queue, properties, b"{}").await;
        assert_eq!(reply.failure().0, "unimplemented");
        assert_eq!(reply.correlation_id.as_deref(), Some("2"));
    }
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 3);
    assert_eq!(caller.waiting().await, 0, "one reply each");
}

/// Bodies that `echo` and `divide` do not accept.
async fn is_refused(
    fixture: &RpcFixture,
    caller: &Caller,
    content_type: &str,
    method: &str,
    body: &[u8],
) {
    let properties = caller.json(method).with_content_type(short(content_type));
    let reply = caller.ask(&fixture.queue, properties, body).await;
    let (code, text) = reply.failure();
    let start = &body[..body.len().min(40)];
    assert_eq!(code, "invalid_argument", "{start:x?}: {text}");
    let expected = format!("the arguments of `{method}` do not decode: {content_type}: ");
    assert!(text.starts_with(&expected), "{start:x?}: {text}");
    assert!(text.len() > expected.len(), "no reason: {text}");
}

async fn arguments_that_do_not_decode(env: Env) {
    let fixture = RpcFixture::start(&env).await;
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
        is_refused(&fixture, &caller, "application/json", "echo", body).await;
    }
    let bodies: [&[u8]; 6] = [b"", b"\x81", b"\xc0", b"\x80", b"\x81\xa4text\x01", b"\xc1"];
    for body in bodies {
        is_refused(&fixture, &caller, "application/msgpack", "echo", body).await;
    }
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 14);
    assert_eq!(caller.waiting().await, 0);
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
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let body = b"\x81\xa4text\xa1x\xc0";
    is_refused(&fixture, &caller, "application/msgpack", "echo", body).await;
    is_refused(&fixture, &caller, "application/json", "echo", b"[\"x\"]]").await;
    fixture.is_well(&env).await;
}

async fn arguments_that_are_hostile(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let depth = 200_000;
    // Nested where a value is expected, and where nobody looks.
    let deep = "[".repeat(depth);
    is_refused(
        &fixture,
        &caller,
        "application/json",
        "echo",
        deep.as_bytes(),
    )
    .await;
    let deep = [br#"{"text":"#, "[".repeat(depth).as_bytes()].concat();
    is_refused(&fixture, &caller, "application/json", "echo", &deep).await;
    let deep = [br#"{"other":"#, "[".repeat(depth).as_bytes()].concat();
    is_refused(&fixture, &caller, "application/json", "echo", &deep).await;
    let deep = vec![0x91; depth];
    is_refused(&fixture, &caller, "application/msgpack", "echo", &deep).await;
    let deep = [b"\x82\xa5other", &vec![0x91; depth][..]].concat();
    is_refused(&fixture, &caller, "application/msgpack", "echo", &deep).await;
    // Declared lengths of 4 GiB.
    let bodies: [&[u8]; 4] = [
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\x01",
        b"\x81\xa4text\xdb\xff\xff\xff\xffx",
        b"\x81\xa4text\xc6\xff\xff\xff\xffx",
    ];
    for body in bodies {
        is_refused(&fixture, &caller, "application/msgpack", "echo", body).await;
    }
    fixture.is_well(&env).await;
}

async fn random_bytes_are_answered(env: Env) {
    let fixture = RpcFixture::start(&env).await;
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
        caller.send(&fixture.queue, properties, &body).await;
    }
    for number in 0..120 {
        let reply = caller.reply().await;
        assert_eq!(reply.correlation_id, Some(number.to_string()), "in order");
        assert_eq!(reply.failure().0, "invalid_argument");
    }
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 120);
}

async fn another_content_type(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let xml = caller
        .json("echo")
        .with_content_type("application/xml".into());
    let reply = caller.ask(&fixture.queue, xml, b"<text/>").await;
    let (code, text) = reply.failure();
    assert_eq!(code, "invalid_argument");
    assert!(text.contains("`application/xml`"), "{text}");
    assert!(
        text.contains("application/msgpack") && text.contains("application/json"),
        "{text}"
    );
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 1);
}

/// A reply's message is a header, and headers have to fit in one frame.
async fn a_text_of_any_length_fits_the_reply(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let generations = connections(&fixture);

    let body = format!(r#"{{"dividend":"{}","divisor":1}}"#, "ä".repeat(150_000));
    let reply = caller
        .ask(&fixture.queue, caller.json("divide"), body.as_bytes())
        .await;
    let (code, text) = reply.failure();
    assert_eq!(code, "invalid_argument");
    assert!(
        text.contains("ää") && text.len() < 10_000,
        "{} bytes",
        text.len()
    );

    let error = fixture.probe.panic("ö".repeat(150_000)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal));
    assert!(!error.to_string().contains("öö"), "the log's business");

    fixture.is_well(&env).await;
    assert_eq!(
        connections(&fixture),
        generations,
        "nobody lost the connection over it"
    );
}

/// Whether both ends are still as they were.
fn connections(fixture: &RpcFixture) -> [bool; 4] {
    let ends = [&fixture.serving, &fixture.calling];
    let changed = ends.map(|end| end.state().has_changed().unwrap());
    let connected = ends.map(|end| end.state().borrow().is_connected());
    [changed[0], changed[1], connected[0], connected[1]]
}

/// A peer may have agreed on larger frames than we would ask for.
async fn a_request_with_large_headers_is_served(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let large = "h".repeat(100_000);
    let properties = caller
        .json("facts")
        .with_headers(headers(&[("large", &large)]));
    let reply = caller.ask(&fixture.queue, properties, b"{}").await;
    assert_eq!(reply.status, None, "{:?}", reply.message);
    let facts: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(facts["headers"]["large"], large);
    assert_eq!(facts["redelivered"], false);
    fixture.is_well(&env).await;
}

async fn headers_that_fit_no_frame_are_not_sent(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let other = fixture.probe.hold(1).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let large = "h".repeat(1_000_000);
    for call in [
        fixture
            .probe
            .note(2)
            .header("large", large.as_str())
            .await
            .unwrap_err(),
        fixture
            .probe
            .note(2)
            .header("large", large.into_bytes())
            .await
            .unwrap_err(),
    ] {
        assert!(call.is_too_large(), "{call}");
        assert!(!call.may_have_executed());
    }
    let error = fixture
        .probe
        .facts()
        .header("large", "h".repeat(1_000_000))
        .await
        .unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert!(!error.may_have_executed());
    // Nor a header's name, which is a short string.
    let error = fixture
        .probe
        .facts()
        .header(&"n".repeat(256), 1)
        .await
        .unwrap_err();
    assert!(error.is_invalid(), "{error}");
    // Another call in flight over the same connection has not noticed.
    fixture.subject.gate.open_for_good();
    assert_eq!(other.await.unwrap(), 1);
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1]);
}

async fn a_request_without_reply_to_runs(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    fixture.subject.gate.open_for_good();
    let nobody = BasicProperties::default()
        .with_type("hold".into())
        .with_content_type("application/json".into());
    caller
        .send(&fixture.queue, nobody.clone(), br#"{"id":7}"#)
        .await;
    caller
        .send(
            &fixture.queue,
            nobody.clone().with_reply_to("".into()),
            br#"{"id":8}"#,
        )
        .await;
    // Nor is there anybody to tell of a mistake.
    caller
        .send(&fixture.queue, nobody.clone().with_type("fob".into()), b"")
        .await;
    caller
        .send(
            &fixture.queue,
            nobody.with_type("panic".into()),
            br#"{"text":"x"}"#,
        )
        .await;
    eventually("the panic", || async {
        fixture.serving.stats().panics == 1
    })
    .await;
    assert_eq!(fixture.subject.ids(), [7, 8]);
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 1);
}

async fn a_request_without_correlation_id_is_answered(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let properties = BasicProperties::default()
        .with_type("echo".into())
        .with_reply_to(short(&caller.replies));
    let reply = caller
        .ask(&fixture.queue, properties, b"\x81\xa4text\xa2hi")
        .await;
    assert_eq!((reply.status, reply.correlation_id), (None, None));
    assert_eq!(reply.body, b"\xa2hi");
    fixture.is_well(&env).await;
}

async fn a_hostile_reply_to_harms_nobody(env: Env) {
    let fixture = hasty(&env).await;
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
    let before = connections(&fixture);
    for (number, queue) in nowhere.iter().enumerate() {
        let properties = caller.json("hold").with_reply_to(short(queue));
        let body = format!(r#"{{"id":{number}}}"#);
        caller
            .send(&fixture.queue, properties, body.as_bytes())
            .await;
        fixture.is_well(&env).await;
    }
    assert_eq!(connections(&fixture), before, "nobody lost the connection");
    let is_run =
        |queue: &str| !(is_direct_reply_risky(&env) && queue.starts_with("amq.rabbitmq.reply-to"));
    let run = (0..).zip(nowhere).filter(|(_, queue)| is_run(queue));
    let run: Vec<u32> = run.map(|(number, _)| number).collect();
    assert_eq!(fixture.subject.ids(), run);

    // Another's queue gets a message that is not for it: AMQP knows no owner of a name. The
    // service's own queue gets one that is no request, and no answer follows that one.
    let properties = caller.json("echo").with_reply_to(short(&victim));
    caller
        .send(&fixture.queue, properties, br#"{"text":"not yours"}"#)
        .await;
    assert_eq!(caller.raw.next(&victim).await.data, b"\"not yours\"");
    let before = fixture.serving.stats().malformed;
    let properties = caller.json("echo").with_reply_to(short(&fixture.queue));
    caller
        .send(&fixture.queue, properties, br#"{"text":"loop"}"#)
        .await;
    eventually("its own reply", || async {
        fixture.serving.stats().malformed == before + 1
    })
    .await;
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, before + 1);
}

/// A broker passes on whatever a peer has put into a property.
async fn texts_that_are_no_text_harm_nobody(env: Env) {
    const TEXT: &str = "no-text!";
    let proxy = Proxy::start(&env.uri).await;
    proxy.garble(TEXT);
    let fixture = hasty(&env).await;
    let caller = Caller::open(&env).await;
    let mut state = fixture.serving.state();
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
        let published = raw.publish_with("", &fixture.queue, br#"{"text":"x"}"#, properties);
        published.await.expect("a broker takes it");
        fixture.is_well(&env).await;
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
    let fixture = hasty(&env).await;
    let caller = Caller::open(&env).await;
    let before = connections(&fixture);
    let process = "g1h2AApyZXBseUAxMjM0AAAAAQAAAAAAAAAB";
    let address = format!("amq.rabbitmq.reply-to.{process}.aGFyZWhhcmVoYXJlaGFyZQ==");
    for (id, method) in [(1, "hold"), (2, "hold_once"), (3, "hold")] {
        let properties = caller.json(method).with_reply_to(short(&address));
        caller
            .send(
                &fixture.queue,
                properties,
                format!(r#"{{"id":{id}}}"#).as_bytes(),
            )
            .await;
        fixture.is_well(&env).await;
    }
    assert_eq!(connections(&fixture), before, "nobody lost the connection");
    if is_direct_reply_risky(&env) {
        assert_eq!(fixture.subject.ids(), [0; 0]);
        assert_eq!(fixture.serving.stats().malformed, 3);
    } else {
        assert_eq!(fixture.subject.ids(), [1, 2, 3]);
    }
}

/// A fixture whose server is soon back, and whose gate is open.
async fn hasty(env: &Env) -> RpcFixture {
    let soon = Duration::from_millis(10);
    let serving = env.builder().backoff(soon, SHORT).open().await.unwrap();
    let fixture = RpcFixture::over(env, serving, env.connect().await).await;
    fixture.subject.gate.open_for_good();
    fixture
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
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    let caller = Caller::open(&env).await;
    let raw = Raw::open(garbled.uri()).await;
    let properties = caller.json("echo").with_correlation_id(short(TEXT));
    let sent = raw.publish_with("", &fixture.queue, br#"{"text":"x"}"#, properties);
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
    fixture.is_well(&env).await;
}

async fn a_caller_that_is_gone_is_counted(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let gone = Caller::open(&env).await;
    let properties = gone.json("hold");
    gone.send(&fixture.queue, properties, br#"{"id":1}"#).await;
    fixture.subject.gate.entered(1).await;
    let queue = gone.replies.clone();
    gone.raw.close().await;
    let raw = Raw::open(&env.uri).await;
    eventually("no reply queue", || async { !raw.exists(&queue).await }).await;
    fixture.subject.gate.open(1);
    fixture.is_well(&env).await;
    eventually("a reply that came back", || async {
        fixture.serving.stats().returned_replies == 1
    })
    .await;
    assert_eq!(fixture.subject.ids(), [1], "not again");
}

async fn a_request_too_large_is_refused_by_the_server(env: Env) {
    let fixture = RpcFixture::over(&env, limited(&env, 1000).await, env.connect().await).await;
    assert_eq!(
        fixture.probe.echo("x".repeat(900)).await.unwrap().len(),
        900
    );
    let error = fixture.probe.echo("x".repeat(1000)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    let text = error.to_string();
    assert!(text.contains("the limit is 1000"), "{text}");
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().malformed, 1);
}

async fn a_request_too_large_is_not_sent(env: Env) {
    let fixture = RpcFixture::over(&env, env.connect().await, limited(&env, 1000).await).await;
    let error = fixture.probe.echo("x".repeat(1000)).await.unwrap_err();
    assert!(error.is_too_large(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));
    assert!(error.to_string().contains("the limit is 1000"), "{error}");
    assert!(!error.may_have_executed());
    fixture.is_well(&env).await;
    assert_eq!(fixture.calling.stats().pending_calls, 0);
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
