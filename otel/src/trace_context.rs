//! Spans of messages by `tracing-opentelemetry`, whose traces travel with the messages.

use std::sync::Arc;

use lepus::amqp::Table;
use lepus::observe::{Propagate, SpanKind, SpanStart, TelemetrySpan, TraceHeaders};
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::message_span::{ADDRESS_ATTRIBUTES, MessageSpan, put_address};
use crate::peer::Peer;
use crate::traceparent::{read, write};

/// Carries the traces of `tracing-opentelemetry` over messages, as `traceparent` and `tracestate`, and sets the
/// attributes and the status of its spans that `tracing` does not know.
///
/// [`Telemetry::attach`](crate::Telemetry::attach) sets it; by itself it is for programs that want traces and
/// no metrics, and whose spans need no address of the broker.
///
/// If the span of a call is disabled, or no layer gives spans to OpenTelemetry, the current
/// [context of OpenTelemetry](Context::current) is used if it has a span; otherwise the trace of the context of Lepus
/// passes unchanged. `baggage` passes unchanged in any case.
///
/// ```
/// use lepus::Connection;
///
/// let builder = Connection::builder("amqp://localhost").propagate_traces(lepus_otel::TraceContext::new());
/// # let _ = builder;
/// ```
#[derive(Clone, Debug, Default)]
pub struct TraceContext {
    peer: Arc<Peer>,
}

impl TraceContext {
    /// The hook. It has no options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The hook of a connection to this broker.
    pub(crate) fn with_peer(peer: Arc<Peer>) -> Self {
        Self { peer }
    }
}

impl Propagate for TraceContext {
    fn inject(
        &self,
        start: &SpanStart<'_>,
        trace: &mut TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>> {
        let own = start.span.context();
        if !write(own.span().span_context(), trace) {
            Context::map_current(|active| write(active.span().span_context(), trace));
            return None;
        }
        if start.kind == SpanKind::Client {
            let mut attributes = Vec::with_capacity(ADDRESS_ATTRIBUTES);
            put_address(&mut attributes, start, &self.peer);
            own.span().set_attributes(attributes);
        }
        Some(Box::new(MessageSpan::of_tracing(own, start.kind)))
    }

    fn extract(
        &self,
        start: &SpanStart<'_>,
        trace: &TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>> {
        if let Some(remote) = read(trace) {
            // It fails if the span is disabled or if no layer gives spans to OpenTelemetry: there is no trace to
            // continue then. The span was not entered, so that it is not started yet.
            let parent = Context::new().with_remote_span_context(remote);
            start.span.set_parent(parent).ok()?;
        }
        let own = start.span.context();
        let is_taken = own.span().span_context().is_valid();
        is_taken.then(|| Box::new(MessageSpan::of_tracing(own, start.kind)) as _)
    }
}

/// The OpenTelemetry context of the trace headers of a message, to be the parent or a link of a span of your own: for
/// events that are read from a stream. Without a trace, it is an empty context.
///
/// ```
/// use lepus::Event;
/// use tracing_opentelemetry::OpenTelemetrySpanExt;
///
/// fn handle(event: &Event<String>) -> Result<(), tracing_opentelemetry::SetParentError> {
///     let span = tracing::info_span!("reprice", key = event.key());
///     span.set_parent(lepus_otel::remote_context(event.trace()))?;
///     let _entered = span.entered();
///     // …
///     Ok(())
/// }
/// # let _ = handle;
/// ```
#[must_use]
pub fn remote_context(trace: &Table) -> Context {
    let context = Context::new();
    match read(&trace.clone().into()) {
        Some(remote) => context.with_remote_span_context(remote),
        None => context,
    }
}
