//! An AMQP 0-9-1 broker inside the process, for examples, tests and development.
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
//! It speaks the AMQP protocol on a loopback port, so that clients of RabbitMQ work with it
//! unchanged. It has the behaviour of RabbitMQ 3.10.8, and introduces itself as that, because
//! clients choose their features by the version ([`BrokerBuilder::product`],
//! [`BrokerBuilder::version`]). Its own name is in the server property `implementation`.
//!
//! It holds everything **in memory**, on **one node**, and loses it when it stops. RabbitMQ is the
//! broker for production.
//!
//! # Features
//!
//! - Handshake with `PLAIN` and `AMQPLAIN`, users and virtual hosts, heartbeats in both directions,
//!   channels, and the negotiation of all limits.
//! - Exchanges: direct, fanout, topic, headers; the default one and `amq.*`; alternate
//!   exchanges, bindings between exchanges, internal and auto-delete ones; `CC` and `BCC`.
//! - Queues: exclusive, auto-delete, server-named; `x-message-ttl`, `x-expires`,
//!   `x-max-length`, `x-max-length-bytes`, `x-overflow`, `x-dead-letter-exchange` and
//!   `-routing-key` with `x-death`, `x-max-priority`, `x-single-active-consumer`,
//!   `x-queue-type: quorum` with `x-delivery-limit` and `x-delivery-count`.
//! - Consumers: prefetch of a consumer and of a channel, priorities, exclusive consumers, cancel
//!   notifications; `basic.get`, `ack`, `nack`, `reject`, `recover`; direct reply-to.
//! - Publishers: confirms in order, mandatory returns before them, `expiration`, `user_id`;
//!   `connection.blocked` when the memory limit is reached.
//! - Errors with RabbitMQ's codes and, for those that clients meet in practice, its texts.
//!
//! There is a limit for everything: connections, channels, queues, exchanges, bindings, consumers,
//! frames, messages, memory (see [`BrokerBuilder`]). The broker keeps a bounded number of bytes for a
//! client that does not read, and such a client does not delay others.
//!
//! # In tests
//!
//! Inspect the broker with [`Broker::queues`], [`Broker::connections`], [`Broker::consumers`] and
//! [`Broker::exchanges`], and inject faults with [`Broker::faults`]: cut and stall
//! connections, withhold and nack confirms, block publishers, cancel consumers, refuse
//! new connections. The broker has a thread and a clock of its own: a paused or blocked runtime
//! of the test does not delay it.
//!
//! # Differences from RabbitMQ
//!
//! Compared with 3.10. All behaviour that is not listed here is meant to be the same; another
//! difference is a bug.
//!
//! - Nothing is durable. `durable` and `delivery_mode` are stored, compared and passed on, but a
//!   broker that stops loses everything. A confirm says that a message is in memory.
//! - There is one node. Quorum queues are ordinary queues that count how often a message was
//!   delivered and not acknowledged. A message is dead-lettered after `x-delivery-limit`; without
//!   it there is no limit, as in RabbitMQ before 4.0.
//! - No streams (`x-queue-type: stream`): 540.
//! - The reply to `tx.commit` comes at once. RabbitMQ's comes when all queues have the messages;
//!   if a client sends another method before that, RabbitMQ closes the connection (504).
//! - A prefetch that the consumers of a channel share (`global`) is given to their queues in turn;
//!   RabbitMQ chooses at random.
//! - No permissions on queues and exchanges; a user may open a virtual host or not. No
//!   policies, no plugins, no exchange types beyond the four, no management interface,
//!   no TLS.
//! - No consumer timeout: a delivery may stay unsettled for ever.
//! - A mandatory message to a direct reply-to address is returned only if there is no consumer
//!   for it. RabbitMQ returns it always.
//! - A message that is too large closes the channel when its header arrives, not after its
//!   body. A body that is longer than its header announced is an error (501); RabbitMQ accepts it.
//! - A client whose bytes cannot be parsed always gets a `connection.close`; RabbitMQ sometimes
//!   closes the socket without one. The reply texts of such errors differ.
//! - Memory is counted in bytes of messages, not of the process, and freed at once.
//! - Property values are passed on byte for byte; RabbitMQ decodes and encodes them again.
//!   Malformed properties end the connection (541) before their exchange is looked up.
//! - When the broker adds headers of its own (`x-death`, `x-delivery-count`), it keeps the first of
//!   several headers with one name, and drops headers whose name has more than 85 octets that are
//!   not UTF-8.
//! - Names in methods have to be valid UTF-8; RabbitMQ accepts encoded surrogates as well.

#[cfg(feature = "__sim")]
#[doc(hidden)]
pub mod __sim;
mod arguments;
mod broker;
mod builder;
mod config;
mod core;
mod exception;
mod exchange;
mod fault;
mod framing;
mod id;
mod listen;
mod message;
mod net;
mod octets;
mod outgoing;
mod properties;
mod queue;
mod session;
mod settings;
mod shared;
mod table;
mod topic;

pub use crate::{
    broker::{Broker, StartError},
    builder::BrokerBuilder,
    core::{ConnectionInfo, ConsumerInfo, ExchangeInfo, QueueInfo},
    fault::{Faults, Target},
    id::ConnectionId,
    listen::Accept,
    outgoing::{Cut, Stall},
};

/// The example of the crate's README, compiled and run as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
