//! An AMQP 0-9-1 broker inside the process, for a newcomer's first minute and for tests.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), lepus_broker::StartError> {
//! let broker = lepus_broker::Broker::start().await?;
//! println!("connect to {}", broker.uri());
//! # Ok(())
//! # }
//! ```
//!
//! It speaks the real protocol on a loopback port, so every client that speaks to
//! RabbitMQ speaks to it unchanged. It holds everything **in memory**, on **one node**, and
//! forgets it when it stops. It is made for development, examples and tests. RabbitMQ is
//! the broker for production.
//!
//! Tests can look inside ([`Broker::queues`], [`Broker::connections`],
//! [`Broker::consumers`]) and break things at will ([`Broker::faults`]).

mod arguments;
mod broker;
mod builder;
mod config;
mod core;
mod exception;
mod exchange;
mod fault;
mod framing;
mod hub;
mod id;
mod link;
mod listen;
mod message;
mod net;
mod properties;
mod queue;
mod session;
mod settings;
mod topic;

pub use crate::{
    broker::{Broker, StartError},
    builder::Builder,
    core::{ConnectionInfo, ConsumerInfo, ExchangeInfo, QueueInfo},
    fault::{Faults, Target},
    id::ConnectionId,
    link::{Cut, Stall},
    listen::Accept,
};
