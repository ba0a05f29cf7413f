//! The events, and the exchange that they are published to.

use std::env;

use lepus::Topic;
use serde::{Deserialize, Serialize};

/// What happens to orders. The variants are the event types on the wire: subscribers skip those of a later
/// version that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderEvent {
    /// Somebody has ordered something.
    #[serde(rename = "order.placed")]
    Placed {
        /// The order.
        id: u64,
        /// How many items.
        items: u32,
    },
    /// An order has been paid.
    #[serde(rename = "order.paid")]
    Paid {
        /// The order.
        id: u64,
        /// How much.
        cents: u64,
    },
}

impl OrderEvent {
    /// The routing key with which it is published.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Placed { .. } => "order.placed",
            Self::Paid { .. } => "order.paid",
        }
    }
}

/// The exchange.
pub fn orders() -> Topic<OrderEvent> {
    Topic::new("{{project-name}}").types_by_variant()
}

/// The address of the broker: `AMQP_URL`, or a broker on this machine.
pub fn broker_uri() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned())
}

/// Logs to stderr: warnings, or what `RUST_LOG` selects.
pub fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
}
