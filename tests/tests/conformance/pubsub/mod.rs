//! Publish/subscribe on each broker: every kind of exchange, every mode of subscription, and what
//! happens when something breaks.

mod exchanges;
mod groups;
mod layers;
mod subscriptions;
mod types;

use lepus::{
    Event,
    events::{EventExchange, Kind, Missed, Subscription},
};
use lepus_tests::Env;
use lepus_tests::raw::Raw;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// An exchange that goes with its last subscription, so that no test leaves one.
fn passing<K: Kind, T>(name: &str) -> EventExchange<K, T> {
    EventExchange::new(name).transient().auto_delete()
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

async fn item<K: Kind, T: DeserializeOwned>(
    events: &mut Subscription<K, T>,
) -> Result<Event<T>, Missed> {
    let next = within("an item", events.next()).await;
    next.expect("the stream goes on")
}

async fn event<K: Kind, T: DeserializeOwned + Debug>(events: &mut Subscription<K, T>) -> Event<T> {
    item(events).await.expect("an event")
}

/// Removes what a group leaves: its queues, and the exchange.
async fn clear(env: &Env, exchange: &str, groups: &[&str]) {
    let raw = Raw::open(&env.uri).await;
    let exchange = env.name(exchange);
    for group in groups {
        for suffix in ["", ".dead", ".retry.20"] {
            raw.delete(&format!("{exchange}.{group}{suffix}")).await;
        }
    }
    let deleted = raw
        .channel
        .exchange_delete(exchange.as_str().into(), Default::default());
    deleted.await.expect("deleted");
    raw.close().await;
}
