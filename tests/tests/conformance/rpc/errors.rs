//! Errors of calls, and the facts that a handler knows of its call.

use futures_util::future::join_all;
use lepus::{
    Call, CallError, Code, Codec, Connection, Context, Outcome, Server, Status, rpc::Never,
};
use lepus_tests::eventually::eventually;
use lepus_tests::frames::{blocked, unblocked};
use lepus_tests::peer::{Caller, headers};
use lepus_tests::probe::{
    Facts, ProbeClient, RpcFixture, Subject, serve, serve_concurrently, transport_error,
};
use lepus_tests::proxy::Proxy;
use lepus_tests::raw::Raw;
use lepus_tests::{Env, Gate, conformance};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(200);
/// Enough for a request to reach its handler, also on a slow machine.
const FAIR: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);

conformance!(kinds:
    unroutable_at_once,
    timed_out,
    timed_out_by_the_server,
    answered_with_a_status,
    blocked_by_the_broker,
    not_encodable,
    closed,
);

conformance!(handlers:
    a_panic_is_told_and_the_worker_lives,
    a_panics_text_is_told_where_that_is_asked_for,
    a_panic_on_the_way_out_is_no_end_either,
    a_handler_is_stopped_at_its_deadline,
    a_method_has_a_timeout_of_its_own,
);

conformance!(statuses:
    a_status_travels_as_it_is,
    a_status_travels_in_a_shared_message,
);

conformance!(context:
    a_nested_call_inherits_deadline_and_trace,
    a_handler_answers_after_a_nested_call_timed_out,
    a_handler_knows_its_call,
    a_redelivered_request_says_so,
    a_task_takes_the_context_along,
);

/// `probe.method on queue `q`: what after 0.123 s (outcome)`, and the seconds are those told.
fn assert_text<E: std::fmt::Display>(
    error: &CallError<E>,
    queue: &str,
    method: &str,
    what: &str,
    outcome: &str,
) {
    let text = error.to_string();
    let start = format!("probe.{method} on queue `{queue}`: {what} after ");
    let rest = text
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{text}\nnot {start}"));
    let seconds = rest.strip_suffix(&format!(" s ({outcome})"));
    let seconds: f64 = seconds.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    let elapsed = error.elapsed().unwrap().as_secs_f64();
    assert!(
        (seconds - elapsed).abs() < 0.001,
        "{text}, elapsed {elapsed}"
    );
}

async fn unroutable_at_once(env: Env) {
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    // The first call of a connection waits for its reply queue.
    assert!(Lone::new(&calling).ask().await.unwrap_err().is_unroutable());
    for _ in 0..3 {
        let error = probe.echo("anybody?".into()).await.unwrap_err();
        assert!(error.is_unroutable() && !error.may_have_executed() && !error.is_timeout());
        assert_eq!(error.outcome(), Some(Outcome::Unroutable));
        let what = "the broker has no queue for it";
        assert_text(&error, &env.name("probe"), "echo", what, "unroutable");
    }
    let error = probe.note(1).await.unwrap_err();
    assert!(
        error.is_unroutable() && !error.may_have_executed(),
        "{error}"
    );
    assert_eq!(calling.stats().pending_calls, 0);

    // Among others that find their way.
    let subject = Arc::new(Subject::default());
    let _server = serve_concurrently(&env.connect().await, &subject, 50)
        .start()
        .await
        .unwrap();
    let missing = Lone::new(&calling);
    let calls = (0..200).map(|n| {
        let (probe, missing) = (probe.clone(), missing.clone());
        async move {
            if n % 3 == 0 {
                let error = missing.ask().await.unwrap_err();
                assert!(error.is_unroutable(), "{error}");
            } else {
                assert_eq!(probe.echo(n.to_string()).await.unwrap(), n.to_string());
            }
        }
    });
    futures_util::future::join_all(calls).await;
}

#[lepus::service(client)]
trait LoneService {
    async fn ask(&self);
}
type Lone = LoneServiceClient;

async fn timed_out(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let began = Instant::now();
    let error = fixture.probe.hold(1).timeout(SHORT).await.unwrap_err();
    // Not before its deadline, on a slow machine as well.
    assert!(began.elapsed() >= SHORT);
    assert!(error.is_timeout() && error.may_have_executed());
    assert!(!error.is_disconnected() && !error.is_unroutable());
    assert!(error.elapsed().unwrap() >= SHORT);
    let by_us = error.status().is_none();
    if by_us {
        assert_text(
            &error,
            &fixture.queue,
            "hold",
            "timed out",
            "sent, no reply",
        );
    }
    fixture.is_well(&env).await;
}

async fn timed_out_by_the_server(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let caller = Caller::open(&env).await;
    let properties = caller.json("hold").with_expiration("1000".into());
    let reply = caller.ask(&fixture.queue, properties, br#"{"id":1}"#).await;
    let (code, text) = reply.failure();
    assert_eq!(
        (code, text),
        ("deadline_exceeded", "`hold` was stopped at its deadline")
    );
    assert_eq!(fixture.subject.gate.dropped(), 1);
    fixture.is_well(&env).await;
}

async fn answered_with_a_status(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    // A contract that the server does not know all of.
    let newer = NewerProbeClient::new(&fixture.calling);
    let error = newer.fresh().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert!(!error.may_have_executed() && !error.is_timeout() && !error.is_disconnected());
    let error = error.rpc().unwrap();
    assert_eq!(error.outcome(), Some(Outcome::Answered));
    assert!(error.status().unwrap().message().contains("`fresh`"));
    let text = error.to_string();
    let start = format!(
        "newer.fresh on queue `{}`: unimplemented: `probe` has no method",
        fixture.queue
    );
    assert!(
        text.starts_with(&start) && text.ends_with(" s (answered)"),
        "{text}"
    );

    // Where a name is the same and the arguments are not.
    let error = newer.echo(7).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert!(!error.may_have_executed());
    // And what is there still works: a field more is no harm.
    assert_eq!(newer.divide(8, 2, true).await.unwrap(), 4);
    fixture.is_well(&env).await;
}

#[lepus::service(name = "newer", queue = "probe", client)]
trait NewerProbe {
    async fn fresh(&self);
    async fn echo(&self, text: u64) -> String;
    async fn divide(&self, dividend: i64, divisor: i64, rounded: bool) -> i64;
}

async fn blocked_by_the_broker(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let serving = env.connect().await;
    let calling = env.builder_at(proxy.uri()).open().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, calling).await;
    let in_flight = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let mut state = fixture.calling.state();
    proxy.inject(&blocked("low on memory"));
    let is_blocked = |state: &lepus::amqp::ConnectionState| matches!(state, lepus::amqp::ConnectionState::Blocked { reason, .. } if reason == "low on memory");
    state.wait_for(is_blocked).await.unwrap();

    for error in [
        transport_error(fixture.probe.hold(2).timeout(SHORT)).await,
        transport_error(fixture.probe.note(3).timeout(SHORT)).await,
    ] {
        assert!(
            error.is_blocked() && !error.may_have_executed(),
            "{error:?}"
        );
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
        assert!(error.to_string().contains("low on memory"), "{error}");
    }
    // Replies still come.
    fixture.subject.gate.open_for_good();
    assert_eq!(in_flight.await.unwrap(), 1);
    // And a call that waits goes out by itself.
    let waiting = tokio::spawn({
        let probe = fixture.probe.clone();
        async move { probe.echo("at last".into()).timeout(LONG).await }
    });
    proxy.inject(&unblocked());
    assert_eq!(waiting.await.unwrap().unwrap(), "at last");
    state
        .wait_for(lepus::amqp::ConnectionState::is_connected)
        .await
        .unwrap();
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1]);
}

#[lepus::service(client)]
trait Maps {
    async fn put(&self, map: BTreeMap<Vec<u8>, u8>) -> u8;
}

async fn not_encodable(env: Env) {
    let calling = env.connect().await;
    let maps = MapsClient::builder(&calling).codec(Codec::Json).build();
    // JSON's keys are strings.
    let error = maps.put(BTreeMap::from([(vec![1], 1)])).await.unwrap_err();
    assert!(error.is_encode() && !error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));
    let reason = error.source().expect("the codec's reason").to_string();
    assert!(reason.starts_with("application/json: "), "{reason}");
}

async fn closed(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    fixture.calling.close().await;
    for error in [
        transport_error(fixture.probe.echo("x".into())).await,
        transport_error(fixture.probe.note(1)).await,
        transport_error(ProbeClient::new(&fixture.calling).hold(1)).await,
    ] {
        assert!(
            error.is_closed() && !error.is_disconnected() && !error.is_timeout(),
            "{error}"
        );
        assert!(!error.may_have_executed(), "{error}");
        assert_eq!(error.outcome(), Some(Outcome::NotSent));
    }
    let error = serve(&fixture.calling, &fixture.subject)
        .start()
        .await
        .unwrap_err();
    assert!(error.is_closed(), "{error}");
    fixture.calling.close().await;
    assert!(matches!(
        *fixture.calling.state().borrow(),
        lepus::amqp::ConnectionState::Closed
    ));
}

async fn a_panic_is_told_and_the_worker_lives(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    for (n, text) in ["boom", "", "häse"].into_iter().enumerate() {
        let error = fixture.probe.panic(text.into()).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Internal));
        assert!(error.may_have_executed());
        let message = error.status().unwrap().message().to_owned();
        assert_eq!(message, "`panic` panicked", "its text stays in the log");
        assert_eq!(fixture.serving.stats().panics, n as u64 + 1);
    }
    fixture.is_well(&env).await;
    // A reply is sent before its handler is counted as ended.
    let serving = &fixture.serving;
    eventually("no handler", || async { serving.stats().running == 0 }).await;
}

async fn a_panics_text_is_told_where_that_is_asked_for(env: Env) {
    let (serving, subject) = (env.connect().await, Arc::new(Subject::default()));
    let server = serve(&serving, &subject).tell_panics(true);
    let _server = server.start().await.unwrap();
    let calling = env.connect().await;
    let error = ProbeClient::new(&calling).panic("häse".into()).await;
    let error = error.unwrap_err();
    let message = error.status().unwrap().message().to_owned();
    assert_eq!(message, "`panic` panicked: häse");
}

#[lepus::service]
trait Fragile {
    async fn wait(&self);
    async fn echo(&self, n: u8) -> u8;
}

struct Brittle(Gate);

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

impl Fragile for Brittle {
    async fn wait(&self) {
        let _bomb = Bomb;
        self.0.pass().await;
    }

    async fn echo(&self, n: u8) -> u8 {
        n
    }
}

/// A destructor that panics when its handler is stopped.
async fn a_panic_on_the_way_out_is_no_end_either(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    env.name("fragile");
    let gate = Gate::default();
    let server = Server::new(&serving).serve(FragileServer::new(Brittle(gate.clone())));
    let _server = server.start().await.unwrap();
    let fragile = FragileClient::new(&calling);
    let error = fragile.wait().timeout(FAIR).await.unwrap_err();
    assert!(error.may_have_executed(), "{error}");
    assert_eq!(fragile.echo(7).await.unwrap(), 7, "the worker lives");
    gate.open_for_good();
    let error = fragile.wait().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal));
    assert_eq!(fragile.echo(8).await.unwrap(), 8);
    assert_eq!(serving.stats().panics, 2);
}

async fn a_handler_is_stopped_at_its_deadline(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let error = fixture.probe.hold(1).timeout(FAIR).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    fixture.subject.gate.left(1).await;
    // Its place is free again, and nothing is left of it.
    fixture.is_well(&env).await;
    fixture.probe.note(2).timeout(FAIR).await.unwrap();
    fixture.subject.gate.left(2).await;
    fixture.is_well(&env).await;
}

#[lepus::service]
trait Hasty {
    #[rpc(timeout = "1s")]
    async fn wait(&self);
    #[rpc(timeout = "5s")]
    async fn left(&self) -> Option<u64>;
}

struct Slow(Gate);

impl Hasty for Slow {
    async fn wait(&self) {
        self.0.pass().await;
    }

    async fn left(&self) -> Option<u64> {
        Facts::current().millis_left
    }
}

async fn a_method_has_a_timeout_of_its_own(env: Env) {
    let connection = env.connect().await;
    env.name("hasty");
    let gate = Gate::default();
    let server = Server::new(&connection).serve(HastyServer::new(Slow(gate.clone())));
    let _server = server.start().await.unwrap();
    // The method's before the client's, and the call's before both.
    let hasty = HastyClient::builder(&connection).timeout(LONG).build();
    assert!(hasty.wait().await.unwrap_err().is_timeout());
    gate.left(1).await;
    assert!(hasty.left().await.unwrap().unwrap() <= 5_000);
    let left = hasty.left().timeout(LONG).await.unwrap().unwrap();
    assert!((10_000..=30_000).contains(&left), "{left}");
}

#[lepus::service]
trait Front {
    async fn ask(&self, mine: u64) -> Result<(Facts, Facts), String>;
    async fn ask_slowly(&self) -> Result<(), String>;
    async fn ask_and_clean_up(&self) -> Result<(), String>;
}

struct Relay {
    connection: Connection,
    nested: Arc<AtomicBool>,
    cleaned_up: Arc<AtomicUsize>,
}

impl Front for Relay {
    async fn ask(&self, mine: u64) -> Result<(Facts, Facts), String> {
        let back = ProbeClient::new(&self.connection);
        let call = back.facts().timeout(Duration::from_millis(mine));
        let theirs = call.await.map_err(|error| error.to_string())?;
        Ok((Facts::current(), theirs))
    }

    async fn ask_slowly(&self) -> Result<(), String> {
        let back = ProbeClient::new(&self.connection);
        // Longer than the caller waits.
        let error = back.hold(1).timeout(LONG).await.unwrap_err();
        self.nested.store(error.is_timeout(), Ordering::SeqCst);
        Err(error.to_string())
    }

    async fn ask_and_clean_up(&self) -> Result<(), String> {
        let back = ProbeClient::new(&self.connection);
        let error = back.hold(1).timeout(LONG).await.unwrap_err();
        // A clean-up that has to be waited for: work on another thread, as writing a file is.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        self.cleaned_up.fetch_add(1, Ordering::SeqCst);
        Err(format!("cleaned up, timed out: {}", error.is_timeout()))
    }
}

async fn a_handler_answers_after_a_nested_call_timed_out(env: Env) {
    const HANDLERS: u16 = 30;
    // So long that the reserve is as large as it gets: a machine with other work has time for all answers.
    const TIMEOUT: Duration = Duration::from_secs(5);
    let fixture = RpcFixture::start(&env).await;
    env.name("front");
    let cleaned_up = Arc::<AtomicUsize>::default();
    let relay = Relay {
        connection: env.connect().await,
        nested: Arc::default(),
        cleaned_up: Arc::clone(&cleaned_up),
    };
    let serving = env.connect().await;
    let served = FrontServer::new(relay).concurrency(HANDLERS);
    let server = Server::new(&serving).serve(served).start().await;
    let server = server.unwrap();
    let front = FrontClient::new(&fixture.calling);
    let calls = (0..HANDLERS).map(|_| front.ask_and_clean_up().timeout(TIMEOUT).into_future());
    for answer in join_all(calls).await {
        let error = answer.unwrap_err();
        let own = error.service().map(String::as_str);
        assert_eq!(own, Some("cleaned up, timed out: true"), "{error}");
    }
    assert_eq!(cleaned_up.load(Ordering::SeqCst), usize::from(HANDLERS));
    fixture.subject.gate.open_for_good();
    server.stop().await.unwrap();
}

async fn a_nested_call_inherits_deadline_and_trace(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    env.name("front");
    let relay = Relay {
        connection: env.connect().await,
        nested: Arc::default(),
        cleaned_up: Arc::default(),
    };
    let serving = env.connect().await;
    let server = Server::new(&serving).serve(FrontServer::new(relay));
    let _server = server.start().await.unwrap();
    let front = FrontClient::new(&fixture.calling);

    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let call = front
        .ask(60_000)
        .timeout(Duration::from_secs(20))
        .header("traceparent", parent)
        .header("tracestate", "hare=1")
        .header("tenant", "burrow");
    let (outer, inner) = call.await.unwrap();
    assert_eq!(outer.trace["traceparent"], parent);
    assert_eq!(inner.trace, outer.trace, "the trace goes on");
    assert_eq!(outer.headers.keys().collect::<Vec<_>>(), ["tenant"]);
    assert!(
        inner.headers.is_empty(),
        "other headers are for the one they were sent to"
    );
    // The caller's 20 s bound the 60 s that the nested call would have had.
    let (outer, inner) = (outer.millis_left.unwrap(), inner.millis_left.unwrap());
    assert!(outer <= 20_000, "{outer}");
    assert!(inner <= 19_750, "{inner}");
    // Its own limit holds where it is the shorter one.
    let (_, inner) = front.ask(5_000).timeout(LONG).await.unwrap();
    assert!(inner.millis_left.unwrap() <= 5_000);

    let error = front.ask_slowly().timeout(FAIR).await.unwrap_err();
    assert!(error.is_timeout() || error.service().is_some(), "{error}");
    fixture.subject.gate.left(1).await;
    fixture.is_well(&env).await;
}

async fn a_handler_knows_its_call(env: Env) {
    let (serving, calling) = (
        env.connect().await,
        env.builder().name("hare").open().await.unwrap(),
    );
    let fixture = RpcFixture::over(&env, serving, calling).await;
    let call = fixture
        .probe
        .facts()
        .timeout(HOUR)
        .header("tenant", "burrow")
        .header("count", 3);
    let facts = call.await.unwrap();
    assert_eq!(
        (facts.service.as_str(), facts.method.as_str()),
        ("probe", "facts")
    );
    assert_eq!(facts.caller.as_deref(), Some("hare"));
    assert_eq!(
        facts.headers,
        BTreeMap::from([
            ("count".into(), "3".into()),
            ("tenant".into(), "burrow".into())
        ])
    );
    assert_eq!((facts.redelivered, facts.attempt), (false, 1));
    assert_eq!(facts.message_id, None);
    // Its caller's own, and not what the method or the client would have given it.
    let left = Duration::from_millis(facts.millis_left.unwrap());
    assert!(left > HOUR / 2 && left <= HOUR, "{facts:?}");
    assert!(facts.trace.is_empty());

    // The idempotency key of a call that may be sent twice.
    fixture.subject.gate.open_for_good();
    fixture.probe.hold_idempotent(1).await.unwrap();
    fixture.probe.hold_idempotent(2).await.unwrap();
    let runs = fixture.subject.runs();
    let keys = runs
        .iter()
        .map(|run| run.facts.message_id.clone().expect("a key"));
    let keys: std::collections::BTreeSet<_> = keys.collect();
    assert_eq!(keys.len(), 2);

    // A peer that says nothing of itself.
    let caller = Caller::open(&env).await;
    let properties = caller
        .json("facts")
        .with_headers(headers(&[("baggage", "a=b")]));
    let reply = caller.ask(&fixture.queue, properties, b"{}").await;
    let facts: Facts = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!((facts.caller, facts.millis_left), (None, None));
    assert_eq!(
        facts.trace,
        BTreeMap::from([("baggage".into(), "a=b".into())])
    );
    fixture.is_well(&env).await;
    // Outside of handlers there is none.
    assert_eq!(Facts::current().service, "");
}

async fn a_redelivered_request_says_so(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let call = fixture.probe.hold_idempotent(1).timeout(LONG);
    let call = call.send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(fixture.server);
    fixture.subject.gate.left(1).await;
    let _server = serve(&fixture.serving, &fixture.subject)
        .start()
        .await
        .unwrap();
    fixture.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    let runs = fixture.subject.runs();
    assert_eq!(
        runs.iter()
            .map(|run| run.facts.redelivered)
            .collect::<Vec<_>>(),
        [false, true]
    );
    let raw = Raw::open(&env.uri).await;
    eventually("the request is settled", || async {
        raw.count(&fixture.queue).await.messages == 0
    })
    .await;
}

#[lepus::service]
trait Spawner {
    async fn spawn(&self) -> (Facts, Facts);
}

struct Tasks;

impl Spawner for Tasks {
    async fn spawn(&self) -> (Facts, Facts) {
        let plain = tokio::spawn(async { Facts::current() });
        let scoped = tokio::spawn(Context::current().scope(async { Facts::current() }));
        (plain.await.unwrap(), scoped.await.unwrap())
    }
}

async fn a_task_takes_the_context_along(env: Env) {
    let connection = env.connect().await;
    env.name("spawner");
    let _server = Server::new(&connection)
        .serve(SpawnerServer::new(Tasks))
        .start()
        .await
        .unwrap();
    let (plain, scoped) = SpawnerClient::new(&connection).spawn().await.unwrap();
    assert_eq!((plain.service.as_str(), plain.millis_left), ("", None));
    assert_eq!(scoped.service, "spawner");
    assert!(scoped.millis_left.is_some());
}

type Refusal = Status;

#[lepus::service]
trait Vault {
    async fn open(&self, key: u32) -> Result<u32, Status>;
    async fn close(&self) -> Result<(), Refusal>;
}

struct Guarded;

impl Vault for Guarded {
    async fn open(&self, key: u32) -> Result<u32, Status> {
        match key {
            7 => Ok(42),
            0 => Err(Status::new(Code::InvalidArgument, "no key")),
            // The details are too long for the second of them.
            1 | 2 => Err(Status::new(Code::PermissionDenied, "the wrong key: häse")
                .with_retry_after(Duration::from_millis(250))
                .with_details(vec![0xff; 2047 + key as usize])),
            _ => Err(Status::new(Code::PermissionDenied, "the wrong key: häse")),
        }
    }

    async fn close(&self) -> Result<(), Refusal> {
        Err(Status::new(Code::FailedPrecondition, "x".repeat(2000)))
    }
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, CallError>, code: Code, message: &str) {
    let error = result.unwrap_err();
    let status = error.rpc().and_then(lepus::Error::status).unwrap();
    assert_eq!((status.code(), status.message()), (code, message));
    assert_eq!(error.code(), Some(code));
    assert_eq!(error.rpc().unwrap().outcome(), Some(Outcome::Answered));
    // Its handler says with this code that it has done nothing.
    let has_run = code != Code::InvalidArgument;
    assert_eq!(error.may_have_executed(), has_run, "{error}");
}

async fn is_guarded(vault: &VaultClient, longest: &str) {
    let call: Call<u32, Never> = vault.open(7);
    assert_eq!(call.await.unwrap(), 42);
    is_refused(vault.open(0).await, Code::InvalidArgument, "no key");
    let denied = (Code::PermissionDenied, "the wrong key: häse");
    for (key, details) in [(1, 2048), (2, 0), (3, 0)] {
        let error = vault.open(key).await.unwrap_err();
        let status = error.status().unwrap();
        let delay = (key < 3).then_some(Duration::from_millis(250));
        assert_eq!(status.retry_after(), delay);
        assert_eq!(status.details(), vec![0xff; details]);
        is_refused::<u32>(Err(error), denied.0, denied.1);
    }
    let call: Call<()> = vault.close();
    is_refused(call.await, Code::FailedPrecondition, longest);
}

async fn a_status_travels_as_it_is(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    env.name("vault");
    let server = Server::new(&serving).serve(VaultServer::new(Guarded));
    let server = server.start().await.unwrap();
    let cut = format!("{}…", "x".repeat(1021));
    is_guarded(&VaultClient::new(&calling), &cut).await;

    // As headers, without a body.
    let caller = Caller::open(&env).await;
    let request = caller
        .addressed("7")
        .with_type("open".into())
        .with_content_type("application/json".into());
    let reply = caller
        .ask(&env.name("vault"), request, b"{\"key\":1}")
        .await;
    let (code, text) = reply.failure();
    assert_eq!((code, text), ("permission_denied", "the wrong key: häse"));
    assert!(reply.body.is_empty());

    // Without a broker, nothing shortens the text.
    is_guarded(&VaultClient::local(Guarded), &"x".repeat(2000)).await;
    server.stop().await.unwrap();
}

async fn a_status_travels_in_a_shared_message(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    env.name("vault");
    let server = Server::new(&serving).serve(VaultServer::new(Guarded).concurrency(4));
    let server = server.start().await.unwrap();
    let vault = VaultClient::builder(&calling).coalesce(64).build();
    // The first reply tells that the server accepts shared messages.
    is_guarded(&vault, &format!("{}…", "x".repeat(1021))).await;
    let calls = (0..32).map(|key| vault.open(key).into_future());
    for (key, result) in futures_util::future::join_all(calls)
        .await
        .into_iter()
        .enumerate()
    {
        match key {
            7 => assert_eq!(result.unwrap(), 42),
            0 => is_refused(result, Code::InvalidArgument, "no key"),
            _ => {
                let status = result.as_ref().unwrap_err().status().unwrap();
                let (has_delay, has_details) = (key < 3, key == 1);
                assert_eq!(status.retry_after().is_some(), has_delay);
                assert_eq!(!status.details().is_empty(), has_details);
                is_refused(result, Code::PermissionDenied, "the wrong key: häse");
            }
        }
    }
    server.stop().await.unwrap();
}
