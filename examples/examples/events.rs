//! Typed events in the three modes of a subscription, in one process, with everything printed.
//!
//! `cargo run --example events` starts a broker of its own, unless `AMQP_URL` names one.

use lepus::{Topic, events::GroupEvent};
use lepus_examples::{ExampleBroker, logs};
use serde::{Deserialize, Serialize};

/// Events of orders. Each variant is an event type on the wire.
#[derive(Debug, Serialize, Deserialize)]
enum OrderEvent {
    #[serde(rename = "order.placed")]
    Placed { id: u64, items: u32 },
    #[serde(rename = "order.paid")]
    Paid { id: u64, cents: u64 },
}

type AnyError = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    logs();
    let broker = ExampleBroker::start().await?;
    let connection = lepus::Connection::open(&broker.uri).await?;
    let orders = Topic::<OrderEvent>::new("example.orders").types_by_variant();
    let subscribe = |pattern: &str| orders.subscribe(&connection).bind(pattern);

    // Broadcast: each subscription receives all events that match its bindings.
    let mut everything = subscribe("order.#").stream().await?;
    let mut payments = subscribe("order.paid").stream().await?;
    // Shared: each event goes to one member of the group.
    let mut cashier = subscribe("order.*").shared("billing").stream().await?;
    let mut other_cashier = subscribe("order.*").shared("billing").stream().await?;
    // Singleton: one member receives the events, in order. The next one takes over when it leaves.
    let mut ledger = subscribe("order.#").singleton("ledger").stream().await?;
    let mut standby = subscribe("order.#").singleton("ledger").stream().await?;

    let publisher = orders.publisher(&connection).persistent();
    for id in 1..=2 {
        let placed = OrderEvent::Placed { id, items: 3 };
        publisher.publish("order.placed", &placed).await?;
        let paid = OrderEvent::Paid { id, cents: 250 };
        publisher.publish("order.paid", &paid).await?;
    }

    for _ in 0..4 {
        let event = everything.next().await.ok_or("closed")??;
        println!("everything: {} {}", event.key(), describe(event.payload()));
    }
    for _ in 0..2 {
        let event = payments.next().await.ok_or("closed")??;
        println!("payments: {}", describe(event.payload()));
    }

    let mut billed = Vec::new();
    for _ in 0..4 {
        let held = tokio::select! {
            held = cashier.next() => held,
            held = other_cashier.next() => held,
        };
        billed.push(acknowledge(held.ok_or("closed")??));
    }
    billed.sort();
    for line in billed {
        println!("billing, one of two: {line}");
    }

    for _ in 0..4 {
        let held = ledger.next().await.ok_or("closed")??;
        println!("ledger: {}", acknowledge(held));
    }
    ledger.close().await?;
    let late = OrderEvent::Paid { id: 3, cents: 990 };
    publisher.publish("order.late.paid", &late).await?;
    let held = standby.next().await.ok_or("closed")??;
    println!("ledger, taken over: {}", acknowledge(held));

    cashier.close().await?;
    other_cashier.close().await?;
    standby.close().await?;
    connection.close().await;
    Ok(())
}

/// Acknowledges an event, so that it is not delivered again, and describes it.
fn acknowledge(held: GroupEvent<OrderEvent>) -> String {
    describe(held.ack().payload())
}

fn describe(event: &OrderEvent) -> String {
    match event {
        OrderEvent::Placed { id, items } => format!("order {id} of {items} items is placed"),
        OrderEvent::Paid { id, cents } => format!("order {id} is paid with {cents} cents"),
    }
}
