//! An AMQP 0-9-1 broker inside the process, for examples, development and tests.
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
//! It speaks AMQP 0-9-1 on a loopback port, so clients of RabbitMQ connect to it unchanged. It
//! behaves as RabbitMQ 3.10.8 and reports that product and version in its server properties,
//! because clients enable features by them ([`BrokerBuilder::product`], [`BrokerBuilder::version`]).
//! Its own name is in the server property `implementation`.
//!
//! It keeps everything **in memory**, on **one node**, and loses it when it stops. It is not meant for
//! production: use RabbitMQ there.
//!
//! # Features
//!
//! - Handshake with `PLAIN` and `AMQPLAIN`, users and virtual hosts, heartbeats in both directions,
//!   channels, negotiation of all limits.
//! - Exchanges: direct, fanout, topic, headers; the default exchange and `amq.*`; alternate
//!   exchanges, bindings between exchanges, internal and auto-delete exchanges; `CC` and `BCC`.
//! - Queues: exclusive, auto-delete, server-named; `x-message-ttl`, `x-expires`,
//!   `x-max-length`, `x-max-length-bytes`, `x-overflow`, `x-dead-letter-exchange` and
//!   `-routing-key` with `x-death`, `x-max-priority`, `x-single-active-consumer`,
//!   `x-queue-type: quorum` with `x-delivery-limit` and `x-delivery-count`.
//! - Consumers: a prefetch for each consumer or for a whole channel, priorities, exclusive
//!   consumers, cancel notifications; `basic.get`, `ack`, `nack`, `reject`, `recover`; direct reply-to.
//! - Publishers: confirms in order, returns of mandatory messages before them, `expiration`,
//!   `user_id`; `connection.blocked` when the memory limit is reached.
//! - Errors with RabbitMQ's reply codes and, for those that clients meet in practice, its reply
//!   texts.
//!
//! Connections, channels, queues, exchanges, bindings, consumers, frames, messages and memory are
//! limited (see [`BrokerBuilder`]). For a client that does not read, about 1 MiB of deliveries is
//! buffered, and other clients are not affected.
//!
//! # In tests
//!
//! [`Broker::queues`], [`Broker::connections`], [`Broker::consumers`] and [`Broker::exchanges`] show
//! the broker's state. [`Broker::faults`] injects faults: it cuts and stalls connections, withholds
//! and nacks confirms, blocks publishers, cancels consumers and refuses new connections. The broker
//! runs on a thread and a clock of its own, so a paused or blocked runtime of the test does not delay
//! it.
//!
//! # Differences from RabbitMQ
//!
//! Compared with 3.10. Any difference that is not listed here is a bug.
//!
//! - Nothing is durable. `durable` and `delivery_mode` are stored, compared and passed on, but
//!   everything is lost when the broker stops. A confirm means that a message is in memory.
//! - There is one node. A quorum queue is a plain queue that counts how often each message was
//!   requeued. A message whose count exceeds `x-delivery-limit` is dead-lettered; without the argument
//!   there is no limit, as in RabbitMQ before 4.0.
//! - There are no streams: `x-queue-type: stream` is refused with 540.
//! - The reply to `tx.commit` is sent at once. RabbitMQ sends it when all queues have the messages,
//!   and closes the connection (504) if the client uses the channel before that.
//! - A prefetch shared by a channel (`global`) is assigned to its queues in turn; RabbitMQ assigns it
//!   at random.
//! - There are no permissions on queues and exchanges, only on virtual hosts. There are no policies,
//!   no plugins, no exchange types beyond the four, no management interface and no TLS.
//! - There is no consumer timeout: a delivery may stay unsettled without limit.
//! - A mandatory message to a direct reply-to address is returned only if its consumer does not exist.
//!   RabbitMQ always returns it.
//! - A message that is too large closes the channel when its header arrives, not after its body. A
//!   body that is longer than its header announced is an error (501); RabbitMQ accepts it.
//! - A protocol violation is always reported with `connection.close`, where RabbitMQ sometimes only
//!   closes the socket; the reply texts of such errors differ.
//! - Memory is counted as the bytes of messages, not of the process, and freed at once.
//! - Property values are passed on byte for byte; RabbitMQ decodes and encodes them again. Malformed
//!   properties end the connection (541) before their exchange is looked up.
//! - Where the broker writes headers of its own (`x-death`, `x-delivery-count`), only the first of
//!   several headers with the same name is kept, and headers whose name has more than 85 octets that
//!   are not UTF-8 are dropped.
//! - Names in methods have to be valid UTF-8; RabbitMQ also accepts encoded surrogates.

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
