//! Traces in the headers of messages, in the format of W3C Trace Context.

use lepus::amqp::{Table, Value};
use lepus::observe::Propagate;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::str::FromStr;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::names::{TRACEPARENT, TRACESTATE};

/// Carries the traces of `tracing-opentelemetry` over messages, as `traceparent` and `tracestate`.
///
/// [`Telemetry::attach`](crate::Telemetry::attach) sets it; by itself it is for programs that want traces and
/// no metrics.
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
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceContext(());

impl TraceContext {
    /// The hook. It has no options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Propagate for TraceContext {
    fn inject(&self, span: &Span, trace: &mut Table) {
        let own = span.context();
        let active = Context::current();
        let contexts = [&own, &active].map(|context| context.span().span_context().clone());
        if let Some(context) = contexts.iter().find(|context| context.is_valid()) {
            write(context, trace);
        }
    }

    fn extract(&self, span: &Span, trace: &Table) {
        let Some(remote) = read(trace) else { return };
        // It fails if the span is disabled or if no layer gives spans to OpenTelemetry: there is no trace to
        // continue then. The span was not entered, so that it is not started yet.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
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
    match read(trace) {
        Some(remote) => context.with_remote_span_context(remote),
        None => context,
    }
}

fn write(context: &SpanContext, trace: &mut Table) {
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    let parent = format!(
        "00-{}-{}-{flags:02x}",
        context.trace_id(),
        context.span_id()
    );
    trace.insert(TRACEPARENT.to_owned(), parent.into());
    let state = context.trace_state().header();
    if state.is_empty() {
        // That of the trace which the span does not belong to.
        trace.remove(TRACESTATE);
    } else {
        trace.insert(TRACESTATE.to_owned(), state.into());
    }
}

/// Reads `traceparent`, of any version: a later one may have further fields at its end (W3C Trace Context, 3.2). `None`
/// if there is none or it is not valid.
fn read(trace: &Table) -> Option<SpanContext> {
    let parent = trace.get(TRACEPARENT).and_then(Value::as_str)?.trim();
    let mut fields = parent.split('-');
    let mut field = |digits: usize| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let field = fields.next()?;
        (field.len() == digits && field.bytes().all(is_hex)).then_some(field)
    };
    let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let is_more = fields.next().is_some();
    if version == "ff" || (version == "00" && is_more) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = trace.get(TRACESTATE).and_then(Value::as_str);
    // A state that is not valid does not make the parent so.
    let state = state.and_then(|state| TraceState::from_str(state).ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace_id).ok()?,
        SpanId::from_hex(span_id).ok()?,
        flags,
        true,
        state.unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn table(headers: &[(&str, &str)]) -> Table {
        let headers = headers.iter();
        headers
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    }

    #[test]
    fn a_trace_is_written_as_it_was_read() {
        let headers = table(&[(TRACEPARENT, PARENT), (TRACESTATE, "hare=1,fox=2")]);
        let context = read(&headers).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        let mut written = table(&[(TRACEPARENT, "other"), ("baggage", "x=y")]);
        write(&context, &mut written);
        assert_eq!(written.remove("baggage"), Some("x=y".into()));
        assert_eq!(written, headers);

        let unsampled = read(&table(&[(TRACEPARENT, &PARENT.replace("-01", "-00"))])).unwrap();
        write(&unsampled, &mut written);
        assert_eq!(
            written,
            table(&[(TRACEPARENT, &PARENT.replace("-01", "-00"))])
        );
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let later = format!("{}-more", PARENT.replacen("00", "cc", 1));
        let context = read(&table(&[(TRACEPARENT, &later)])).unwrap();
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        let with_bad_state = table(&[(TRACEPARENT, PARENT), (TRACESTATE, "\u{7}")]);
        assert!(read(&with_bad_state).is_some());
    }

    #[test]
    fn what_is_no_trace_is_ignored() {
        for wrong in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-more"),
            &PARENT.to_uppercase(),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace('b', "g"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(read(&table(&[(TRACEPARENT, wrong)])).is_none(), "{wrong}");
        }
        assert!(read(&Table::new()).is_none());
        let number = Table::from([(TRACEPARENT.to_owned(), Value::Int(7))]);
        assert!(read(&number).is_none());
        assert!(!remote_context(&number).span().span_context().is_valid());
    }
}
