//! OpenTelemetry and Prometheus for [Lepus](lepus): traces that travel with messages, and metrics of calls, jobs and
//! events.
//!
//! The spans are those of Lepus, which `tracing-opentelemetry` gives to OpenTelemetry. This crate carries them over
//! messages, so that a call, its handler, the calls and jobs of the handler, and their handlers are one trace. It adds
//! the attributes of the semantic conventions, and records metrics.
//!
//! ```
//! use lepus::Connection;
//! use lepus_otel::Telemetry;
//! use opentelemetry::trace::TracerProvider as _;
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//! use tracing_subscriber::layer::SubscriberExt as _;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Once in a program: a tracer with the exporter of your choice, and a layer that gives it the spans.
//! let tracers = SdkTracerProvider::builder()
//!     .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
//!     .build();
//! let spans = tracing_opentelemetry::layer().with_tracer(tracers.tracer("shop"));
//! tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans))?;
//!
//! // For each connection. Metrics go to the global meter provider of `opentelemetry`.
//! let builder = Connection::builder("amqp://localhost");
//! let connection = Telemetry::new().attach(builder).open().await?;
//! # let _ = connection;
//! # Ok(())
//! # }
//! ```
//!
//! # Spans
//!
//! | span | kind | name | child of |
//! |---|---|---|---|
//! | a call | CLIENT | `calculator/divide` | the span around it |
//! | its handler | SERVER | `calculator/divide`; `calculator/_OTHER` for an unknown method | the call |
//! | a push or a publish | PRODUCER | `publish resize` | the span around it |
//! | the handler of a job or an event | CONSUMER | `process resize` | the push or the publish |
//!
//! All are at the level INFO and have the target `lepus::span`: a filter that drops these drops the trace. Calls that
//! share a message ([`coalesce`](lepus::rpc::ClientBuilder::coalesce)) keep their traces apart. Events of a broadcast
//! subscription that is read as a stream have no handler and no span; their
//! [`trace`](lepus::Event::trace) is for the reader to use ([`remote_context`]). The `correlation_id` of a job or an
//! event, if its sender has set one, is the attribute `messaging.message.conversation_id`.
//!
//! # Metrics
//!
//! [`names`] lists them with their attributes.
//!
//! # Versions
//!
//! This crate is built for `opentelemetry` 0.33 and `tracing-opentelemetry` 0.34. Programs need the same ones: with two
//! versions of either in one program, spans get lost without an error. `cargo tree -d` shows whether there are two.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `metrics` | no | `Telemetry::facade`: metrics through the facade `metrics`, for instance for Prometheus |

// Names the feature beside each item that needs one, on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "metrics")]
mod facade;
mod instruments;
pub mod names;
mod observer;
mod sink;
mod telemetry;
mod trace_context;

pub use telemetry::Telemetry;
pub use trace_context::{TraceContext, remote_context};

/// The example of the crate's README, compiled as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
