//! OpenTelemetry and Prometheus for [Lepus](lepus): traces that travel with messages, and metrics of calls, jobs and
//! events.
//!
//! This crate carries traces over messages, so that a call, its handler, the calls and jobs of the handler, and their
//! handlers are one trace. It gives their spans the attributes of the semantic conventions, and records metrics.
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
//! Calls that share a message ([`coalesce`](lepus::rpc::ClientBuilder::coalesce)) keep their traces apart. Events of a broadcast
//! subscription that is read as a stream have no handler and no span; their
//! [`trace`](lepus::Event::trace) is for the reader to use ([`remote_context`]). The `correlation_id` of a job or an
//! event, if its sender has set one, is the attribute `messaging.message.conversation_id`.
//!
//! # Two ways to make spans
//!
//! Lepus has a span of `tracing` for each of these, at the level INFO and with the target `lepus::span`. As above, the
//! layer of `tracing-opentelemetry` makes spans of OpenTelemetry of them, and a filter that drops them drops the trace.
//! Choose this way if the program makes its own spans with `tracing` and its calls are not short.
//!
//! With [`Telemetry::tracer`], the spans of messages are made with a tracer, without `tracing`. They have the same
//! names, attributes and parents, at about half of the cost. Choose it for short calls, for calls that share messages,
//! and for programs that use the API of OpenTelemetry without `tracing`. The layer of `tracing-opentelemetry`, if the
//! program has one for its own spans, must leave out the target `lepus::span` then, or these spans are exported twice.
//! The spans of `tracing` stay there for the lines of a log.
//!
//! ```
//! use lepus::Connection;
//! use lepus_otel::Telemetry;
//! use opentelemetry::trace::TracerProvider as _;
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//! use tracing_subscriber::filter::{LevelFilter, Targets};
//! use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tracers = SdkTracerProvider::builder()
//!     .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
//!     .build();
//! let tracer = tracers.tracer("shop");
//! let own = Targets::new()
//!     .with_default(LevelFilter::INFO)
//!     .with_target("lepus::span", LevelFilter::OFF);
//! let spans = tracing_opentelemetry::layer().with_tracer(tracer.clone()).with_filter(own);
//! tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans))?;
//!
//! let builder = Connection::builder("amqp://localhost");
//! let connection = Telemetry::new().tracer(tracer).attach(builder).open().await?;
//! # let _ = connection;
//! # Ok(())
//! # }
//! ```
//!
//! Either way, spans that a handler makes with `tracing` are children of its span, and so are the calls and jobs that
//! it sends. With a tracer, the parent of a call is the [current context](opentelemetry::Context::current) of
//! OpenTelemetry, which the layer of `tracing-opentelemetry` keeps unless it is told not to. A call to an implementation
//! in the same process sends no message, and has a span of `tracing` alone.
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
mod message_span;
pub mod names;
mod observer;
mod outcome;
mod peer;
mod sink;
mod telemetry;
mod trace_context;
mod traceparent;
mod tracer_spans;

pub use telemetry::Telemetry;
pub use trace_context::{TraceContext, remote_context};

/// The example of the crate's README, compiled as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
