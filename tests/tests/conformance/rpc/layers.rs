//! Contexts that a program makes itself, headers that flow on, and layers around clients and servers.

use super::{LONG, SHORT};
use lepus::{Connection, Context, Table, Topic, Value, WorkQueue};
use lepus_tests::probe::{Facts, ProbeClient, RpcFixture};
use lepus_tests::{Env, conformance};
use std::time::Duration;

conformance!(flowing:
    a_scope_gives_calls_its_deadline_and_trace,
    named_headers_flow_on_into_calls,
    named_headers_flow_on_over_several_hops,
    named_headers_flow_on_into_jobs_and_events,
    a_reserved_name_cannot_be_propagated,
    a_push_ends_with_the_deadline_of_its_context,
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
    let started = std::time::Instant::now();
    let error = context
        .scope(async { producer.push(&job).timeout(LONG).await })
        .await
        .expect_err("no confirm");
    assert!(error.is_unconfirmed() || error.is_timeout(), "{error}");
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
}
