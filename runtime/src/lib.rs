//! RPC, work queues and publish/subscribe over RabbitMQ, typed end to end.
//!
//! Annotate a trait, and Lepus generates its client and its server. Messages are plain AMQP 0-9-1 with
//! MessagePack or JSON, so that the other side can be written in any language.
//!
//! # A service
//!
//! [`macro@service`] keeps the trait as it is written, and generates a server and a client for it:
//!
//! ```no_run
//! use lepus::{CallError, Connection, Server};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
//! #[error("nothing can be divided by zero")]
//! struct DivideByZero;
//!
//! #[lepus::service(name = "calculator")]
//! trait Calculator {
//!     /// The quotient, towards zero.
//!     #[rpc(timeout = "2s", idempotent)]
//!     async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero>;
//! }
//!
//! struct CalculatorService;
//!
//! impl Calculator for CalculatorService {
//!     async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, DivideByZero> {
//!         dividend.checked_div(divisor).ok_or(DivideByZero)
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open("amqp://guest:guest@localhost").await?;
//! let server = Server::new(&connection)
//!     .serve(CalculatorServer::new(CalculatorService).concurrency(4))
//!     .start()
//!     .await?;
//!
//! // Usually in another program.
//! let calculator = CalculatorClient::new(&connection);
//! match calculator.divide(84, 2).await {
//!     Ok(quotient) => println!("{quotient}"),
//!     Err(CallError::Service(DivideByZero)) => println!("the method's own error"),
//!     Err(CallError::Rpc(error)) => println!("the call failed: {error}"),
//! }
//!
//! server.until(lepus::shutdown_signal()).await?;
//! connection.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Call`] does nothing until it is awaited, or [sent](Call::send) to be awaited later. Its timeout,
//! priority and headers are set on it. Every call ends: with the value, with the method's own error, or with
//! an [`Error`] that tells why ([`is_timeout`](Error::is_timeout), …) and whether the request may have run
//! ([`may_have_executed`](Error::may_have_executed)). Inside a handler, [`Context::current`] has the
//! deadline, the caller's headers, and whether the request was delivered before; calls that are made there
//! inherit the deadline, and end a little before it. For unit tests, `CalculatorClient::local` is the same
//! client for an implementation in this process, without a broker.
//!
//! # Jobs
//!
//! A [`WorkQueue`] stores jobs of one type until they are done. A push returns when the broker has
//! confirmed the job. A failed job waits on the broker for its next attempt, each time longer, and goes to a
//! dead-letter queue after the last attempt.
//!
//! ```no_run
//! use lepus::{Connection, Job, WorkQueue, retry};
//!
//! # async fn example(connection: Connection) -> Result<(), lepus::Error> {
//! let mails = WorkQueue::<String>::new("mails");
//! mails.producer(&connection).push(&"hare@example.org".to_owned()).await?;
//!
//! let send = async |job: Job<String>| match job.attempt() {
//!     1 => Err(retry("the mail server is busy")),
//!     _ => Ok(println!("sent to {}", job.payload())),
//! };
//! mails.worker(&connection).run(send, lepus::shutdown_signal()).await
//! # }
//! ```
//!
//! [`macro@tasks`] generates a queue from an annotated trait, whose methods are the kinds of its jobs.
//!
//! # Events
//!
//! An exchange is a typed value: [`Fanout`], [`Direct`], [`Topic`] or [`Headers`].
//!
//! ```no_run
//! use lepus::{Connection, Topic};
//!
//! # async fn example(connection: Connection) -> Result<(), lepus::Error> {
//! let logs = Topic::<String>::new("logs");
//! let mut critical = logs.subscribe(&connection).bind("*.critical").stream().await?;
//! logs.publisher(&connection).publish("kern.critical", "no more memory").await?;
//! if let Some(Ok(event)) = critical.next().await {
//!     println!("{}: {}", event.key(), event.payload());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A subscription has one of three modes: broadcast, as here; [shared](events::Subscribe::shared) by a group, which
//! settles and retries events as jobs; or [singleton](events::Subscribe::singleton), a group of which one member at a
//! time receives.
//!
//! # Overview
//!
//! The names that nearly every program uses are at the root. All others are in five modules:
//!
//! | | at the root | in the module |
//! |---|---|---|
//! | [`rpc`] | [`macro@service`], [`Server`], [`Call`], [`CallError`], [`Status`], [`Code`] | clients and their builder, options of services, services without the macro |
//! | [`jobs`] | [`macro@tasks`], [`WorkQueue`], [`Job`], [`RetryPolicy`], [`retry`](fn@retry), [`retry_after`], [`reject`] | producers, pools, getters, dead letters |
//! | [`events`] | [`Fanout`], [`Direct`], [`Topic`], [`Headers`], [`Event`] | publishers, subscriptions, bindings, keys |
//! | [`amqp`] | [`Connection`] | its builder and state, header values, options of queues |
//! | [`control`] | [`Discovery`] | which services run, their figures and health; the health of this process |
//!
//! And for all of them: [`Context`] in handlers, [`Error`] and [`Outcome`], [`Codec`], [`Running`] and [`Until`],
//! [`shutdown_signal`]. Layers are in [`middleware`], hooks for telemetry in [`observe`]; the crate `lepus-otel` has those
//! for OpenTelemetry and Prometheus.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `tls` | yes | `amqps://` with rustls, the system's certificate authorities and others |
//! | `tower` | no | adapters for stacks of the crate `tower`, in [`middleware`] |
//!
//! # Requirements and guarantees
//!
//! - RabbitMQ 3.10 or later, without plugins. `lepus-broker` stands in for it in examples and
//!   tests: a broker in memory that speaks the same protocol.
//! - tokio, with a multi-thread or a current-thread runtime. Connections are served on threads of their own,
//!   so handlers that block do not delay heartbeats.
//! - Delivery of jobs is at least once: a job can be handled twice. A request runs twice only if its method is marked
//!   `idempotent`; otherwise a request whose server died is answered with `aborted`. Messages are acknowledged after
//!   they are handled, unless a method is `at_most_once`.
//!
//! # Stability
//!
//! Until 1.0, a minor version may change the API. The messages, and the names and arguments of queues and
//! exchanges, are protocol 1, and change only with its number. The following are not part of the API, and
//! change without notice: the hidden module `__rt`, which generated code uses; the feature `__bench`; names
//! in generated code that begin with `__`; the texts of errors, statuses and logs; the constructors and
//! setters of [`ServiceDescriptor`](rpc::ServiceDescriptor) and [`MethodDescriptor`](rpc::MethodDescriptor), which generated code uses.

// Names the feature beside each item that needs one, on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "__bench")]
#[doc(hidden)]
pub mod __bench;
#[doc(hidden)]
pub mod __rt;
mod arguments;
mod cancel_table;
mod cancellable;
mod cancellation;
mod client;
mod clock;
mod context;
pub mod control;
mod deadline;
mod descriptor;
mod drain;
mod error;
mod escape;
mod extensions;
mod handler_guard;
mod incoming;
mod link;
mod meter;
pub mod middleware;
pub mod observe;
mod policy;
mod publish;
mod pubsub;
mod queue;
mod random;
mod returns;
mod server;
mod service;
mod shutdown;
mod span;
mod stats;
mod stream;
mod streamed;
mod sync;
mod wire;
mod worker;

/// The attribute for implementations of a trait with `#[lepus::service(dyn)]` or `#[lepus::tasks(dyn)]`: it
/// boxes the futures of their methods. It is that of the crate `async-trait`.
///
/// ```
/// use std::sync::Arc;
///
/// #[lepus::service(dyn)]
/// trait Calculator {
///     async fn fib(&self, n: u64) -> u64;
/// }
///
/// struct CalculatorService;
///
/// #[lepus::async_trait]
/// impl Calculator for CalculatorService {
///     async fn fib(&self, n: u64) -> u64 {
///         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
///     }
/// }
///
/// let service: Arc<dyn Calculator> = Arc::new(CalculatorService);
/// let server = CalculatorServer::from_arc(service);
/// # let _ = server;
/// ```
pub use async_trait::async_trait;
pub use lepus_macros::{service, tasks};

pub mod amqp;
pub mod events;
pub mod jobs;
pub mod rpc;

#[doc(no_inline)]
pub use amqp::Connection;
pub use context::Context;
pub use control::Discovery;
pub use error::{Error, Outcome};
#[doc(no_inline)]
pub use events::{Direct, Event, Fanout, Headers, Topic};
pub use incoming::Incoming;
#[doc(no_inline)]
pub use jobs::{Job, RetryPolicy, WorkQueue, reject, retry, retry_after};
#[doc(no_inline)]
pub use rpc::{Call, CallError, Code, Server, Status, Streaming};
pub use shutdown::{second_signal, shutdown_signal};
pub use wire::codec::Codec;
pub use worker::{Running, Until};

/// The size in bytes of the future that a function returns, for tests that keep it small.
#[cfg(test)]
fn size_of_future<A, F: Future>(_: impl Fn(A) -> F) -> usize {
    size_of::<F>()
}

/// The example of the crate's README, compiled and run as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
