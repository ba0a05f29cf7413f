//! Calls that are dropped: their handlers stop, wherever they have got to.

use futures_util::FutureExt;
use futures_util::future::join_all;
use lapin::BasicProperties;
use lepus::middleware::AccessLog;
use lepus::{Connection, Context, Discovery, Server};
use lepus_tests::gate::Gate;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, is_settled, serve_concurrently};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;

use super::LONG;

conformance!(
    a_dropped_call_stops_its_handler,
    a_call_that_is_dropped_before_its_connection_closes_stops_its_handler,
    a_dropped_call_of_an_at_most_once_method_stops_its_handler,
    a_dropped_call_with_layers_or_that_fails_fast_stops_its_handler,
    a_time_out_of_the_caller_s_own_stops_the_handler,
    a_queued_request_of_a_dropped_call_is_acknowledged_unrun,
    a_drop_cascades_into_nested_calls,
    calls_of_a_shared_message_are_dropped_one_by_one,
    a_method_that_is_not_cancelled_runs_on_and_is_told,
    a_message_that_names_no_call_of_its_sender_does_nothing,
    a_message_that_overtakes_its_request_stops_it,
    calls_that_need_no_message_send_none,
    ten_thousand_calls_that_time_out_send_nothing,
    without_a_control_plane_handlers_run_on,
);

/// A server is told of dropped calls once its control queue is bound, which is so when it answers.
async fn is_told(calling: &Connection, service: &str) {
    eventually(&format!("{service} has a control queue"), || async {
        match Discovery::new(calling).info(service).expect(1).await {
            Ok(found) if !found.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Waits until so many requests of a connection were cancelled.
async fn cancelled(serving: &Connection, count: u64) {
    eventually(&format!("{count} cancelled"), || async {
        let stats = serving.stats();
        if stats.cancelled_requests == count {
            Ok(())
        } else {
            Err(format!("{stats:?}"))
        }
    })
    .await;
}

async fn a_dropped_call_stops_its_handler(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let held = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(held);
    fixture.subject.gate.left(1).await;
    // The only worker is free again.
    fixture.is_well(&env).await;
    cancelled(&fixture.serving, 1).await;
    let methods = fixture.serving.stats_by_method();
    let hold = methods.iter().find(|stats| stats.method == "hold").unwrap();
    assert_eq!((hold.requests, hold.cancelled, hold.in_flight), (1, 1, 0));
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
}

async fn a_call_that_is_dropped_before_its_connection_closes_stops_its_handler(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    // The first call that a connection gives up needs a channel for the message, which takes a while to open.
    let connection = env.connect().await;
    let probe = ProbeClient::new(&connection);
    let held = probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(held);
    connection.close().await;
    cancelled(&fixture.serving, 1).await;
}

async fn a_dropped_call_of_an_at_most_once_method_stops_its_handler(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let held = fixture.probe.hold_once(1).timeout(LONG).send().await;
    fixture.subject.gate.entered(1).await;
    drop(held.unwrap());
    fixture.subject.gate.left(1).await;
    fixture.is_well(&env).await;
    cancelled(&fixture.serving, 1).await;
}

async fn a_dropped_call_with_layers_or_that_fails_fast_stops_its_handler(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let builder = ProbeClient::builder(&fixture.calling).layer(AccessLog::new());
    let layered = builder.build().hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(layered);
    fixture.subject.gate.left(1).await;
    let hasty = fixture.probe.hold(2).fail_fast().timeout(LONG).send().await;
    fixture.subject.gate.entered(2).await;
    drop(hasty.unwrap());
    fixture.subject.gate.left(2).await;
    fixture.is_well(&env).await;
    cancelled(&fixture.serving, 2).await;
}

async fn a_time_out_of_the_caller_s_own_stops_the_handler(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let call = fixture.probe.hold(1).timeout(LONG).into_future();
    tokio::select! {
        answer = call => panic!("nobody opens the gate: {answer:?}"),
        () = fixture.subject.gate.entered(1) => {}
    }
    fixture.subject.gate.left(1).await;
    // This one may run by then, or not.
    let call = fixture.probe.hold(2).timeout(LONG).into_future();
    let late = tokio::time::timeout(super::SHORT, call).await;
    assert!(late.is_err());
    cancelled(&fixture.serving, 2).await;
    fixture.is_well(&env).await;
}

async fn a_queued_request_of_a_dropped_call_is_acknowledged_unrun(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let first = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    // The server handles one request at a time, so these are in the queue.
    let second = fixture.probe.hold(2).timeout(LONG).send().await.unwrap();
    let third = fixture.probe.hold(3).timeout(LONG).send().await.unwrap();
    // Told of in this order, so that the second is known when the first has made room for it.
    drop(second);
    drop(first);
    fixture.subject.gate.left(1).await;
    fixture.subject.gate.open_for_good();
    assert_eq!(third.await.unwrap(), 3);
    assert_eq!(fixture.subject.ids(), [1, 3]);
    cancelled(&fixture.serving, 2).await;
    is_settled(&env, &fixture.queue).await;
}

#[lepus::service(name = "relay")]
trait Relay {
    async fn relay(&self, id: u32) -> u32;
    #[rpc(cancel = false)]
    async fn finish(&self, id: u32) -> u32;
}

struct RelayService {
    probe: ProbeClient,
    gate: Gate,
}

impl Relay for RelayService {
    async fn relay(&self, id: u32) -> u32 {
        self.probe.hold(id).await.unwrap()
    }

    async fn finish(&self, id: u32) -> u32 {
        assert!(!Context::current().is_cancelled());
        self.gate.pass().await;
        Context::current().cancelled().await;
        assert!(Context::current().is_cancelled());
        self.gate.pass().await;
        id
    }
}

async fn relay(env: &Env, fixture: &RpcFixture) -> (Connection, lepus::Running, RelayClient, Gate) {
    env.name("relay");
    let serving = env.connect().await;
    let gate = Gate::default();
    let service = RelayService {
        probe: ProbeClient::new(&serving),
        gate: gate.clone(),
    };
    let server = Server::new(&serving)
        .serve(RelayServer::new(service))
        .start();
    let server = server.await.unwrap();
    is_told(&fixture.calling, "relay").await;
    (serving, server, RelayClient::new(&fixture.calling), gate)
}

async fn a_drop_cascades_into_nested_calls(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let (serving, _server, relay, _) = relay(&env, &fixture).await;
    let held = relay.relay(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(held);
    fixture.subject.gate.left(1).await;
    cancelled(&serving, 1).await;
    cancelled(&fixture.serving, 1).await;
    fixture.is_well(&env).await;
}

async fn a_method_that_is_not_cancelled_runs_on_and_is_told(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let (serving, server, relay, gate) = relay(&env, &fixture).await;
    let held = relay.finish(1).timeout(LONG).send().await.unwrap();
    gate.entered(1).await;
    drop(held);
    gate.open(1);
    // It has been told.
    gate.entered(2).await;
    gate.open(1);
    server.stop().await.unwrap();
    assert_eq!((gate.count(), gate.dropped()), (2, 0));
    let stats = serving.stats();
    assert_eq!((stats.cancelled_requests, stats.panics), (0, 0));
    is_settled(&env, &env.name("relay")).await;
    // Nobody waits for its reply, and none was sent.
    fixture.probe.echo("after".into()).await.unwrap();
    assert_eq!(fixture.calling.stats().dropped_replies, 0);
}

/// The same without a broker.
#[tokio::test]
async fn a_local_handler_that_is_not_cancelled_runs_on_and_is_told() {
    let gate = Gate::default();
    let relay = RelayClient::local(RelayService {
        probe: ProbeClient::local(Subject::default()),
        gate: gate.clone(),
    });
    for sent in [true, false] {
        let before = gate.count();
        let call = relay.finish(1).timeout(LONG);
        let call = if sent {
            call.send().await.unwrap().boxed()
        } else {
            call.into_future()
        };
        tokio::select! {
            answer = call => panic!("nobody has dropped it: {answer:?}"),
            () = gate.entered(before + 1) => {}
        }
        gate.open(1);
        gate.entered(before + 2).await;
        gate.open(1);
    }
    assert_eq!(gate.dropped(), 0);
}

async fn calls_of_a_shared_message_are_dropped_one_by_one(env: Env) {
    env.name("probe");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let server = serve_concurrently(&serving, &subject, 8).start();
    let _server = server.await.unwrap();
    is_told(&calling, "probe").await;
    let probe = ProbeClient::builder(&calling).coalesce(8).build();
    // Its reply tells that the server takes several calls in one message.
    probe.echo("first".into()).await.unwrap();
    let sent = (1..=4).map(|id| probe.hold(id).timeout(LONG).send());
    let held = join_all(sent).await.into_iter().map(Result::unwrap);
    let mut held: Vec<_> = held.collect();
    subject.gate.entered(4).await;
    let kept = held.split_off(2);
    drop(held);
    subject.gate.left(2).await;
    cancelled(&serving, 2).await;
    subject.gate.open_for_good();
    let kept = join_all(kept).await.into_iter().map(Result::unwrap);
    assert_eq!(kept.collect::<Vec<_>>(), [3, 4]);
    assert_eq!(subject.gate.dropped(), 2);
    is_settled(&env, &env.name("probe")).await;
}

/// A caller by hand, whose replies go to a queue of its own.
struct RawCaller {
    raw: Raw,
    queue: String,
    own: String,
    exchange: String,
}

impl RawCaller {
    async fn new(env: &Env, queue: &str) -> Self {
        let raw = Raw::open(&env.uri).await;
        let own = env.name("own");
        raw.declare(&own).await;
        Self {
            raw,
            own,
            queue: queue.to_owned(),
            exchange: env.name("lepus.control"),
        }
    }

    /// A request that waits at the gate, in the service's queue when this returns.
    async fn hold(&self, id: &str) {
        let properties = BasicProperties::default()
            .with_type("hold".into())
            .with_reply_to(self.own.as_str().into())
            .with_correlation_id(id.into());
        let body = b"\x81\xa2id\x01";
        let sent = self
            .raw
            .publish_with("", &self.queue, body, properties)
            .await;
        assert!(sent.unwrap().take_message().is_none());
    }

    /// The properties of a message that gives calls up.
    fn cancel(&self) -> BasicProperties {
        BasicProperties::default()
            .with_type("lepus.cancel/1".into())
            .with_reply_to(self.own.as_str().into())
            .with_expiration("60000".into())
    }

    /// In the control queue when this returns.
    async fn send(&self, properties: BasicProperties, body: &[u8]) {
        let sent = self
            .raw
            .publish_with(&self.exchange, "queue.probe", body, properties)
            .await;
        assert!(sent.unwrap().take_message().is_none());
    }
}

async fn a_message_that_names_no_call_of_its_sender_does_nothing(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let caller = RawCaller::new(&env, &fixture.queue).await;
    caller.hold("a").await;
    fixture.subject.gate.entered(1).await;
    let own = || caller.cancel();
    let endless = BasicProperties::default()
        .with_type("lepus.cancel/1".into())
        .with_reply_to(caller.own.as_str().into());
    for (properties, body) in [
        (own().with_reply_to("other".into()), &b"\x91\xa1a"[..]),
        (endless, b"\x91\xa1a"),
        (own().with_type("lepus.cancel/2".into()), b"\x91\xa1a"),
        (own(), b"\x91\xa1b"),
        (own(), b"\x91\xa3a/1"),
        (own(), b"\x90"),
        (own(), b""),
        (own(), b"\x91\x07"),
        (own(), b"\xdd\xff\xff\xff\xff"),
        (own(), b"\xc1"),
    ] {
        caller.send(properties, body).await;
    }
    // They come before this question.
    is_told(&fixture.calling, "probe").await;
    let stats = fixture.serving.stats();
    assert_eq!(
        (fixture.subject.gate.dropped(), stats.cancelled_requests),
        (0, 0)
    );
    fixture.subject.gate.open_for_good();
    fixture.is_well(&env).await;
    caller.raw.until_messages(&caller.own, 1).await;
    caller.raw.close().await;
}

async fn a_message_that_overtakes_its_request_stops_it(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let caller = RawCaller::new(&env, &fixture.queue).await;
    caller.send(caller.cancel(), b"\x92\xa1a\xc4\x01b").await;
    is_told(&fixture.calling, "probe").await;
    for id in ["a", "b", "c"] {
        caller.hold(id).await;
    }
    fixture.subject.gate.entered(1).await;
    fixture.subject.gate.open_for_good();
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids().len(), 1);
    cancelled(&fixture.serving, 2).await;
    // The reply to the third alone.
    caller.raw.until_messages(&caller.own, 1).await;
    caller.raw.close().await;
}

/// A queue that gets what the servers of the probe are told.
async fn witness(env: &Env) -> (Raw, String) {
    let (raw, seen) = (Raw::open(&env.uri).await, env.name("seen"));
    raw.declare(&seen).await;
    raw.bind(&seen, &env.name("lepus.control"), "queue.probe", &[])
        .await;
    (raw, seen)
}

/// A dropped call of the probe, which sends one message after all that were sent before.
async fn drop_one(fixture: &RpcFixture) {
    let before = fixture.subject.gate.dropped();
    let held = fixture.probe.hold(7).timeout(LONG).send().await.unwrap();
    eventually("it runs", || async { fixture.subject.ids().contains(&7) }).await;
    drop(held);
    fixture.subject.gate.left(before + 1).await;
}

async fn calls_that_need_no_message_send_none(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let (raw, seen) = witness(&env).await;
    // Answered, and its reply taken or not.
    fixture.probe.echo("taken".into()).await.unwrap();
    let answered = fixture.probe.echo("not taken".into()).send().await.unwrap();
    fixture.probe.echo("after it".into()).await.unwrap();
    drop(answered);
    // One-way.
    fixture.subject.gate.open(1);
    drop(fixture.probe.note(1).send().await.unwrap());
    fixture.subject.gate.entered(1).await;
    // Never sent.
    drop(fixture.probe.hold(2));
    drop(fixture.probe.hold(2).into_future());
    let too_large = fixture.probe.echo("x".repeat(17 << 20)).await;
    assert!(too_large.is_err());
    // A call of a client without a control plane.
    let silent = env.builder().control(false).open().await.unwrap();
    let call = ProbeClient::new(&silent).hold(3).timeout(LONG);
    let held = call.send().await.unwrap();
    fixture.subject.gate.entered(2).await;
    drop(held);
    fixture.subject.gate.open(1);
    drop_one(&fixture).await;
    raw.until_messages(&seen, 1).await;
    raw.close().await;
}

async fn ten_thousand_calls_that_time_out_send_nothing(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    is_told(&fixture.calling, "probe").await;
    let (raw, seen) = witness(&env).await;
    let builder = ProbeClient::builder(&fixture.calling).max_in_flight(10_000);
    let probe = builder.build();
    let calls = (0..10_000).map(|_| probe.hold(1).timeout(Duration::from_secs(1)));
    for ended in join_all(calls.map(IntoFuture::into_future)).await {
        assert!(ended.unwrap_err().is_timeout());
    }
    drop_one(&fixture).await;
    raw.until_messages(&seen, 1).await;
    raw.close().await;
}

async fn without_a_control_plane_handlers_run_on(env: Env) {
    let serving = env.builder().control(false).open().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    let held = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    drop(held);
    fixture.subject.gate.open(1);
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.gate.dropped(), 0);
    assert_eq!(fixture.serving.stats().cancelled_requests, 0);
}
