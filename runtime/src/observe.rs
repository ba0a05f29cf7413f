//! Hooks for telemetry: traces that travel with messages, and the facts that metrics are made of.
//!
//! The core has spans of `tracing` and nothing of a telemetry system. A system is attached by two hooks, which
//! [`ConnectionBuilder::propagate_traces`](crate::amqp::ConnectionBuilder::propagate_traces) and
//! [`ConnectionBuilder::observe`](crate::amqp::ConnectionBuilder::observe) take. The crate `lepus-otel` has both, for
//! OpenTelemetry and for Prometheus.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use lepus::observe::{Handled, Observe};
//!
//! /// Counts requests that ended neither with a value nor with the method's own error.
//! #[derive(Default)]
//! struct Failures(AtomicU64);
//!
//! impl Observe for Failures {
//!     fn served(&self, request: &Handled<'_>) {
//!         if request.outcome.is_failure() {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! let builder = lepus::Connection::builder("amqp://localhost").observe(Failures::default());
//! # let _ = builder;
//! ```

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::Span;

use crate::error::Error;
pub use crate::stats::{HandlerKind, HandlerOutcome};
pub use crate::wire::trace_headers::TraceHeaders;

/// Carries traces over messages: the trace of a span into the headers of a message, and from there to the span of
/// its handler.
///
/// Without this hook, the trace headers of a request, job or event (`traceparent`, `tracestate`, `baggage`) pass
/// unchanged to the messages that its handler sends.
///
/// Calls, pushes, publishes and handlers have spans of `tracing`. A hook takes the traces of these, where a subscriber
/// makes traces of them, or it makes spans of its own for the same things. Either way it may return a
/// [`TelemetrySpan`], which is told of the end.
///
/// The methods are called on the tasks of calls and handlers. They must not block.
pub trait Propagate: Send + Sync + 'static {
    /// A call, a push or a publish starts. Writes the trace of its span into the trace headers of its message. They
    /// contain those of the current [`Context`](crate::Context). Without a span they should be left as they are.
    fn inject(
        &self,
        start: &SpanStart<'_>,
        trace: &mut TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>>;

    /// The handler of a request, a job or an event starts. Makes the trace in these headers of its message the parent
    /// of its span. The span of `tracing` was just made, and was not entered yet.
    fn extract(
        &self,
        start: &SpanStart<'_>,
        trace: &TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>>;
}

/// The span of a telemetry system for a message that is sent or handled. It is dropped without being told of an end if
/// its handler is dropped.
///
/// The methods are called on the tasks of calls and handlers. They must not block.
pub trait TelemetrySpan: Send + Sync + 'static {
    /// Runs a part of a handler with this span current: when its future is made, and each time that is polled or is
    /// dropped. It is inside the span of `tracing`. What the function does not run, runs afterwards without it.
    fn enter(&self, run: &mut dyn FnMut()) {
        run();
    }

    /// The call, the push, the publish or the handler has ended. Called once at most.
    fn ended(&self, _end: &SpanEnd<'_>) {}
}

/// The side of a message that a span is for, as OpenTelemetry names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanKind {
    /// A call.
    Client,
    /// The handler of a request.
    Server,
    /// The push of a job or the publish of an event.
    Producer,
    /// The handler of a job or an event.
    Consumer,
}

/// The start of a span.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SpanStart<'a> {
    /// The span of `tracing`, which is disabled if no subscriber takes it.
    pub span: &'a Span,
    /// The side of the message.
    pub kind: SpanKind,
    /// The name: `calculator/divide`, `publish resize`, `process resize`. It is borrowed for methods of generated code.
    pub name: &'a Cow<'static, str>,
    /// The queue that a call is sent to, by its name on the broker. Of calls alone.
    pub queue: Option<&'a Arc<str>>,
    pub(crate) attributes: &'a [(&'static str, Option<AttributeValue<'a>>)],
}

impl<'a> SpanStart<'a> {
    /// The attributes that the span of `tracing` has from its start on: their names, which are those of OpenTelemetry
    /// where it defines one, and their values.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, AttributeValue<'a>)> {
        let attributes = self.attributes.iter();
        attributes.filter_map(|(name, value)| Some((*name, (*value)?)))
    }
}

/// The value of an attribute of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeValue<'a> {
    /// A text that is a part of the program.
    Static(&'static str),
    /// Another text, without control characters.
    Text(&'a str),
    /// A number.
    Int(i64),
}

impl<'a> From<&'a Cow<'static, str>> for AttributeValue<'a> {
    fn from(text: &'a Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => Self::Static(text),
            Cow::Owned(text) => Self::Text(text),
        }
    }
}

/// The end of a span.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SpanEnd<'a> {
    /// The outcome. [`Status`](HandlerOutcome::Status) has the code of the error, for errors without a status the
    /// [equivalent one](Error::grpc_code). [`Cancelled`](HandlerOutcome::Cancelled): the call was dropped.
    pub outcome: HandlerOutcome,
    /// The idempotency key of a call, if it has one: calls get it when they are sent.
    pub message_id: Option<&'a str>,
}

/// Is told what a connection does. Each method has a default that does nothing.
///
/// The methods are called on the tasks of calls, handlers and connections. They must not block, and what they do is
/// a part of the time of each call.
pub trait Observe: Send + Sync + 'static {
    /// A call has ended, with or without a reply. A call that a client's layers answer counts as well; a call of an
    /// implementation in this process ([`Client::local`](crate::rpc::Client::local)) does not.
    fn call(&self, _call: &Called<'_>) {}

    /// A message with this many calls was sent to a service: more than one if they
    /// [share a message](crate::rpc::ClientBuilder::coalesce).
    fn calls_sent(&self, _service: &str, _calls: usize) {}

    /// A request, job or event was delivered, and is handled or refused next. [`served`](Self::served) or
    /// [`job`](Self::job) follows once for each, in any case. Requests that had expired when they came are not told.
    fn starting(&self, _starting: &Starting<'_>) {}

    /// A request has ended, or was refused.
    fn served(&self, _request: &Handled<'_>) {}

    /// The handler of a job or an event has ended.
    fn job(&self, _job: &Handled<'_>) {}

    /// A job or an event was published for another attempt, or as a dead letter.
    fn moved(&self, _job: &Moved<'_>) {}

    /// A push of a job or a publish of an event has ended. Retries and dead letters do not count.
    fn published(&self, _message: &Published<'_>) {}

    /// The state of an AMQP connection has changed.
    fn connection(&self, _fact: &ConnectionFact<'_>) {}
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Called<'a> {
    /// The name of the service.
    pub service: &'a str,
    /// The name of the method.
    pub method: &'a str,
    /// The queue that the request was sent to, by its name on the broker.
    pub queue: &'a str,
    /// The outcome. [`Status`](HandlerOutcome::Status) has the code of the error, for errors without a status the
    /// [equivalent one](Error::grpc_code). [`Cancelled`](HandlerOutcome::Cancelled): the call was dropped.
    pub outcome: HandlerOutcome,
    /// The time from the start of the call to its end.
    pub duration: Duration,
}

/// A request, job or event that was delivered, and is handled or refused next.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Starting<'a> {
    /// Requests, jobs or events.
    pub kind: HandlerKind,
    /// The name of the service, queue or exchange, as in
    /// [`MethodStats::service`](crate::amqp::MethodStats::service).
    pub service: &'a str,
    /// The name of the method or task, as in [`MethodStats::method`](crate::amqp::MethodStats::method).
    pub method: &'a str,
    /// Whether the broker had delivered it before.
    pub redelivered: bool,
    /// The time from the sending of the message to its delivery, if that is
    /// [known](crate::amqp::MethodStats::queue_wait).
    pub queue_wait: Option<Duration>,
}

/// A request, job or event whose handler has ended, or that was refused.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Handled<'a> {
    /// Requests, jobs or events.
    pub kind: HandlerKind,
    /// The name of the service, queue or exchange, as in
    /// [`MethodStats::service`](crate::amqp::MethodStats::service).
    pub service: &'a str,
    /// The name of the method or task, as in [`MethodStats::method`](crate::amqp::MethodStats::method).
    pub method: &'a str,
    /// The outcome.
    pub outcome: HandlerOutcome,
    /// The time from the delivery, or from the start of the handler if that was later, to the end of the handler
    /// or to the refusal.
    pub duration: Duration,
}

/// A job or an event of a group that was published to another queue.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Moved<'a> {
    /// Jobs or events.
    pub kind: HandlerKind,
    /// The name of the queue, without the namespace.
    pub queue: &'a str,
    /// Whether it is a dead letter; otherwise it is tried again.
    pub is_dead: bool,
}

/// A job or an event that was published.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Published<'a> {
    /// Jobs or events.
    pub kind: HandlerKind,
    /// The name of the work queue or the exchange, without the namespace.
    pub destination: &'a str,
    /// The outcome. [`Status`](HandlerOutcome::Status) has the [equivalent code](Error::grpc_code) of the error.
    pub outcome: HandlerOutcome,
    /// The time from the start of the publish to its end.
    pub duration: Duration,
}

/// A change of the state of one of the two AMQP connections of a [`Connection`](crate::Connection).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ConnectionFact<'a> {
    /// It was connected.
    #[non_exhaustive]
    Connected {
        /// `publishing` or `consuming`.
        role: &'a str,
        /// Whether it was connected before.
        is_again: bool,
        /// The host of the broker, as it is in the URI.
        host: &'a str,
        /// The port of the broker.
        port: u16,
    },
    /// It was lost.
    #[non_exhaustive]
    Lost {
        /// `publishing` or `consuming`.
        role: &'a str,
        /// The reason.
        error: &'a Error,
    },
    /// The broker takes no messages, or takes them again (`connection.blocked`, `connection.unblocked`).
    #[non_exhaustive]
    Blocked {
        /// `publishing` or `consuming`.
        role: &'a str,
        /// Whether it is blocked.
        is_blocked: bool,
    },
}

/// The hooks of a connection, which its users share.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) propagate: Option<Arc<dyn Propagate>>,
    pub(crate) observe: Option<Arc<dyn Observe>>,
}

impl Hooks {
    /// Writes the trace of a span that starts into the headers of its message.
    pub(crate) fn inject(
        &self,
        start: &SpanStart<'_>,
        trace: &mut TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>> {
        self.propagate.as_ref()?.inject(start, trace)
    }

    /// Makes the trace of a message the parent of the span of its handler, which starts.
    pub(crate) fn extract(
        &self,
        start: &SpanStart<'_>,
        trace: &TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>> {
        self.propagate.as_ref()?.extract(start, trace)
    }

    pub(crate) fn connection(&self, fact: &ConnectionFact<'_>) {
        if let Some(observe) = &self.observe {
            observe.connection(fact);
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("propagate", &self.propagate.is_some())
            .field("observe", &self.observe.is_some())
            .finish()
    }
}

/// The outcome of a push or a publish.
pub(crate) fn publish_outcome(result: &Result<(), Error>) -> HandlerOutcome {
    match result {
        Ok(()) => HandlerOutcome::Ok,
        Err(error) => HandlerOutcome::Status(error.grpc_code()),
    }
}
