//! Typed events in the three modes of a subscription, in one process: everything is printed.
//!
//! `cargo run --example events` needs no broker: it brings one along.

use lepus::{Held, Topic};
use lepus_examples::{TryOut, logs};
use serde::{Deserialize, Serialize};

/// What happens to orders. Each variant is an event type of its own on the wire.
#[derive(Debug, Serialize, Deserialize)]
enum OrderEvent {
    #[serde(rename = "order.placed")]
    Placed { id: u64, items: u32 },
    #[serde(rename = "order.paid")]
    Paid { id: u64, cents: u64 },
}

type Anything = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Anything> {
    logs();
    let broker = TryOut::start().await?;
    let connection = lepus::Connection::open(&broker.uri).await?;
    let orders = Topic::<OrderEvent>::new("example.orders").types_by_variant();
    let subscribe = |pattern: &str| orders.subscribe(&connection).bind(pattern);

    // Broadcast: each subscription hears everything that its bindings match.
    let mut everything = subscribe("order.#").start().await?;
    let mut payments = subscribe("order.paid").start().await?;
    // Shared: the members of a group divide the events among them.
    let mut cashier = subscribe("order.*").shared("billing").start().await?;
    let mut other_cashier = subscribe("order.*").shared("billing").start().await?;
    // Singleton: one member at a time, in order; the others stand by.
    let mut ledger = subscribe("order.#").singleton("ledger").start().await?;
    let mut standby = subscribe("order.#").singleton("ledger").start().await?;

    let publisher = orders.publisher(&connection).persistent();
    for id in 1..=2 {
        let placed = OrderEvent::Placed { id, items: 3 };
        publisher.publish("order.placed", &placed).await?;
        let paid = OrderEvent::Paid { id, cents: 250 };
        publisher.publish("order.paid", &paid).await?;
    }

    for _ in 0..4 {
        let event = everything.next().await.ok_or("closed")??;
        println!("everything: {} {}", event.key(), told(&event.payload));
    }
    for _ in 0..2 {
        let event = payments.next().await.ok_or("closed")??;
        println!("payments: {}", told(&event.payload));
    }

    let mut billed = Vec::new();
    for _ in 0..4 {
        let held = tokio::select! {
            held = cashier.next() => held,
            held = other_cashier.next() => held,
        };
        billed.push(done(held.ok_or("closed")??));
    }
    billed.sort();
    for line in billed {
        println!("billing, one of two: {line}");
    }

    for _ in 0..4 {
        let held = ledger.next().await.ok_or("closed")??;
        println!("ledger: {}", done(held));
    }
    ledger.close().await?;
    let late = OrderEvent::Paid { id: 3, cents: 990 };
    publisher.publish("order.late.paid", &late).await?;
    let held = standby.next().await.ok_or("closed")??;
    println!("ledger, taken over: {}", done(held));

    cashier.close().await?;
    other_cashier.close().await?;
    standby.close().await?;
    connection.close().await;
    Ok(())
}

/// Acknowledges an event: it is not delivered again.
fn done(held: Held<OrderEvent>) -> String {
    told(&held.ack().payload)
}

fn told(event: &OrderEvent) -> String {
    match event {
        OrderEvent::Placed { id, items } => format!("order {id} of {items} items is placed"),
        OrderEvent::Paid { id, cents } => format!("order {id} is paid with {cents} cents"),
    }
}
