//! Queues that are deleted, declared otherwise or taken by others.

use super::{LONG, SHORT, SOON};
use lapin::types::AMQPValue;
use lepus::Server;
use lepus_tests::error::everything;
use lepus_tests::probe::{ProbeClient, ProbeServer, RpcFixture, Subject, serve};
use lepus_tests::proxy::{Proxy, Way};
use lepus_tests::raw::{Raw, durable};
use lepus_tests::{Env, conformance, eventually};
use std::error::Error as _;
use std::sync::Arc;

conformance!(
    a_deleted_queue_is_declared_and_consumed_again,
    a_queue_deleted_meanwhile_is_declared_again,
    a_queue_deleted_as_a_server_starts_is_declared_again,
    a_deleted_reply_queue_is_replaced,
    a_mismatch_names_queue_argument_and_values,
    a_queue_of_another_connection,
    a_connection_without_channels_left,
);

async fn a_deleted_queue_is_declared_and_consumed_again(env: Env) {
    let serving = env.builder().backoff(SOON, SHORT).open().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    let in_hand = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let raw = Raw::open(&env.uri).await;
    raw.delete(&fixture.queue).await;
    eventually("a consumer again", || async {
        raw.try_count(&fixture.queue)
            .await
            .is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    // What was in hand is answered, and does not run again.
    fixture.subject.gate.open_for_good();
    assert_eq!(in_hand.await.unwrap(), 1);
    fixture.is_well(&env).await;
    assert_eq!(fixture.subject.ids(), [1]);
    assert!(fixture.serving.state().borrow().is_connected());
}

async fn a_queue_deleted_meanwhile_is_declared_again(env: Env) {
    let (proxy, serving) = env.proxied().await;
    let other = Server::new(&serving).serve(OtherServer::new(Idle));
    env.name("other");
    let _other = other.start().await.unwrap();
    let fixture = RpcFixture::over(&env, serving, env.connect().await).await;
    proxy.down().await;
    let raw = Raw::open(&env.uri).await;
    raw.delete(&fixture.queue).await;
    proxy.up().await;
    eventually("a consumer again", || async {
        raw.try_count(&fixture.queue)
            .await
            .is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    fixture.is_well(&env).await;
    OtherClient::new(&fixture.calling)
        .idle()
        .timeout(LONG)
        .await
        .unwrap();
}

async fn a_queue_deleted_as_a_server_starts_is_declared_again(env: Env) {
    let (proxy, raw) = (Proxy::start(&env.uri).await, Raw::open(&env.uri).await);
    let serving = env.builder_at(proxy.uri()).open().await.unwrap();
    let queue = env.name("other");
    // Right after basic.qos: the queue is declared, and what asks for its messages is held.
    let qos = b"\0\x3c\0\x0a\0\0\0\0\0\x01\0\xce";
    let trap = proxy.stall_after(Way::Up, qos);
    let server = Server::new(&serving).serve(OtherServer::new(Idle));
    let starting = tokio::spawn(server.start());
    trap.sprung().await;
    raw.delete(&queue).await;
    proxy.resume();
    let _running = starting.await.unwrap().expect("it starts");
    let other = OtherClient::new(&env.connect().await);
    other.idle().timeout(LONG).await.unwrap();
}

#[lepus::service]
trait Other {
    async fn idle(&self);
}

struct Idle;

impl Other for Idle {
    async fn idle(&self) {}
}

async fn a_deleted_reply_queue_is_replaced(env: Env) {
    let Some(broker) = env.embedded() else {
        return env.leave_out("nobody else may delete an exclusive queue of RabbitMQ's");
    };
    let fixture = RpcFixture::start(&env).await;
    let reply_queue = || {
        let queues = broker.queues();
        let mut mine = queues
            .into_iter()
            .filter(|queue| queue.name.contains("lepus.reply."));
        mine.next().map(|queue| queue.name)
    };
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    let other = fixture
        .probe
        .hold_idempotent(2)
        .timeout(LONG)
        .send()
        .await
        .unwrap();
    fixture.subject.gate.entered(1).await;
    let first = reply_queue().expect("a reply queue");
    assert!(broker.delete_queue("/", &first));
    let error = call.await.unwrap_err();
    assert!(
        error.is_disconnected() && error.may_have_executed(),
        "{error}"
    );
    let cause = error.source().expect("a cause").to_string();
    assert!(
        cause.contains("lost") || cause.contains("deleted"),
        "{cause}"
    );
    assert!(everything(error.rpc().unwrap()).contains("the reply queue was deleted"));
    fixture.subject.gate.open_for_good();
    assert_eq!(other.await.unwrap(), 2);
    fixture.is_well(&env).await;
    assert_ne!(reply_queue().expect("another"), first);
    assert!(fixture.calling.state().borrow().is_connected());
    eventually("replies that came back", || async {
        fixture.serving.stats().returned_replies >= 1
    })
    .await;
}

async fn a_mismatch_names_queue_argument_and_values(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    env.name("other");
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    // A server of the same connection goes on.
    let server = Server::new(&serving).serve(OtherServer::new(Idle));
    let _other = server.start().await.unwrap();
    let other = OtherClient::new(&serving);

    raw.declare_with(&queue, Default::default(), &[])
        .await
        .unwrap();
    let error = serve(&serving, &subject).start().await.unwrap_err();
    assert!(
        error.is_mismatch() && error.amqp_code() == Some(406),
        "{error:?}"
    );
    let text = format!("queue `{queue}` exists with `durable` = false, declared here with true");
    assert_eq!(error.to_string(), text);
    other.idle().await.unwrap();

    raw.delete(&queue).await;
    let limits = [("x-message-ttl", AMQPValue::LongInt(60_000))];
    raw.declare_with(&queue, durable(), &limits).await.unwrap();
    let error = serve(&serving, &subject).start().await.unwrap_err();
    let text =
        format!("queue `{queue}` exists with `x-message-ttl` = 60000, declared here with none");
    assert_eq!(error.to_string(), text);
    assert!(error.is_mismatch());

    // Nothing of a server is served when a part of it cannot be.
    let both = serve(&serving, &subject).serve(ThirdServer::new(Idle));
    env.name("third");
    assert!(both.start().await.unwrap_err().is_mismatch());
    assert!(!raw.exists(&env.name("third")).await);
    let error = Server::new(&serving)
        .serve(ThirdServer::new(Idle))
        .serve(ProbeServer::from_arc(subject));
    assert!(error.start().await.unwrap_err().is_mismatch());
    eventually("no consumer", || async {
        raw.count(&env.name("third")).await.consumers == 0
    })
    .await;
    other.idle().await.unwrap();
    assert!(serving.state().borrow().is_connected());
}

#[lepus::service]
trait Third {
    async fn idle(&self);
}

impl Third for Idle {
    async fn idle(&self) {}
}

async fn a_queue_of_another_connection(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("probe");
    let options = lapin::options::QueueDeclareOptions {
        exclusive: true,
        ..durable()
    };
    raw.declare_with(&queue, options, &[]).await.unwrap();
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    let error = serve(&serving, &subject).start().await.unwrap_err();
    assert_eq!(error.amqp_code(), Some(405), "{error}");
    assert!(error.to_string().contains(&queue), "{error}");
    raw.close().await;
    let _server = serve(&serving, &subject).start().await.unwrap();
}

async fn a_connection_without_channels_left(env: Env) {
    let uri = format!("{}?channel_max=4", env.uri);
    let serving = env.builder_at(&uri).open().await.unwrap();
    env.name("probe");
    let subject = Arc::new(Subject::default());
    let mut servers = Vec::new();
    let error = loop {
        match serve(&serving, &subject).start().await {
            Ok(server) => servers.push(server),
            Err(error) => break error,
        }
        assert!(servers.len() < 10);
    };
    assert!(error.is_invalid(), "{error:?}");
    assert!(error.to_string().contains("channel_max"), "{error}");
    assert!(serving.state().borrow().is_connected());
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    assert_eq!(probe.echo("served".into()).await.unwrap(), "served");
    // A place that is given back can be taken again.
    servers.pop().unwrap().stop().await.unwrap();
    let server = eventually("a channel", || serve(&serving, &subject).start()).await;
    servers.push(server);
    assert_eq!(probe.echo("served".into()).await.unwrap(), "served");
}
