//! The queues of services.

use futures_util::future::join_all;
use lepus::{
    Server,
    amqp::{QueueKind, QueueOptions},
};
use lepus_tests::peer::Caller;
use lepus_tests::probe::{ProbeClient, ProbeServer, Subject, is_settled, serve_concurrently};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, Gate, conformance};
use std::sync::Arc;
use std::time::Duration;

conformance!(
    more_urgent_requests_overtake,
    services_share_a_connection,
    a_method_has_a_queue_of_its_own,
    a_passive_server_declares_nothing,
    a_queue_is_declared_as_it_is_asked_for,
    a_quorum_queue_is_not_transient,
    no_services_is_a_mistake,
);

async fn more_urgent_requests_overtake(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let service = ProbeServer::from_arc(Arc::clone(&subject));
    let server = Server::new(&serving)
        .serve(service.queue_options(QueueOptions::new().max_priority(5)))
        .start()
        .await
        .unwrap();
    let probe = ProbeClient::new(&calling);

    let mut calls = vec![probe.hold(0).send().await.unwrap()];
    subject.gate.entered(1).await;
    for (id, priority) in [(1, 1), (2, 5), (3, 3)] {
        calls.push(probe.hold(id).priority(priority).send().await.unwrap());
    }
    calls.push(probe.hold(4).send().await.unwrap());
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("probe"), 4).await;
    subject.gate.open_for_good();
    for (id, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap(), id as u32);
    }
    assert_eq!(subject.ids(), [0, 2, 3, 1, 4]);
    server.stop().await.unwrap();
}

#[lepus::service]
trait Clock {
    async fn now(&self) -> u64;
}

struct Noon;

impl Clock for Noon {
    async fn now(&self) -> u64 {
        12
    }
}

async fn services_share_a_connection(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    let queues = [env.name("probe"), env.name("clock")];
    let server = serve_concurrently(&serving, &subject, 2)
        .serve(ClockServer::new(Noon).concurrency(7))
        .start()
        .await
        .unwrap();
    let (probe, clock) = (ProbeClient::new(&calling), ClockClient::new(&calling));
    // One that is full does not hold the other up.
    let held = [probe.hold(1), probe.hold(2)].map(lepus::Call::send);
    let held = join_all(held).await;
    subject.gate.entered(2).await;
    assert_eq!(clock.now().await.unwrap(), 12);

    if let Some(broker) = env.embedded() {
        assert_eq!(broker.connections().len(), 2);
        let consumers = queues.each_ref().map(|queue| {
            let consumers = broker.consumers();
            let mine = consumers
                .into_iter()
                .find(|consumer| consumer.queue == *queue);
            mine.expect("a consumer")
        });
        assert_ne!(
            consumers[0].channel, consumers[1].channel,
            "each its own channel"
        );
        assert_eq!(
            consumers.each_ref().map(|consumer| consumer.prefetch),
            [2, 7]
        );
    }
    subject.gate.open_for_good();
    for reply in held {
        reply.unwrap().await.unwrap();
    }
    server.stop().await.unwrap();
    for queue in &queues {
        is_settled(&env, queue).await;
    }
}

#[lepus::service]
trait Studio {
    async fn sketch(&self) -> String;
    #[rpc(queue = "studio-render", params = "bare")]
    async fn render(&self, fixture: String) -> String;
}

struct Artist(Gate);

impl Studio for Artist {
    async fn sketch(&self) -> String {
        self.0.pass().await;
        "sketch".into()
    }

    async fn render(&self, fixture: String) -> String {
        format!("{fixture} rendered")
    }
}

async fn a_method_has_a_queue_of_its_own(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let gate = Gate::default();
    let [main, own] = [env.name("studio"), env.name("studio-render")];
    let server = Server::new(&serving).serve(StudioServer::new(Artist(gate.clone())));
    let server = server.start().await.unwrap();
    let studio = StudioClient::new(&calling);
    let sketch = studio.sketch().send().await.unwrap();
    gate.entered(1).await;
    // The service's queue is busy; the method's own is not.
    assert_eq!(studio.render("dawn".into()).await.unwrap(), "dawn rendered");
    // A request there that names no method is for this one.
    let caller = Caller::open(&env).await;
    let json = caller
        .addressed("7")
        .with_content_type("application/json".into());
    let reply = caller.ask(&own, json.clone(), b"\"dusk\"").await;
    assert_eq!(reply.body, b"\"dusk rendered\"");
    gate.open_for_good();
    assert_eq!(sketch.await.unwrap(), "sketch");
    // On the service's queue nobody is meant by that.
    let reply = caller.ask(&main, json, b"\"dusk\"").await;
    assert_eq!(reply.failure().0, "unimplemented");
    server.stop().await.unwrap();
    is_settled(&env, &main).await;
    is_settled(&env, &own).await;
}

async fn a_passive_server_declares_nothing(env: Env) {
    let serving = env.connect().await;
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    // Without a declaration, the queue options have no effect.
    let service = ProbeServer::from_arc(subject)
        .queue_options(QueueOptions::new().max_priority(5))
        .passive();
    let serve = || Server::new(&serving).serve(service.clone());
    let error = serve().start().await.unwrap_err();
    assert_eq!(error.amqp_code(), Some(404));
    assert!(error.to_string().contains(&queue), "{error}");
    let raw = Raw::open(&env.uri).await;
    assert!(!raw.exists(&queue).await);

    // With whatever arguments it has.
    let limit = [("x-max-length", lapin::types::AMQPValue::LongInt(9))];
    raw.declare_with(&queue, lepus_tests::raw::durable(), &limit)
        .await
        .unwrap();
    let _server = serve().start().await.unwrap();
    let probe = ProbeClient::new(&env.connect().await);
    assert_eq!(probe.echo("found".into()).await.unwrap(), "found");
}

#[lepus::service(durable = false)]
trait Fleeting {
    async fn now(&self);
}

#[lepus::service(quorum)]
trait Steady {
    async fn now(&self);
}

struct Idle;

impl Fleeting for Idle {
    async fn now(&self) {}
}

impl Steady for Idle {
    async fn now(&self) {}
}

async fn a_queue_is_declared_as_it_is_asked_for(env: Env) {
    let serving = env.connect().await;
    let longest = QueueOptions::new().max_length(9);
    let _server = Server::new(&serving)
        .serve(FleetingServer::new(Idle))
        .serve(SteadyServer::new(Idle))
        .serve(
            ClockServer::new(Noon).queue_options(
                QueueOptions::new()
                    .kind(QueueKind::Classic)
                    .expires(Duration::from_secs(60)),
            ),
        )
        .serve(StudioServer::new(Artist(Gate::default())).queue_options(longest.clone()))
        .start()
        .await
        .unwrap();
    FleetingClient::new(&serving).now().await.unwrap();
    SteadyClient::new(&serving).now().await.unwrap();
    assert_eq!(ClockClient::new(&serving).now().await.unwrap(), 12);

    // Only what is equivalent may be declared again.
    use lapin::types::AMQPValue;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let transient = lapin::options::QueueDeclareOptions::default();
    let durable = lepus_tests::raw::durable();
    let limit = || {
        vec![
            ("x-max-length", AMQPValue::LongInt(9)),
            ("x-overflow", text("reject-publish")),
        ]
    };
    for (queue, options, arguments) in [
        ("fleeting", transient, vec![]),
        ("steady", durable, vec![("x-queue-type", text("quorum"))]),
        (
            "clock",
            durable,
            vec![("x-expires", AMQPValue::LongInt(60_000))],
        ),
        ("studio", durable, limit()),
        ("studio-render", durable, limit()),
    ] {
        let raw = Raw::open(&env.uri).await;
        raw.declare_with(&env.name(queue), options, &arguments)
            .await
            .unwrap();
    }
}

async fn a_quorum_queue_is_not_transient(env: Env) {
    let connection = env.connect().await;
    let transient = QueueOptions::new().transient();
    let error = Server::new(&connection)
        .serve(SteadyServer::new(Idle).queue_options(transient.clone()))
        .start()
        .await
        .unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert!(error.to_string().contains("`steady`"), "{error}");
    // Unless the service is asked to be classic.
    let classic = transient.kind(QueueKind::Classic);
    let service = SteadyServer::new(Idle).queue_options(classic);
    let _server = Server::new(&connection)
        .serve(service)
        .start()
        .await
        .unwrap();
    SteadyClient::new(&connection).now().await.unwrap();
}

async fn no_services_is_a_mistake(env: Env) {
    let connection = env.connect().await;
    let error = Server::new(&connection).start().await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
}
