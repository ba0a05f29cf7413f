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
//! RabbitMQ speaks to it unchanged. It introduces itself as RabbitMQ 3.10.8, whose behaviour it
//! has and by whose version clients decide what they may do ([`BrokerBuilder::product`],
//! [`BrokerBuilder::version`]); its own name is in the server property `implementation`.
//!
//! It holds everything **in memory**, on **one node**, and forgets it when it stops. It is made
//! for development, examples and tests. RabbitMQ is the broker for production.
//!
//! # What it does
//!
//! - Handshake with `PLAIN` and `AMQPLAIN`, users and virtual hosts, heartbeats both ways,
//!   channels, every limit negotiated.
//! - Exchanges: direct, fanout, topic, headers; the default one and `amq.*`; alternate
//!   exchanges, bindings between exchanges, internal and auto-delete ones; `CC` and `BCC`.
//! - Queues: exclusive, auto-delete, server-named; `x-message-ttl`, `x-expires`,
//!   `x-max-length`, `x-max-length-bytes`, `x-overflow`, `x-dead-letter-exchange` and
//!   `-routing-key` with `x-death`, `x-max-priority`, `x-single-active-consumer`,
//!   `x-queue-type: quorum` with `x-delivery-limit` and `x-delivery-count`.
//! - Consumers: prefetch a consumer and a channel, priorities, exclusive ones, cancel
//!   notifications; `basic.get`, `ack`, `nack`, `reject`, `recover`; direct reply-to.
//! - Publishers: confirms in order, mandatory returns before them, `expiration`, `user_id`;
//!   `connection.blocked` when the memory cap is reached.
//! - Errors with RabbitMQ's codes and, for those a client meets in practice, its texts.
//!
//! Everything is bounded: connections, channels, queues, exchanges, bindings, consumers,
//! frames, messages, memory (see [`BrokerBuilder`]). A client that does not read gets no more
//! than a window's worth, and holds up nobody else.
//!
//! # In tests
//!
//! Look inside with [`Broker::queues`], [`Broker::connections`], [`Broker::consumers`] and
//! [`Broker::exchanges`], and break things with [`Broker::faults`]: cut and stall
//! connections, withhold and nack confirms, block publishers, cancel consumers, refuse
//! newcomers. The broker has a thread and a clock of its own: a paused or blocked runtime
//! of the test does not hold it up.
//!
//! # How it differs from RabbitMQ
//!
//! Measured against 3.10. What is not listed is meant to be the same; a difference is a bug.
//!
//! - Nothing is durable. `durable` and `delivery_mode` are remembered, compared and handed
//!   on, but a broker that stops has lost everything. A confirm says that a message is in
//!   memory.
//! - One node: quorum queues are plain queues that count how often a message came back.
//!   They die after `x-delivery-limit`; without it there is no limit, as in RabbitMQ before
//!   4.0.
//! - No streams (`x-queue-type: stream`): 540.
//! - The answer to `tx.commit` comes at once. RabbitMQ's comes when all queues have the messages,
//!   and what a client sends before it closes the connection (504).
//! - A prefetch shared by a channel (`global`) is given out to its queues in turn; RabbitMQ draws
//!   lots.
//! - No permissions on queues and exchanges; a user may open a virtual host or not. No
//!   policies, no plugins, no exchange types beyond the four, no management interface,
//!   no TLS.
//! - No consumer timeout: a delivery may stay unsettled for ever.
//! - A mandatory message to a direct reply-to address is returned only when nobody is there
//!   to take it. RabbitMQ returns it always.
//! - A message that is too large closes the channel when its header arrives, not after its
//!   body. More body than the header announced is an error (501); RabbitMQ takes it.
//! - A client that breaks the protocol beyond understanding is always told so by
//!   `connection.close`, where RabbitMQ now and then just hangs up; the reply texts of such
//!   errors differ.
//! - Memory is counted in bytes of messages, not of the process, and freed at once.
//! - Property values pass byte for byte; RabbitMQ decodes and encodes them again. Properties
//!   that are malformed end the connection (541) before their exchange is looked for.
//! - Where the broker writes headers of its own (`x-death`, `x-delivery-count`), of several with
//!   one name the first is kept, and none whose name has more than 85 octets that are not UTF-8.
//! - Names in methods are UTF-8 as Unicode has it; RabbitMQ takes surrogates for it, too.

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
