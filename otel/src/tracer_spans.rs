//! Spans of messages that are made with a tracer of OpenTelemetry, without `tracing`.

use std::borrow::Cow;
use std::sync::Arc;

use lepus::observe::{Propagate, SpanKind, SpanStart, TelemetrySpan, TraceHeaders};
use opentelemetry::trace::{self, SpanBuilder, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};

use crate::message_span::{
    ADDRESS_ATTRIBUTES, MessageSpan, OUTCOME_ATTRIBUTES, put_address, value,
};
use crate::peer::Peer;
use crate::traceparent::{read, write};

/// A tracer whose type is not told.
pub(crate) trait StartSpan: Send + Sync + 'static {
    /// Starts a span, and returns its context, which has the rest of its parent's.
    fn start(&self, span: SpanBuilder, parent: &Context) -> Context;
}

impl<T> StartSpan for T
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    fn start(&self, span: SpanBuilder, parent: &Context) -> Context {
        parent.with_span(self.build_with_context(span, parent))
    }
}

/// The hook that makes spans with a tracer.
pub(crate) struct TracerSpans {
    pub(crate) tracer: Arc<dyn StartSpan>,
    pub(crate) peer: Arc<Peer>,
}

impl TracerSpans {
    fn builder(&self, start: &SpanStart<'_>) -> SpanBuilder {
        let (kind, is_call) = match start.kind {
            SpanKind::Client => (trace::SpanKind::Client, true),
            SpanKind::Server => (trace::SpanKind::Server, false),
            SpanKind::Producer => (trace::SpanKind::Producer, false),
            SpanKind::Consumer => (trace::SpanKind::Consumer, false),
            _ => (trace::SpanKind::Internal, false),
        };
        let own = start.attributes();
        let further = OUTCOME_ATTRIBUTES + if is_call { ADDRESS_ATTRIBUTES } else { 0 };
        let mut attributes = Vec::with_capacity(own.size_hint().1.unwrap_or(0) + further);
        for (name, it) in own {
            attributes.push(KeyValue::new(name, value(it)));
        }
        if is_call {
            put_address(&mut attributes, start, &self.peer);
        }
        SpanBuilder::from_name(Cow::clone(start.name))
            .with_kind(kind)
            .with_attributes(attributes)
    }
}

impl Propagate for TracerSpans {
    fn inject(
        &self,
        start: &SpanStart<'_>,
        trace: &mut TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>> {
        let span = self.builder(start);
        let current = Context::current();
        // In a task of its own, a handler may have its context of Lepus, and none of OpenTelemetry.
        let remote = if current.has_active_span() {
            None
        } else {
            read(trace).map(|remote| current.with_remote_span_context(remote))
        };
        let context = self.tracer.start(span, remote.as_ref().unwrap_or(&current));
        write(context.span().span_context(), trace);
        Some(Box::new(MessageSpan::own(context, start.kind)))
    }

    fn extract(
        &self,
        start: &SpanStart<'_>,
        trace: &TraceHeaders,
    ) -> Option<Box<dyn TelemetrySpan>> {
        let span = self.builder(start);
        let parent = match read(trace) {
            Some(remote) => Context::new().with_remote_span_context(remote),
            None => Context::new(),
        };
        let context = self.tracer.start(span, &parent);
        Some(Box::new(MessageSpan::own(context, start.kind)))
    }
}
