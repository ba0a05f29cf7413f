//! Calls that share messages: what they gain, and that each stays a call of its own.
//!
//! The tests run on one thread, where calls that are polled one after the other are gathered into
//! one message: what is on the wire can be said exactly.

use futures_util::future::join_all;
use lapin::BasicProperties;
use lepus::{Code, Connection, Context, Outcome, Running, Server};
use lepus_tests::peer::{Caller, short};
use lepus_tests::probe::{
    DivideByZero, ProbeClient, RpcFixture, Subject, is_settled, serve_concurrently,
};
use lepus_tests::proxy::{Cut, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance};
use std::sync::Arc;
use std::time::Duration;

const CALLS: &str = "lepus.calls/1";
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);

conformance!(one_thread together:
    calls_at_once_share_a_message,
    a_message_has_so_many_calls_at_the_most,
    each_call_has_its_own_answer,
    headers_and_traces_travel_along,
    so_many_handlers_run_at_once,
    a_fast_call_does_not_wait_for_a_slow_one,
    large_replies_are_spread,
    what_is_not_alike_does_not_share,
    a_server_that_goes_gives_all_of_them_back,
    calls_of_a_batch_that_comes_again_are_not_run_again,
    one_at_a_time_replies_leave_with_their_acknowledgement,
);

conformance!(one_thread each:
    a_dropped_call_is_not_sent,
    a_deadline_is_its_own,
    what_expires_among_others_does_not_run,
    unroutable_at_once,
    lost_with_the_connection_or_sent_again,
);

conformance!(one_thread others:
    nothing_is_shared_before_a_server_says_it_may,
    a_server_that_refuses_gets_them_one_by_one,
    hostile_bodies_are_refused,
);

/// Clients whose server is known to understand.
async fn together(fixture: &RpcFixture, most: usize) -> ProbeClient {
    let probe = ProbeClient::builder(&fixture.calling)
        .coalesce(most)
        .build();
    assert_eq!(probe.echo("first".into()).await.unwrap(), "first");
    probe
}

/// The same, with another server, or none, in the place of the first.
async fn unattended(env: &Env, most: usize) -> Unattended {
    let fixture = RpcFixture::start(env).await;
    let probe = together(&fixture, most).await;
    fixture.server.stop().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    Unattended {
        raw,
        probe,
        serving: fixture.serving,
        calling: fixture.calling,
        subject: fixture.subject,
        queue: fixture.queue,
    }
}

/// A client, and whatever server the test starts.
struct Unattended {
    raw: Raw,
    probe: ProbeClient,
    serving: Connection,
    calling: Connection,
    subject: Arc<Subject>,
    queue: String,
}

impl Unattended {
    async fn serve(&self, concurrency: u16) -> Running {
        let server = serve_concurrently(&self.serving, &self.subject, concurrency);
        server.start().await.unwrap()
    }

    async fn is_well(&self, env: &Env) {
        assert_eq!(self.probe.echo("x".into()).await.unwrap(), "x");
        is_settled(env, &self.queue).await;
    }
}

async fn calls_at_once_share_a_message(env: Env) {
    let fixture = unattended(&env, 64).await;
    let probe = &fixture.probe;
    let calls = (0..10).map(|n| probe.echo(n.to_string()).timeout(LONG).send());
    let pending: Vec<_> = join_all(calls).await;
    assert_eq!(fixture.calling.stats().pending_calls, 10);
    fixture.raw.until_messages(&fixture.queue, 1).await;
    let _server = fixture.serve(1).await;
    for (n, call) in pending.into_iter().enumerate() {
        assert_eq!(call.unwrap().await.unwrap(), n.to_string());
    }
    is_settled(&env, &fixture.queue).await;
    assert_eq!(fixture.calling.stats().pending_calls, 0);
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
}

async fn a_message_has_so_many_calls_at_the_most(env: Env) {
    let fixture = unattended(&env, 4).await;
    let probe = &fixture.probe;
    let calls = (0..10).map(|n| probe.echo(n.to_string()).timeout(LONG));
    let calls = tokio::spawn(join_all(calls.map(IntoFuture::into_future)));
    fixture.raw.until_messages(&fixture.queue, 3).await;
    let _server = fixture.serve(1).await;
    for (n, answer) in calls.await.unwrap().into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n.to_string());
    }
}

async fn each_call_has_its_own_answer(env: Env) {
    let calling = env.builder().name("hare").open().await.unwrap();
    let fixture = RpcFixture::over(&env, env.connect().await, calling).await;
    let probe = together(&fixture, 64).await;
    fixture.subject.gate.open_for_good();
    let (value, own, panic, idempotent, facts) = tokio::join!(
        probe.echo("hello".into()),
        probe.divide(7, 0),
        probe.panic("ouch".into()),
        probe.hold_idempotent(3),
        // More time than any test has, and than any of the others it shares a message with.
        probe.facts().timeout(HOUR),
    );
    assert_eq!(value.unwrap(), "hello");
    let own = own.unwrap_err();
    assert_eq!(own.service(), Some(&DivideByZero { dividend: 7 }));
    let panic = panic.unwrap_err();
    assert_eq!(panic.status().unwrap().code(), Code::Internal);
    let text = panic.to_string();
    assert!(
        text.contains("`panic` panicked") && !text.contains("ouch"),
        "{text}"
    );
    assert_eq!(idempotent.unwrap(), 3);
    let facts = facts.unwrap();
    assert_eq!(
        (facts.service.as_str(), facts.method.as_str()),
        ("probe", "facts")
    );
    assert_eq!((facts.redelivered, facts.attempt), (false, 1));
    assert_eq!(facts.caller.as_deref(), Some("hare"));
    let left = Duration::from_millis(facts.millis_left.unwrap());
    assert!(left > HOUR / 2 && left <= HOUR, "{facts:?}");
    let runs = fixture.subject.runs();
    assert!(runs[0].facts.message_id.is_some(), "{runs:?}");
    fixture.is_well(&env).await;
    assert_eq!(fixture.serving.stats().panics, 1);
}

async fn headers_and_traces_travel_along(env: Env) {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fixture = unattended(&env, 64).await;
    let probe = &fixture.probe;
    let table = || {
        let list = lepus::amqp::Value::List(vec![1.into(), lepus::amqp::Value::Null]);
        let nested = lepus::amqp::Table::from([("list".to_owned(), list)]);
        lepus::amqp::Table::from([
            ("tenant".to_owned(), "hare".into()),
            ("size".to_owned(), u64::MAX.into()),
            ("nested".to_owned(), nested.into()),
        ])
    };
    // A handler's trace is that of the calls that it makes.
    let context = context_with(LONG, &[("traceparent", TRACE), ("other", "x")]).await;
    let calls = async {
        tokio::join!(
            probe.facts().headers(table()).send(),
            probe.facts().send(),
            probe.facts().header("tenant", "fox").send(),
        )
    };
    let (with, traced, other) = context.scope(calls).await;
    let reserved = probe.facts().header("rpc-accept", CALLS).send().await;
    assert!(reserved.unwrap_err().is_invalid());
    fixture.raw.until_messages(&fixture.queue, 1).await;
    let _server = fixture.serve(1).await;
    let [with, traced, other] = [with, traced, other].map(|call| call.unwrap());
    let (with, traced, other) = (
        with.await.unwrap(),
        traced.await.unwrap(),
        other.await.unwrap(),
    );
    // As in a message of its own.
    let alone = ProbeClient::new(&fixture.calling);
    let alone = alone.facts().headers(table()).await.unwrap();
    assert_eq!(with.headers, alone.headers);
    assert_eq!(with.headers["tenant"], "hare");
    assert!(traced.headers.is_empty(), "{traced:?}");
    assert_eq!(other.headers["tenant"], "fox");
    for facts in [with, traced, other] {
        assert_eq!(facts.trace["traceparent"], TRACE, "{facts:?}");
        assert_eq!(facts.trace.len(), 1, "{facts:?}");
    }
    is_settled(&env, &fixture.queue).await;
}

async fn so_many_handlers_run_at_once(env: Env) {
    let fixture = unattended(&env, 64).await;
    let gate = &fixture.subject.gate;
    let mut before = 0;
    for concurrency in [1, 3] {
        let server = fixture.serve(concurrency).await;
        let calls = join_all((0..7).map(|n| fixture.probe.hold(n).into_future()));
        let handlers = async {
            for done in 0..7 {
                let running = usize::from(concurrency).min(7 - done);
                gate.entered(before + done + running).await;
                // Whoever else could run would have done so.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(gate.count(), before + done + running);
                gate.open(1);
            }
        };
        let (answers, ()) = tokio::join!(calls, handlers);
        for (n, answer) in (0..).zip(answers) {
            assert_eq!(answer.unwrap(), n);
        }
        server.stop().await.unwrap();
        before += 7;
    }
}

async fn a_fast_call_does_not_wait_for_a_slow_one(env: Env) {
    let fixture = unattended(&env, 64).await;
    let _server = fixture.serve(2).await;
    let slow = fixture.probe.hold(1).send();
    let fast = fixture.probe.echo("fast".into()).send();
    let (slow, fast) = tokio::join!(slow, fast);
    assert_eq!(fast.unwrap().await.unwrap(), "fast");
    fixture.subject.gate.open(1);
    assert_eq!(slow.unwrap().await.unwrap(), 1);
    is_settled(&env, &fixture.queue).await;
}

async fn large_replies_are_spread(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let probe = together(&fixture, 64).await;
    let calls = (0..20).map(|n| probe.large(20_000 + n).into_future());
    for (n, text) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(text.unwrap().len(), 20_000 + n);
    }
    fixture.is_well(&env).await;
}

async fn what_is_not_alike_does_not_share(env: Env) {
    let fixture = unattended(&env, 64).await;
    let probe = &fixture.probe;
    let long = "x".repeat(20_000);
    let timeout = |seconds| Duration::from_secs(seconds);
    let pending = tokio::join!(
        // Two messages of two calls.
        probe.echo("a".into()).timeout(timeout(100)).send(),
        probe.echo("b".into()).timeout(timeout(50)).send(),
        probe
            .echo("c".into())
            .timeout(timeout(100))
            .header("h", "i")
            .send(),
        probe.echo("d".into()).timeout(timeout(50)).send(),
        // One each.
        probe
            .echo("e".into())
            .timeout(timeout(100))
            .priority(3)
            .send(),
        probe
            .echo("f".into())
            .timeout(timeout(100))
            .header("h", long.as_str())
            .send(),
        probe.echo(long.clone()).timeout(timeout(100)).send(),
        probe.hold_once(1).timeout(timeout(100)).send(),
        probe.note(1).timeout(timeout(100)).send(),
    );
    fixture.raw.until_messages(&fixture.queue, 7).await;
    drop(pending);
}

async fn a_server_that_goes_gives_all_of_them_back(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let probe = together(&fixture, 64).await;
    let calls = (1..=3).map(|n| probe.hold_idempotent(n).into_future());
    let calls = tokio::spawn(join_all(calls));
    fixture.subject.gate.entered(1).await;
    fixture.subject.gate.open(1);
    fixture.subject.gate.entered(2).await;
    // The first was done, and is done again: its message was not acknowledged.
    proxy.cut(Cut::Rst);
    fixture.subject.gate.open_for_good();
    for (n, answer) in (1..).zip(calls.await.unwrap()) {
        assert_eq!(answer.unwrap(), n);
    }
    is_settled(&env, &fixture.queue).await;
    let runs = fixture.subject.runs();
    let first: Vec<_> = runs.iter().filter(|run| run.id == 1).collect();
    assert_eq!(first.len(), 2);
    assert!(!first[0].facts.redelivered && first[1].facts.redelivered);
}

async fn calls_of_a_batch_that_comes_again_are_not_run_again(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let probe = together(&fixture, 64).await;
    let both = join_all([
        probe.hold(1).into_future(),
        probe.hold_idempotent(2).into_future(),
    ]);
    let calls = tokio::spawn(both);
    fixture.subject.gate.entered(1).await;
    proxy.cut(Cut::Rst);
    fixture.subject.gate.left(1).await;
    fixture.subject.gate.open_for_good();
    let answers = calls.await.unwrap();
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.code(), Some(Code::Aborted), "{error}");
    assert!(error.may_have_executed(), "{error}");
    assert_eq!(*answers[1].as_ref().unwrap(), 2);
    is_settled(&env, &fixture.queue).await;
    assert_eq!(fixture.subject.ids(), [1, 2]);
}

async fn one_at_a_time_replies_leave_with_their_acknowledgement(env: Env) {
    const MESSAGES: usize = 100;
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let probe = together(&fixture, 64).await;
    is_settled(&env, &fixture.queue).await;
    let tap = proxy.tap();
    for _ in 0..MESSAGES {
        let calls = (0..3).map(|n| probe.echo(n.to_string()).into_future());
        for answer in join_all(calls).await {
            answer.unwrap();
        }
    }
    is_settled(&env, &fixture.queue).await;
    let sizes = tap.sizes(Way::Up);
    // A thread that is taken off its processor at the wrong moment may part one or two.
    assert!(
        sizes.len() <= MESSAGES + MESSAGES / 10,
        "{}: {sizes:?}",
        sizes.len()
    );
}

async fn a_dropped_call_is_not_sent(env: Env) {
    let fixture = unattended(&env, 64).await;
    let probe = &fixture.probe;
    let calls = (1..=3).map(|n| probe.hold(n).timeout(LONG).send());
    let mut pending = join_all(calls).await;
    // Nobody has gathered yet: nothing was waited for.
    drop(pending.remove(1));
    assert_eq!(fixture.calling.stats().pending_calls, 2);
    fixture.raw.until_messages(&fixture.queue, 1).await;
    let _server = fixture.serve(1).await;
    fixture.subject.gate.open_for_good();
    for (n, call) in [1, 3].into_iter().zip(pending) {
        assert_eq!(call.unwrap().await.unwrap(), n);
    }
    assert_eq!(fixture.subject.ids(), [1, 3]);
}

/// Hands out the context of its handler.
#[lepus::service]
trait Contexts {
    async fn current(&self);
}

struct Sender(tokio::sync::mpsc::UnboundedSender<Context>);

impl Contexts for Sender {
    async fn current(&self) {
        self.0.send(Context::current()).unwrap();
    }
}

/// A context with this deadline from now on. Calls in it have exactly this deadline, and not one each.
async fn context(timeout: Duration) -> Context {
    context_with(timeout, &[]).await
}

/// The same, of a handler that was called with these headers over a broker.
async fn context_with(timeout: Duration, headers: &[(&str, &str)]) -> Context {
    let (sender, mut contexts) = tokio::sync::mpsc::unbounded_channel();
    if headers.is_empty() {
        let local = ContextsClient::local(Sender(sender));
        local.current().timeout(timeout).await.unwrap();
        return contexts.recv().await.unwrap();
    }
    let broker = lepus_broker::Broker::start().await.unwrap();
    let connection = Connection::open(&broker.uri()).await.unwrap();
    let server = Server::new(&connection).serve(ContextsServer::new(Sender(sender)));
    let server = server.start().await.unwrap();
    let headers = headers.iter();
    let headers = headers.map(|(name, text)| ((*name).to_owned(), (*text).into()));
    let call = ContextsClient::new(&connection).current();
    call.timeout(timeout)
        .headers(headers.collect())
        .await
        .unwrap();
    server.stop().await.unwrap();
    connection.close().await;
    contexts.recv().await.unwrap()
}

async fn a_deadline_is_its_own(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let probe = together(&fixture, 64).await;
    // Three calls with the same deadline share a message. One at a time: the first is at work until
    // it is stopped at the deadline, which has then passed for the others as well.
    let calls = join_all((1..=3).map(|id| probe.hold(id).into_future()));
    let impatient = async {
        let answers = context(10 * SHORT).await.scope(calls).await;
        // The server counts from the arrival of the message, so its deadline is a little later.
        fixture.subject.gate.left(1).await;
        fixture.subject.gate.open_for_good();
        answers
    };
    // One behind them that has more time than they have.
    let patient = async {
        fixture.subject.gate.entered(1).await;
        probe.hold(4).timeout(HOUR).await
    };
    let (answers, patient) = tokio::join!(impatient, patient);
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let outcome = error.outcome();
        assert!(
            matches!(outcome, Some(Outcome::SentNoReply | Outcome::Answered)),
            "{error:?}"
        );
    }
    assert_eq!(patient.unwrap(), 4);
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1, 4]);
    assert_eq!(fixture.serving.stats().expired_requests, 2);
}

async fn what_expires_among_others_does_not_run(env: Env) {
    let fixture = unattended(&env, 64).await;
    let probe = &fixture.probe;
    let calls = (1..=3).map(|n| probe.hold(n).timeout(SHORT).into_future());
    for answer in join_all(calls).await {
        let error = answer.unwrap_err();
        assert_eq!(error.outcome(), Some(Outcome::SentNoReply), "{error:?}");
    }
    // It was written a moment after the calls began, and so it expires a moment after they do.
    fixture.raw.until_messages(&fixture.queue, 0).await;
    let _server = fixture.serve(1).await;
    fixture.is_well(&env).await;
    assert!(fixture.subject.ids().is_empty());
}

async fn unroutable_at_once(env: Env) {
    let fixture = unattended(&env, 64).await;
    let probe = &fixture.probe;
    fixture.raw.delete(&fixture.queue).await;
    let calls = (1..=3).map(|n| probe.hold(n).timeout(HOUR).into_future());
    for answer in join_all(calls).await {
        let error = answer.unwrap_err();
        assert!(
            error.is_unroutable() && !error.may_have_executed(),
            "{error:?}"
        );
    }
}

async fn lost_with_the_connection_or_sent_again(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    let probe = together(&fixture, 64).await;
    let calls = async {
        tokio::join!(
            probe.hold(1).timeout(LONG).into_future(),
            probe.hold_idempotent(2).timeout(LONG).into_future(),
        )
    };
    let cut = async {
        fixture.subject.gate.entered(1).await;
        proxy.cut(Cut::Fin);
        fixture.subject.gate.open_for_good();
    };
    let ((lost, again), ()) = tokio::join!(calls, cut);
    let lost = lost.unwrap_err();
    assert!(
        lost.is_disconnected() && lost.may_have_executed(),
        "{lost:?}"
    );
    assert_eq!(again.unwrap(), 2);
    fixture.is_well(&env).await;
}

/// A server that is none of ours: what comes to the queue, and answers by hand.
struct Other {
    raw: Raw,
    queue: String,
    probe: ProbeClient,
}

impl Other {
    async fn start(env: &Env) -> Other {
        let raw = Raw::open(&env.uri).await;
        let queue = env.name("probe");
        raw.declare(&queue).await;
        let probe = ProbeClient::builder(&env.connect().await)
            .coalesce(64)
            .build();
        Other { raw, queue, probe }
    }

    /// Takes a request, says of what type it was, and answers.
    async fn answer(&self, properties: BasicProperties, body: &[u8]) -> String {
        let request = self.raw.next(&self.queue).await.delivery.properties;
        let id = request.correlation_id().clone().expect("an id");
        let to = request.reply_to().clone().expect("an address");
        let properties = properties.with_correlation_id(id);
        let sent = self
            .raw
            .publish_with("", to.as_str(), body, properties)
            .await;
        sent.expect("a confirm");
        let kind = request.kind().as_ref().expect("a type");
        kind.to_string()
    }
}

async fn nothing_is_shared_before_a_server_says_it_may(env: Env) {
    let other = Other::start(&env).await;
    for _ in 0..2 {
        let calls = (0..3).map(|_| other.probe.echo("x".into()).into_future());
        let answers = async {
            for _ in 0..3 {
                let kind = other.answer(BasicProperties::default(), b"\xa1x").await;
                assert_eq!(kind, "echo");
            }
        };
        let (answered, ()) = tokio::join!(join_all(calls), answers);
        for answer in answered {
            assert_eq!(answer.unwrap(), "x");
        }
    }
}

async fn a_server_that_refuses_gets_them_one_by_one(env: Env) {
    let other = Other::start(&env).await;
    let understands = || BasicProperties::default().with_type(short(CALLS));
    let calls = |count| join_all((0..count).map(|_| other.probe.echo("x".into()).into_future()));
    let (first, kind) = tokio::join!(calls(1), other.answer(understands(), b"\xa1x"));
    assert_eq!((first[0].as_deref().unwrap(), kind.as_str()), ("x", "echo"));
    let answers = async {
        let refusal = lepus_tests::peer::headers(&[("rpc-status", "unimplemented")]);
        let refusal = BasicProperties::default().with_headers(refusal);
        assert_eq!(other.answer(refusal, b"").await, CALLS);
        for _ in 0..3 {
            // It says again that it understands, and is not believed so soon.
            assert_eq!(other.answer(understands(), b"\xa1x").await, "echo");
        }
    };
    let (answered, ()) = tokio::join!(calls(3), answers);
    assert!(answered.into_iter().all(|answer| answer.unwrap() == "x"));
    let answers = async {
        for _ in 0..2 {
            assert_eq!(other.answer(understands(), b"\xa1x").await, "echo");
        }
    };
    let (answered, ()) = tokio::join!(calls(2), answers);
    assert!(answered.into_iter().all(|answer| answer.unwrap() == "x"));
}

async fn hostile_bodies_are_refused(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let deep = [
        &b"\x91\x96\x01\xa4echo\x01\xc0\xc4\x00\x81\xa1a"[..],
        &[0x91; 10_000],
    ]
    .concat();
    let bodies: [&[u8]; 12] = [
        b"",
        b"\x80",
        b"\x91\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x91\x95\x01\xa4echo\x01\xc0\xc6\xff\xff\xff\xff",
        b"\x91\x94\x01\xa4echo\x01\xc0",
        b"\x91\x95\x01\xa1\xff\x01\xc0\xc4\x00",
        &[0x91; 10_000],
        // Headers: none of them where six are announced, no map, too many, too deep.
        b"\x91\x96\x01\xa4echo\x01\xc0\xc4\x00",
        b"\x91\x96\x01\xa4echo\x01\xc0\xc4\x00\xc0",
        b"\x91\x96\x01\xa4echo\x01\xc0\xc4\x00\xdf\xff\xff\xff\xff",
        &deep,
    ];
    for body in bodies {
        let reply = caller.ask(&fixture.queue, caller.json(CALLS), body).await;
        let (code, text) = reply.failure();
        assert_eq!(code, "invalid_argument", "{text}");
        assert!(text.starts_with("the calls do not decode: "), "{text}");
        assert_eq!(reply.kind, None, "nobody asked what the server takes");
    }
    let asking = lepus_tests::peer::headers(&[("rpc-accept", CALLS)]);
    let asking = caller.json(CALLS).with_headers(asking);
    let reply = caller.ask(&fixture.queue, asking, b"").await;
    assert_eq!(reply.failure().0, "invalid_argument");
    assert_eq!(reply.kind.as_deref(), Some(CALLS));
    let many = [
        &b"\xdc\xff\xff"[..],
        &b"\x95\x01\xa1x\x01\xc0\xc4\x00".repeat(65_535),
    ]
    .concat();
    let reply = caller.ask(&fixture.queue, caller.json(CALLS), &many).await;
    assert_eq!(reply.failure().0, "invalid_argument");
    // Methods that nobody has, and those that do not share; an empty message asks for nothing.
    let calls = b"\x93\x95\x01\xa3fob\xcd\x27\x10\xc0\xc4\x00\x95\x02\xa4note\xcd\x27\x10\xc0\xc4\x00\x95\x03\xa4echo\xcd\x27\x10\xc0\xc4\x01{";
    caller
        .send(&fixture.queue, caller.json(CALLS), b"\x90")
        .await;
    let reply = caller.ask(&fixture.queue, caller.json(CALLS), calls).await;
    assert_eq!(
        (reply.status, reply.correlation_id.as_deref()),
        (None, Some("1"))
    );
    let body = String::from_utf8_lossy(&reply.body);
    assert!(
        body.contains("unimplemented") && body.contains("invalid_argument"),
        "{body}"
    );
    fixture.is_well(&env).await;
    assert_eq!(caller.waiting().await, 0);
}

/// Handlers that hold their thread do so side by side where there are threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn heavy_handlers_use_several_threads() {
    let broker = lepus_broker::Broker::start().await.unwrap();
    let connection = lepus::Connection::open(&broker.uri()).await.unwrap();
    let blocker = Arc::new(Blocker::default());
    let service = BlockServer::from_arc(Arc::clone(&blocker)).concurrency(3);
    let server = Server::new(&connection).serve(service);
    let _server = server.start().await.unwrap();
    let block = BlockClient::builder(&connection).coalesce(64).build();
    block.block().await.unwrap();
    let calls = (0..9).map(|_| block.block().into_future());
    for answer in join_all(calls).await {
        answer.unwrap();
    }
    assert!(blocker.most() > 1, "one after the other");
}

#[lepus::service(name = "block")]
trait Block {
    async fn block(&self);
}

#[derive(Default)]
struct Blocker {
    running: std::sync::atomic::AtomicUsize,
    most: std::sync::atomic::AtomicUsize,
}

impl Blocker {
    fn most(&self) -> usize {
        self.most.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Block for Blocker {
    async fn block(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        let running = 1 + self.running.fetch_add(1, SeqCst);
        self.most.fetch_max(running, SeqCst);
        // The fault itself: a handler that holds its thread, which the server learns from its length.
        std::thread::sleep(Duration::from_millis(20));
        self.running.fetch_sub(1, SeqCst);
    }
}
