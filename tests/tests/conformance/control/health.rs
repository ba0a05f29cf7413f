//! The health of a process: live, ready, and why not.

use super::{CalculatorClient, CalculatorServer, CalculatorService, serve};
use lapin::types::AMQPValue;
use lepus::amqp::ConnectionState;
use lepus::control::{ConsumerState, Health, HealthStatus};
use lepus::{Connection, Discovery, Server};
use lepus_broker::{Accept, Broker, Target};
use lepus_tests::raw::{Raw, durable};
use lepus_tests::{Env, conformance, eventually};
use std::time::Duration;

conformance!(
    a_queue_that_came_back_otherwise_is_not_ready,
    a_lost_connection_is_live_and_not_ready,
    a_drained_server_is_not_ready_and_then_forgotten,
);

async fn until(connection: &Connection, what: &str, holds: impl Fn(&Health) -> bool) -> Health {
    eventually(what, || async {
        let health = connection.health();
        if holds(&health) {
            Ok(health)
        } else {
            Err(format!("{health:?}"))
        }
    })
    .await
}

async fn a_queue_that_came_back_otherwise_is_not_ready(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let (proxy, serving) = env.proxied().await;
    let server = serve(&serving).await;
    let mut watch = server.watch();
    assert!(server.state().is_ready() && serving.health().ready);
    proxy.down().await;
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("calculator");
    raw.delete(&queue).await;
    let limit = [("x-max-length", AMQPValue::LongInt(7))];
    raw.declare_with(&queue, durable(), &limit).await.unwrap();
    proxy.up().await;

    let error = loop {
        let state = watch.changed().await.expect("it has not stopped");
        let calculator = &state.consumers[0];
        assert_eq!(calculator.queue, "calculator");
        match calculator.state.error() {
            Some(error) if error.is_mismatch() => break error.clone(),
            _ => assert!(!calculator.state.is_consuming()),
        }
    };
    assert!(error.to_string().contains("x-max-length"), "{error}");
    let health = until(&serving, "the other queue is consumed", |health| {
        health.consumers[1].state.is_consuming()
    })
    .await;
    assert!(health.live && !health.ready && !server.state().is_ready());
    assert_eq!(health.services[0].status, HealthStatus::NotServing);
    let [reason] = &health.reasons[..] else {
        panic!("{:?}", health.reasons);
    };
    assert!(reason.contains("calculator` is waiting"), "{reason}");
    assert!(reason.contains("x-max-length"), "{reason}");
    // Others see it too.
    let asking = env.connect().await;
    let told = eventually("others are told", || async {
        let answers = Discovery::new(&asking).health().of("calculator").expect(1);
        answers.await.unwrap().pop()
    })
    .await;
    assert_eq!(told.status, HealthStatus::NotServing);
    assert!(told.reasons[0].contains("x-max-length"), "{told:?}");
    assert_eq!(told.consumers[0].state, "waiting");
    assert!(
        told.consumers[0]
            .error
            .as_ref()
            .unwrap()
            .contains("x-max-length")
    );

    raw.delete(&queue).await;
    while !watch
        .changed()
        .await
        .expect("it has not stopped")
        .is_ready()
    {}
    assert!(serving.health().ready && serving.health().reasons.is_empty());
    let calculator = CalculatorClient::new(&asking);
    assert_eq!(calculator.fib(10).await.unwrap(), 55);
    raw.close().await;
}

async fn a_lost_connection_is_live_and_not_ready(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let (proxy, serving) = env.proxied().await;
    let _server = serve(&serving).await;
    proxy.down().await;
    let lost = until(&serving, "the loss is seen", |health| {
        health.consumers.iter().all(|it| !it.state.is_consuming())
    })
    .await;
    assert!(lost.live && !lost.ready);
    let lost = until(&serving, "the state is seen", |health| {
        health.reasons.len() == 3
    })
    .await;
    assert!(lost.reasons[0].starts_with("not connected"), "{lost:?}");
    proxy.up().await;
    let back = until(&serving, "it is back", |health| health.ready).await;
    assert_eq!(back.reasons, [""; 0]);
    serving.close().await;
    let closed = serving.health();
    assert!(!closed.live && !closed.ready);
    assert_eq!(closed.reasons[0], "the connection is closed");
}

async fn a_drained_server_is_not_ready_and_then_forgotten(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let server = serve(&connection).await;
    let mut watch = server.watch();
    assert_eq!(connection.health().consumers.len(), 2);
    let stopping = tokio::spawn(server.stop());
    let mut draining = 0;
    while let Some(state) = watch.changed().await {
        for consumer in state.consumers {
            assert!(!matches!(consumer.state, ConsumerState::Waiting { .. }));
            draining += u32::from(matches!(consumer.state, ConsumerState::Draining { .. }));
        }
    }
    assert!(draining > 0);
    stopping.await.unwrap().unwrap();
    let health = connection.health();
    assert!(health.consumers.is_empty() && health.services.is_empty());
    assert!(health.ready, "as one that only calls");
}

async fn broker() -> (Broker, Connection) {
    let broker = Broker::start().await.unwrap();
    let builder = Connection::builder(&broker.uri());
    let builder = builder.backoff(Duration::from_millis(10), Duration::from_millis(50));
    let connection = builder.open().await.unwrap();
    (broker, connection)
}

/// A probe that failed here would restart what ends the alarm.
#[tokio::test]
async fn a_blocked_server_is_ready_and_a_blocked_client_is_not() {
    let (broker, serving) = broker().await;
    let calling = Connection::open(&broker.uri()).await.unwrap();
    let _server = serve(&serving).await;
    CalculatorClient::new(&calling).fib(1).await.unwrap();
    broker.faults().block(Target::All, "low on memory");
    for connection in [&serving, &calling] {
        let mut state = connection.state();
        let is_blocked = |state: &ConnectionState| matches!(state, ConnectionState::Blocked { .. });
        state.wait_for(is_blocked).await.unwrap();
    }
    let health = serving.health();
    assert!(health.live && health.ready, "{health:?}");
    assert_eq!(
        health.reasons,
        ["the broker takes no messages: low on memory"]
    );
    assert_eq!(health.services[0].status, HealthStatus::Serving);
    let health = calling.health();
    assert!(health.live && !health.ready, "{health:?}");
    broker.faults().unblock(Target::All);
    until(&calling, "the alarm is over", |health| health.ready).await;
}

#[tokio::test]
async fn a_server_that_waits_for_its_broker_is_not_ready() {
    let (broker, _) = broker().await;
    broker.faults().accept(Accept::Refuse);
    let builder = Connection::builder(&broker.uri()).retry_at_start();
    let builder = builder.backoff(Duration::from_millis(10), Duration::from_millis(50));
    let connection = builder.open().await.unwrap();
    let service = CalculatorServer::new(CalculatorService);
    let server = Server::new(&connection).serve(service);
    let starting = tokio::spawn(server.start());
    let health = until(&connection, "it is refused", |health| {
        health.reasons.len() == 2
    })
    .await;
    assert!(health.live && !health.ready);
    assert_eq!(health.consumers.len(), 1, "its first queue");
    broker.faults().accept(Accept::Serve);
    let server = starting.await.unwrap().unwrap();
    assert!(connection.health().ready && server.state().is_ready());
}
