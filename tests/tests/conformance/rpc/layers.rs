//! Contexts that a program makes itself, headers that flow on, and layers around clients and servers.

use super::{LONG, SHORT};
use futures_util::future::join_all;
use lepus::middleware::{
    AccessLog, Auth, ConcurrencyLimit, Layered, LoadShed, Next, RateLimit, Timeout, from_fn,
};
use lepus::{
    Code, Connection, Context, Outcome, Server, Status, Topic, WorkQueue,
    amqp::{Table, Value},
    rpc::{Client, ClientBuilder, Reply, ReplyOutcome, Request},
};
use lepus_tests::probe::{
    DivideByZero, Facts, ProbeClient, ProbeServer, RpcFixture, Subject, serve_layered,
};
use lepus_tests::proxy::Cut;
use lepus_tests::{Env, conformance};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(60 * 60);

conformance!(flowing:
    a_scope_gives_calls_its_deadline_and_trace,
    named_headers_flow_on_into_calls,
    named_headers_flow_on_over_several_hops,
    named_headers_flow_on_into_jobs_and_events,
    a_reserved_name_cannot_be_propagated,
    a_push_ends_with_the_deadline_of_its_context,
);

conformance!(serving:
    a_layer_tells_the_outcomes_apart,
    claims_of_a_layer_reach_the_handler,
    each_call_of_a_shared_message_passes_the_layers,
    headers_of_replies_reach_the_layers_of_the_client,
    a_full_server_answers_at_once,
);

conformance!(calling:
    layers_of_a_client_change_headers_and_answer,
    an_idempotent_call_that_is_sent_again_is_one_call,
    a_call_without_a_server_is_seen_to_fail,
    a_call_ends_with_its_deadline_whatever_its_layers_do,
    a_layer_may_send_a_call_several_times,
);

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A connection that propagates two headers.
async fn propagating(env: &Env) -> Connection {
    let builder = env.builder().propagate(["x-request-id", "x-tenant"]);
    builder.open().await.expect("a connection")
}

fn context() -> Context {
    Context::new()
        .with_timeout(LONG)
        .with_header("x-request-id", "7f3a")
        .with_header("x-tenant", "meadow")
        .with_header("x-secret", "carrot")
        .with_header("traceparent", TRACEPARENT)
}

async fn facts(probe: &ProbeClient) -> Facts {
    probe.facts().await.expect("a reply")
}

fn text<'a>(headers: &'a Table, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(Value::as_str)
}

async fn a_scope_gives_calls_its_deadline_and_trace(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let found = context().scope(facts(&fixture.probe)).await;
    assert!(found.headers.is_empty(), "nothing is propagated: {found:?}");
    assert_eq!(found.trace["traceparent"], TRACEPARENT);
    let left = found.millis_left.expect("a deadline");
    assert!(
        left <= 10_000,
        "the client's own timeout is shorter: {left}"
    );
    let limit = Duration::from_secs(3);
    let context = Context::new().with_timeout(limit);
    let left = context.scope(facts(&fixture.probe)).await.millis_left;
    assert!(left.is_some_and(|left| left <= 3000), "{left:?}");
}

async fn named_headers_flow_on_into_calls(env: Env) {
    let calling = propagating(&env).await;
    let fixture = RpcFixture::over(&env, env.connect().await, calling).await;
    let shared = ProbeClient::builder(&fixture.calling).coalesce(16).build();
    shared.echo("first".into()).await.expect("a reply");
    for probe in [&fixture.probe, &shared] {
        // The second time, `shared` sends it in a message for several.
        for _ in 0..2 {
            let found = context().scope(facts(probe)).await.headers;
            let expected = [("x-request-id", "7f3a"), ("x-tenant", "meadow")];
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        }
        let explicit = async { probe.facts().header("x-tenant", "burrow").await };
        let found = context().scope(explicit).await.expect("a reply");
        assert_eq!(found.headers["x-tenant"], "burrow");
        assert_eq!(found.headers["x-request-id"], "7f3a");
        assert!(facts(probe).await.headers.is_empty());
    }
}

/// A service that calls the probe.
#[lepus::service]
trait Hop {
    async fn facts(&self) -> Facts;
}

struct HopService(ProbeClient);

impl Hop for HopService {
    async fn facts(&self) -> Facts {
        facts(&self.0).await
    }
}

async fn named_headers_flow_on_over_several_hops(env: Env) {
    let calling = propagating(&env).await;
    let fixture = RpcFixture::over(&env, env.connect().await, calling).await;
    let connection = propagating(&env).await;
    let hop = HopServer::new(HopService(fixture.probe.clone()));
    env.name("hop");
    let server = lepus::Server::new(&connection).serve(hop).start().await;
    let server = server.expect("a server");
    let hop = HopClient::new(&connection);
    let found = context().scope(async { hop.facts().await }).await;
    let found = found.expect("a reply");
    assert_eq!(found.headers["x-request-id"], "7f3a");
    assert_eq!(found.trace["traceparent"], TRACEPARENT);
    assert!(!found.headers.contains_key("x-secret"), "{found:?}");
    server.stop().await.expect("stopped");
}

async fn named_headers_flow_on_into_jobs_and_events(env: Env) {
    let connection = propagating(&env).await;
    env.name("flowing");
    let queue = WorkQueue::<String>::text("flowing");
    let producer = queue.producer(&connection);
    let job = "job".to_owned();
    context()
        .scope(async { producer.push(&job).await })
        .await
        .expect("a push");
    let getter = queue.getter(&connection);
    let polled = getter.next().await.expect("a queue").expect("a job");
    assert_eq!(text(polled.headers(), "x-request-id"), Some("7f3a"));
    assert_eq!(text(polled.headers(), "x-secret"), None);
    assert_eq!(text(polled.trace(), "traceparent"), Some(TRACEPARENT));
    polled.ack().expect("settled");

    env.name("flowing.events");
    let topic = Topic::<String>::text("flowing.events");
    let mut events = topic
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .expect("a stream");
    let publisher = topic.publisher(&connection);
    context()
        .scope(async { publisher.publish("a.b", &job).await })
        .await
        .expect("published");
    let event = events.next().await.expect("an event").expect("decoded");
    assert_eq!(text(event.headers(), "x-tenant"), Some("meadow"));
    assert_eq!(text(event.headers(), "x-secret"), None);
    assert_eq!(text(event.trace(), "traceparent"), Some(TRACEPARENT));
}

async fn a_reserved_name_cannot_be_propagated(env: Env) {
    for name in ["rpc-status", "x-death", ""] {
        let opened = env.builder().propagate([name]).open().await;
        let error = opened.expect_err("refused");
        assert!(error.is_invalid(), "{name}: {error}");
    }
}

async fn a_push_ends_with_the_deadline_of_its_context(env: Env) {
    let (proxy, connection) = env.proxied().await;
    env.name("late");
    let producer = WorkQueue::<String>::text("late").producer(&connection);
    let job = "job".to_owned();
    producer.push(&job).await.expect("a push");
    proxy.stall(lepus_tests::proxy::Way::Up);
    let context = Context::new().with_timeout(SHORT);
    let within = context.scope(async { producer.push(&job).timeout(LONG).await });
    let alone = producer.push(&job).timeout(LONG).into_future();
    // Both have the same timeout, so what ends first ends with the context.
    let error = tokio::select! {
        ended = within => ended.expect_err("no confirm"),
        ended = alone => panic!("the push outside of the context ended first: {ended:?}"),
    };
    assert!(error.is_unconfirmed() || error.is_timeout(), "{error}");
}

/// The requests that a layer has seen, with their outcomes.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic under a lock"))
    }

    /// A layer that notes each request.
    async fn note(self, request: Request, next: Next) -> Reply {
        let method = request.method_name();
        let reply = next.run(request).await;
        let outcome = match reply.outcome() {
            ReplyOutcome::Value => "value".to_owned(),
            ReplyOutcome::OwnError => "own error".to_owned(),
            ReplyOutcome::Status(status) => status.code().to_string(),
            ReplyOutcome::TimedOut => "stopped".to_owned(),
            ReplyOutcome::Panicked(text) => format!("panicked: {text}"),
            ReplyOutcome::Failed(error) => format!("failed: {}", error.is_unroutable()),
            other => panic!("{other:?}"),
        };
        let line = format!("{method}: {outcome}");
        self.0.lock().expect("no panic under a lock").push(line);
        reply
    }
}

/// A layer that notes in `seen`.
macro_rules! noting {
    ($seen:expr) => {{
        let seen: Seen = $seen.clone();
        from_fn(move |request: Request, next: Next| seen.clone().note(request, next))
    }};
}

async fn a_layer_tells_the_outcomes_apart(env: Env) {
    let seen = Seen::default();
    let (_server, subject, calling) =
        serve_layered(&env, |probe| probe.layer((AccessLog::new(), noting!(seen)))).await;
    let probe = ProbeClient::new(&calling);
    probe.echo("a".into()).await.expect("a reply");
    let error = probe.divide(1, 0).await.expect_err("an error");
    assert_eq!(error.service(), Some(&DivideByZero { dividend: 1 }));
    let error = probe.panic("boom".into()).await.expect_err("a panic");
    assert_eq!(error.code(), Some(Code::Internal));
    assert!(!error.to_string().contains("boom"), "{error}");
    let error = probe.hold(1).timeout(SHORT).await.expect_err("stopped");
    assert!(error.is_timeout(), "{error}");
    subject.gate.left(1).await;
    let expected = [
        "echo: value",
        "divide: own error",
        "panic: panicked: boom",
        "hold: stopped",
    ];
    assert_eq!(seen.take(), expected);
    assert_eq!(probe.echo("alive".into()).await.expect("a reply"), "alive");
}

struct Claims(String);

fn check(headers: &Table) -> Result<Claims, Status> {
    match text(headers, "authorization") {
        Some(token) => Ok(Claims(token.to_owned())),
        None => Err(Status::new(Code::Unauthenticated, "a token is needed")),
    }
}

#[lepus::service]
trait Badge {
    async fn read(&self) -> String;
}

struct BadgeService;

impl Badge for BadgeService {
    async fn read(&self) -> String {
        let context = Context::current();
        let claims = context.get::<Claims>().map_or("none", |claims| &claims.0);
        let tenant = text(context.headers(), "x-tenant").unwrap_or("none");
        format!("{claims} of {tenant}")
    }
}

async fn claims_of_a_layer_reach_the_handler(env: Env) {
    let tenant = from_fn(async |request: Request, next: Next| {
        next.run(request.with_header("x-tenant", "meadow")).await
    });
    let service = BadgeServer::new(BadgeService)
        .layer(Auth::new(check))
        .layer(tenant);
    let local = BadgeClient::from(Client::local(service.clone()));
    env.name("badge");
    let connection = env.connect().await;
    let server = Server::new(&connection).serve(service).start().await;
    let server = server.expect("a server");
    for badge in [BadgeClient::new(&connection), local] {
        let read = badge.read().header("authorization", "hare").await;
        assert_eq!(read.expect("a reply"), "hare of meadow");
        let error = badge.read().await.expect_err("refused");
        assert_eq!(error.code(), Some(Code::Unauthenticated));
    }
    server.stop().await.expect("stopped");
}

async fn each_call_of_a_shared_message_passes_the_layers(env: Env) {
    let seen = Seen::default();
    let (_server, _subject, calling) =
        serve_layered(&env, |probe| probe.layer(noting!(seen))).await;
    let probe = ProbeClient::builder(&calling).coalesce(64).build();
    probe.echo("first".into()).await.expect("a reply");
    let calls = (0..20).map(|number| probe.echo(number.to_string()).into_future());
    for reply in join_all(calls).await {
        reply.expect("a reply");
    }
    assert_eq!(seen.take(), vec!["echo: value"; 21]);
}

async fn headers_of_replies_reach_the_layers_of_the_client(env: Env) {
    let answering = from_fn(async |request: Request, next: Next| {
        let length = i64::try_from(request.body().len()).expect("a small request");
        let reply = next.run(request).await;
        reply
            .with_header("x-cache", "miss")
            .with_header("x-length", length)
    });
    let (_server, _subject, calling) = serve_layered(&env, |probe| probe.layer(answering)).await;
    let headers = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&headers);
    let reading = from_fn(move |request: Request, next: Next| {
        let noted = Arc::clone(&noted);
        async move {
            let reply = next.run(request).await;
            noted
                .lock()
                .expect("no panic under a lock")
                .push(reply.headers().clone());
            reply
        }
    });
    let probe = ProbeClient::builder(&calling)
        .coalesce(64)
        .layer(reading)
        .build();
    probe.echo("first".into()).await.expect("a reply");
    for reply in join_all((0..8).map(|_| probe.echo("x".into()).into_future())).await {
        reply.expect("a reply");
    }
    // An outcome that is no value has them too.
    probe.panic("boom".into()).await.expect_err("a panic");
    let headers = headers.lock().expect("no panic under a lock");
    assert_eq!(headers.len(), 10);
    for headers in headers.iter() {
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-cache", "x-length"]);
        assert_eq!(text(headers, "x-cache"), Some("miss"));
    }
}

async fn a_full_server_answers_at_once(env: Env) {
    let shed = LoadShed::new(1);
    let (_server, subject, calling) = serve_layered(&env, |probe| probe.layer(shed)).await;
    let probe = ProbeClient::new(&calling);
    let held = probe.hold(1).send().await.expect("sent");
    subject.gate.entered(1).await;
    let error = probe.echo("x".into()).await.expect_err("full");
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    subject.gate.open(1);
    assert_eq!(held.await.expect("a reply"), 1);
    assert_eq!(probe.echo("x".into()).await.expect("a reply"), "x");
}

async fn layers_of_a_client_change_headers_and_answer(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let mocked = from_fn(async |request: Request, next: Next| {
        if request.method_name() == "divide" {
            return Status::new(Code::NotFound, "mocked").into();
        }
        next.run(request.with_header("x-tenant", "meadow")).await
    });
    let builder = ProbeClient::builder(&fixture.calling);
    let probe = builder.layer(mocked).timeout(HOUR).build();
    let found = probe.facts().header("mine", "x").await.expect("a reply");
    assert_eq!(
        (&*found.headers["mine"], &*found.headers["x-tenant"]),
        ("x", "meadow")
    );
    assert!(
        found
            .millis_left
            .is_some_and(|left| Duration::from_millis(left) > HOUR / 2),
        "{found:?}"
    );
    let found = probe
        .facts()
        .send()
        .await
        .expect("sent")
        .await
        .expect("a reply");
    assert_eq!(found.headers["x-tenant"], "meadow");
    let error = probe.divide(1, 1).await.expect_err("mocked");
    assert_eq!(error.code(), Some(Code::NotFound));
    probe.note(1).await.expect("confirmed");
    fixture.subject.gate.entered(1).await;
    fixture.subject.gate.open(1);
    let reserved = from_fn(async |request: Request, next: Next| {
        next.run(request.with_header("rpc-status", "x")).await
    });
    let probe: ProbeClient = ProbeClient::builder(&fixture.calling)
        .layer(reserved)
        .build();
    let error = probe.echo("x".into()).await.expect_err("refused");
    assert!(
        matches!(&error, lepus::CallError::Rpc(error) if error.is_invalid()),
        "{error}"
    );
}

async fn an_idempotent_call_that_is_sent_again_is_one_call(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    let seen = Seen::default();
    let builder = ProbeClient::builder(&fixture.calling);
    let probe = builder.layer(noting!(seen)).build();
    let held = probe
        .hold_idempotent(1)
        .timeout(LONG)
        .send()
        .await
        .expect("started");
    fixture.subject.gate.entered(1).await;
    proxy.cut(Cut::Rst);
    fixture.subject.gate.open_for_good();
    assert_eq!(held.await.expect("a reply"), 1);
    assert_eq!(seen.take(), ["hold_idempotent: value"]);
}

async fn a_call_without_a_server_is_seen_to_fail(env: Env) {
    let connection = env.connect().await;
    let seen = Seen::default();
    let builder = ProbeClient::builder(&connection);
    let probe = builder.layer(noting!(seen)).build();
    let error = probe.echo("x".into()).await.expect_err("no server");
    assert!(
        error.is_unroutable() && !error.may_have_executed(),
        "{error}"
    );
    assert_eq!(seen.take(), ["echo: failed: true"]);
}

/// A call is told to be not sent only if its layers have not passed it on.
async fn a_call_ends_with_its_deadline_whatever_its_layers_do(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let builder = || ProbeClient::builder(&fixture.calling).timeout(SHORT);
    let held = from_fn(async |_: Request, _: Next| std::future::pending::<Reply>().await);
    // It has the reply, and does not return it.
    let kept = from_fn(async |request: Request, next: Next| {
        next.run(request).await;
        std::future::pending::<Reply>().await
    });
    // The request ends elsewhere, at once and at its deadline.
    let spawned = from_fn(async |request: Request, next: Next| {
        tokio::spawn(next.run(request));
        std::future::pending::<Reply>().await
    });
    let late = from_fn(async |request: Request, next: Next| {
        let later = Context::new().with_timeout(HOUR);
        next.run(request.with_context(later)).await
    });
    let (not_sent, no_reply) = (Some(Outcome::NotSent), Some(Outcome::SentNoReply));
    let held = builder().layer(held).build();
    let error = held.echo("x".into()).await.expect_err("held");
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), not_sent, "{error}");
    let pending = held.echo("x".into()).send().await.expect("started");
    assert_eq!(pending.await.expect_err("held").outcome(), not_sent);
    for probe in [
        builder().layer(kept).build(),
        builder().layer(spawned).build(),
    ] {
        let error = probe.echo("x".into()).await.expect_err("kept");
        assert!(error.is_timeout(), "{error}");
        assert_eq!(error.outcome(), no_reply, "{error}");
        let pending = probe.echo("x".into()).send().await.expect("started");
        assert_eq!(pending.await.expect_err("kept").outcome(), no_reply);
        let error = probe.hold(1).await.expect_err("no reply");
        assert_eq!(error.outcome(), no_reply, "{error}");
    }
    let error = builder().layer(late).build().hold(1).await;
    assert!(error.expect_err("no reply").is_timeout());
    fixture.subject.gate.open_for_good();
}

async fn a_layer_may_send_a_call_several_times(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let thrice = from_fn(async |request: Request, next: Next| {
        let first = next.clone().run(request.clone());
        let second = next.clone().run(request.clone());
        let (first, second) = tokio::join!(first, second);
        for reply in [first, second] {
            assert!(matches!(reply.outcome(), ReplyOutcome::Value), "{reply:?}");
        }
        next.run(request).await
    });
    let probe = ProbeClient::builder(&fixture.calling).layer(thrice).build();
    assert_eq!(probe.echo("x".into()).await.expect("a reply"), "x");
    let stats = fixture.serving.stats_by_method();
    let echo = stats.iter().find(|stats| stats.method == "echo");
    assert_eq!(echo.expect("it was called").requests, 3);
}

fn local(layered: Layered) -> ProbeClient {
    ProbeClient::from(Client::local(layered))
}

#[tokio::test]
async fn a_timeout_stops_the_handler_below_the_layers() {
    let seen = Seen::default();
    let subject = Arc::new(Subject::default());
    let service = ProbeServer::from_arc(Arc::clone(&subject));
    let probe = local(service.layer(Timeout::new(SHORT)).layer(noting!(seen)));
    let error = probe.hold(1).timeout(LONG).await.expect_err("stopped");
    assert!(error.is_timeout(), "{error}");
    subject.gate.left(1).await;
    assert_eq!(seen.take(), ["hold: stopped"]);
}

#[tokio::test]
async fn a_limit_is_shared_by_the_services_and_clones_it_is_used_for() {
    let subject = Arc::new(Subject::default());
    let limit = ConcurrencyLimit::new(1);
    let service = || ProbeServer::from_arc(Arc::clone(&subject));
    let (first, second) = (
        local(service().layer(limit.clone())),
        local(service().layer(limit)),
    );
    let held = first.hold(1).send().await.expect("sent");
    subject.gate.entered(1).await;
    let error = second.echo("x".into()).timeout(SHORT).await;
    assert!(error.expect_err("it waits").is_timeout());
    subject.gate.open(1);
    held.await.expect("a reply");
    assert_eq!(second.echo("x".into()).await.expect("a reply"), "x");

    let limit = RateLimit::new(2, LONG).reject();
    let clients = [limit.clone(), limit].map(|limit| {
        let builder = ClientBuilder::<ProbeClient>::local(service());
        builder.layer(limit).build()
    });
    let mut codes = Vec::new();
    for client in clients.iter().cycle().take(4) {
        let reply = client.echo("x".into()).await;
        let status = reply.as_ref().err().and_then(|error| error.status());
        // The next of two turns in a long time comes after at most half of it.
        let delay = status.map(|status| status.retry_after().expect("a time"));
        assert!(delay.is_none_or(|delay| !delay.is_zero() && delay <= LONG / 2));
        codes.push(status.map(lepus::Status::code));
    }
    let exhausted = Some(Code::ResourceExhausted);
    assert_eq!(codes, [None, None, exhausted, exhausted]);
}

/// The outermost layer is the one that was added last, or the first of a tuple.
#[tokio::test]
async fn layers_have_an_order() {
    let service = ProbeServer::new(Subject::default());
    let add = |letter: &'static str| {
        from_fn(move |request: Request, next: Next| async move {
            let context = request.context();
            let before = text(context.headers(), "order").unwrap_or_default();
            let order = format!("{before}{letter}");
            next.run(request.with_header("order", order)).await
        })
    };
    let layered = service.layer(add("c")).layer((add("a"), add("b")));
    let builder = ClientBuilder::<ProbeClient>::local(layered);
    let probe = builder.layer(add("2")).layer(add("1")).build();
    let found = probe.facts().await.expect("a reply");
    assert_eq!(found.headers["order"], "12abc");
}

/// A layer that panics ends the call as a handler does.
#[tokio::test]
async fn a_layer_that_panics_is_an_internal_error() {
    let panicking = from_fn(async |_: Request, _: Next| -> Reply { panic!("in a layer") });
    let probe = local(ProbeServer::new(Subject::default()).layer(panicking));
    let error = probe.echo("x".into()).await.expect_err("a panic");
    assert_eq!(error.code(), Some(Code::Internal));
    assert!(!error.to_string().contains("in a layer"), "{error}");
}
