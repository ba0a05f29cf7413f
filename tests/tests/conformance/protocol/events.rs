//! Events, both ways.

use super::fixture::WireFixture;
use super::golden::Message;
use lapin::ExchangeKind;
use lepus::{Codec, Event, RetryPolicy, Topic, jobs::JobError, retry};
use lepus_tests::{Env, conformance};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Placed {
    id: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum OrderEvent {
    #[serde(rename = "order.paid")]
    Paid { id: u64, cents: u64 },
}

const PAID: OrderEvent = OrderEvent::Paid { id: 7, cents: 1295 };

fn placed() -> Topic<Placed> {
    Topic::new("orders").codec(Codec::Json)
}

fn typed() -> Topic<OrderEvent> {
    Topic::new("orders").types_by_variant()
}

conformance!(
    a_publish_is_the_golden_event,
    golden_events_are_heard,
    a_groups_queue_and_retry_are_golden,
);

async fn a_publish_is_the_golden_event(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let queue = fixture.name("peer");
    fixture.raw.declare(&queue).await;
    let exchange = fixture.name("orders");
    fixture
        .raw
        .declare_exchange(&exchange, ExchangeKind::Topic)
        .await;
    fixture.raw.bind(&queue, &exchange, "order.*", &[]).await;
    let publisher = placed().publisher(&fixture.connection);
    let sent = publisher.publish("order.placed", &Placed { id: 7 }).await;
    sent.expect("a confirm");
    fixture.expect("peer", "event").await;
    let publisher = typed().publisher(&fixture.connection);
    let sent = publisher
        .publish("order.paid", &PAID)
        .header("tenant", "hare");
    sent.await.expect("a confirm");
    fixture.expect("peer", "event.typed").await;
    fixture.end_with(&["peer"], &["orders"]).await;
}

async fn golden_events_are_heard(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let heard = placed()
        .subscribe(&fixture.connection)
        .bind("order.placed")
        .stream();
    let mut heard = heard.await.expect("a subscription");
    fixture.publish("event").await;
    let event = heard.next().await.expect("it goes on").expect("an event");
    assert_eq!(event.payload(), &Placed { id: 7 });
    assert_eq!(
        (event.key(), event.app_id()),
        ("order.placed", Some("peer"))
    );
    assert!(event.timestamp().is_some() && event.headers().is_empty());
    heard.close().await.expect("it ends");

    let heard = typed()
        .subscribe(&fixture.connection)
        .bind("order.paid")
        .stream();
    let mut heard = heard.await.expect("a subscription");
    // Of no type, which is passed over.
    let mut other = Message::golden("event.typed");
    other.fields.remove("type");
    fixture.publish_message(&other).await;
    fixture.publish("event.typed").await;
    let event = heard.next().await.expect("it goes on").expect("an event");
    assert_eq!(*event.payload(), PAID);
    assert_eq!(
        event.header("tenant").and_then(|value| value.as_str()),
        Some("hare")
    );
    assert_eq!(heard.skipped(), 1);
    heard.close().await.expect("it ends");
    fixture.end_with(&[], &["orders"]).await;
}

async fn a_groups_queue_and_retry_are_golden(env: Env) {
    let fixture = WireFixture::new(&env).await;
    let slowly = RetryPolicy::default()
        .backoff(Duration::from_secs(30), Duration::from_secs(30))
        .jitter(0.0);
    let fail = async |_: Event<Placed>| Err::<(), JobError>(retry("the ledger is closed"));
    let group = placed().subscribe(&fixture.connection).bind("order.*");
    let group = group.singleton("audit").retry(slowly);
    let running = group.start(fail).await.expect("it listens");
    fixture.assert_declared(&env, "orders.audit").await;
    fixture.publish("event").await;
    let waiting = fixture.name("orders.audit.retry.30000");
    fixture.raw.first_message(&waiting).await;
    fixture
        .expect("orders.audit.retry.30000", "event.retry")
        .await;
    running.stop().await.expect("it drains");
    let queues = [
        "orders.audit",
        "orders.audit.dead",
        "orders.audit.retry.30000",
    ];
    fixture.end_with(&queues, &["orders"]).await;
}
