//! The control queue and the exchange of an instance on the broker: without permissions, among many instances, and when nobody asks.

use super::{CalculatorClient, LONG, serve};
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lepus::amqp::Io;
use lepus::{Connection, Discovery};
use lepus_broker::Broker;
use lepus_tests::raw::{Raw, delivery};
use lepus_tests::{Env, conformance, eventually};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

conformance!(
    a_question_of_another_version_is_not_answered,
    it_can_be_turned_off,
    an_exchange_of_another_kind_turns_it_off,
);

/// The control queues on the embedded broker.
fn control_queues(broker: &Broker) -> Vec<lepus_broker::QueueInfo> {
    let mut queues = broker.queues();
    queues.retain(|queue| queue.name.contains("lepus.control."));
    queues
}

async fn until_found(connection: &Connection, count: usize) {
    let discovery = Discovery::new(connection);
    eventually("the instances are found", || async {
        let found = discovery.ping().expect(count).await.unwrap().len();
        (found == count).then_some(()).ok_or(format!("{found}"))
    })
    .await;
}

async fn a_question_of_another_version_is_not_answered(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let connection = env.connect().await;
    let _server = serve(&connection).await;
    until_found(&connection, 1).await;
    let raw = Raw::open(&env.uri).await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    let answers = env.name("answers");
    raw.declare_with(&answers, options, &[]).await.unwrap();
    let mut consumer = raw.consume(&answers, 10).await;
    let exchange = env.name("lepus.control");
    let ask = async |kind: &str, reply_to: &str| {
        let properties = BasicProperties::default()
            .with_type(kind.into())
            .with_reply_to(reply_to.into())
            .with_correlation_id(kind.into());
        let asked = raw.publish_with(&exchange, "all", b"", properties).await;
        assert!(asked.unwrap().take_message().is_none(), "somebody is bound");
    };
    for (kind, reply_to) in [
        ("lepus.ping/2", answers.as_str()),
        ("lepus.schema/1", &answers),
        ("fib", &answers),
        ("lepus.ping/1", ""),
    ] {
        ask(kind, reply_to).await;
    }
    ask("lepus.ping/1", &answers).await;
    // The queue is answered in its order, so that this is the first answer.
    let answer = delivery(&mut consumer).await;
    let id = answer.properties.correlation_id().clone().unwrap();
    assert_eq!(id.as_str(), "lepus.ping/1");
    raw.close().await;
}

async fn it_can_be_turned_off(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let quiet = env.builder().control(false).open().await.unwrap();
    let _quiet = serve(&quiet).await;
    let connection = env.connect().await;
    let _server = serve(&connection).await;
    until_found(&connection, 1).await;
    let found = Discovery::new(&quiet).ping().await.unwrap();
    assert_eq!(found.len(), 1, "the other one, and it can ask");
    assert!(quiet.health().ready && quiet.health().services.len() == 1);
}

/// Another program may have an exchange of this name. Calls go on, and nothing is tried again and again.
async fn an_exchange_of_another_kind_turns_it_off(env: Env) {
    for name in ["calculator", "notes"] {
        env.name(name);
    }
    let raw = Raw::open(&env.uri).await;
    let exchange = env.name("lepus.control");
    raw.declare_exchange(&exchange, lapin::ExchangeKind::Fanout)
        .await;
    let connection = env.connect().await;
    let _server = serve(&connection).await;
    let calculator = CalculatorClient::new(&connection);
    assert_eq!(calculator.fib(10).await.unwrap(), 55);
    assert!(connection.health().ready);
    assert!(
        Discovery::new(&connection)
            .services()
            .await
            .unwrap()
            .is_empty()
    );
    raw.delete_exchange(&exchange).await;
    raw.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_what_the_protocol_says() {
    let broker = Broker::start().await.unwrap();
    let connection = Connection::open(&broker.uri()).await.unwrap();
    assert!(control_queues(&broker).is_empty());
    let server = serve(&connection).await;
    until_found(&connection, 1).await;
    let [queue] = &control_queues(&broker)[..] else {
        panic!("one queue");
    };
    assert!(queue.exclusive_to.is_some() && !queue.durable && !queue.auto_delete);
    assert_eq!(queue.arguments["x-max-length"], "1000");
    assert_eq!(queue.arguments["x-overflow"], "drop-head");
    let exchanges = broker.exchanges();
    let control = exchanges
        .iter()
        .find(|it| it.name == "lepus.control")
        .unwrap();
    assert_eq!((control.kind, control.durable), ("direct", true));
    let keys: BTreeSet<_> = control
        .bindings
        .iter()
        .map(|(_, key)| key.as_str())
        .collect();
    let expected = [
        "all",
        "queue.calculator",
        "queue.notes",
        "service.calculator",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    server.stop().await.unwrap();
    eventually("the queue is gone with what it stood for", || async {
        control_queues(&broker).is_empty()
    })
    .await;
}

/// A client alone has no control queue.
#[tokio::test(flavor = "multi_thread")]
async fn who_serves_nothing_has_no_queue() {
    let broker = Broker::start().await.unwrap();
    let serving = Connection::open(&broker.uri()).await.unwrap();
    let _server = serve(&serving).await;
    until_found(&serving, 1).await;
    let calling = Connection::open(&broker.uri()).await.unwrap();
    CalculatorClient::new(&calling).fib(1).await.unwrap();
    let lines = lepus::Topic::<String>::new("logs").subscribe(&calling);
    let _lines = lines.bind("#").stream().await.unwrap();
    until_found(&calling, 1).await;
    assert_eq!(control_queues(&broker).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_instances_answer() {
    const INSTANCES: usize = 200;
    let broker = Broker::start().await.unwrap();
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        let builder = Connection::builder(&broker.uri()).io(Io::Shared);
        let connection = builder.open().await.unwrap();
        let server = serve(&connection).await;
        instances.push((connection, server));
    }
    let asking = Connection::open(&broker.uri()).await.unwrap();
    until_found(&asking, INSTANCES).await;
    let discovery = Discovery::new(&asking).limit(Duration::from_secs(60));
    let stats = discovery.all_stats().expect(INSTANCES).await.unwrap();
    let ids: BTreeSet<_> = stats.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids.len(), INSTANCES);
    // Without knowing how many there are.
    assert_eq!(discovery.ping().await.unwrap().len(), INSTANCES);
}

/// A heartbeat of a second makes the idle control queue look after its bindings every three seconds, which shows
/// that time has passed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_when_nobody_asks() {
    let broker = Broker::start().await.unwrap();
    let mut instances = Vec::new();
    for _ in 0..3 {
        let builder = Connection::builder(&broker.uri());
        let builder = builder.heartbeat(Duration::from_secs(1));
        let connection = builder.open().await.unwrap();
        let server = serve(&connection).await;
        instances.push((connection, server));
    }
    until_found(&instances[0].0, 3).await;
    let published = broker.published();
    let raw = Raw::open(&broker.uri()).await;
    raw.delete_exchange("lepus.control").await;
    let bindings = || {
        let exchanges = broker.exchanges();
        let control = exchanges.iter().find(|it| it.name == "lepus.control");
        control.map_or(0, |it| it.bindings.len())
    };
    let restored = eventually("the bindings are there again", || async {
        bindings() == 12
    });
    timeout(LONG, restored).await.unwrap();
    assert_eq!(broker.published(), published);
    until_found(&instances[0].0, 3).await;
    assert!(broker.published() > published, "an answer is seen");
    raw.close().await;
}
