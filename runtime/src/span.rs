//! Spans (`tracing`) of requests, jobs and events on both sides, and the events of the log at their ends.
//!
//! Fields have OpenTelemetry's names where it defines one. Without a subscriber that takes INFO, there are no spans at
//! all ([`Span::none`]): a span that is only disabled still has its metadata, which cost a moment at each use.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tracing::Span;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;

use crate::escape::printable;
use crate::observe::{AttributeValue, Hooks, SpanEnd, SpanKind, SpanStart, TelemetrySpan};
use crate::stats::HandlerOutcome;
use crate::wire::message::MessageInfo;
use crate::wire::trace_headers::TraceHeaders;

/// Whether a subscriber may take spans at INFO.
fn is_taken() -> bool {
    LevelFilter::current() >= LevelFilter::INFO
}

/// A span at INFO; none if no subscriber takes this level. Its texts are plain `&str`, because a subscriber such as
/// `tracing-opentelemetry` would format any other value.
fn at_info(make: impl FnOnce() -> Span) -> Span {
    if is_taken() { make() } else { Span::none() }
}

/// The span of a message that is sent or handled: that of `tracing`, and that of the telemetry system, if its hook
/// returns one. The default is none.
///
/// It is on the heap, so that the futures that hold it stay small, which mostly have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct MessageSpan(Option<Arc<Inner>>);

struct Inner {
    tracing: Span,
    telemetry: Option<Box<dyn TelemetrySpan>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tracing.fmt(f)
    }
}

/// The span of `tracing` where there is none.
static NO_SPAN: Span = Span::none();

impl MessageSpan {
    /// The span of a call at the client, `call`. Its trace is written into these headers.
    pub(crate) fn call(
        hooks: &Hooks,
        name: impl FnOnce() -> Cow<'static, str>,
        queue: &Arc<str>,
        trace: &mut TraceHeaders,
    ) -> Self {
        if hooks.propagate.is_none() && !is_taken() {
            return Self::default();
        }
        let name = name();
        let span = at_info(|| {
            tracing::info_span!(
                "call",
                otel.name = &*name,
                otel.kind = "client",
                rpc.system.name = "lepus",
                rpc.method = &*name,
                messaging.message.id = Empty,
                outcome = Empty,
            )
        });
        let attributes = [
            ("rpc.system.name", Some(AttributeValue::Static("lepus"))),
            ("rpc.method", Some(AttributeValue::from(&name))),
        ];
        let start = SpanStart {
            span: &span,
            kind: SpanKind::Client,
            name: &name,
            queue: Some(queue),
            attributes: &attributes,
        };
        let telemetry = hooks.inject(&start, trace);
        Self::of(span, telemetry)
    }

    /// The span of a request at the server, `request`.
    pub(crate) fn request(
        hooks: &Hooks,
        name: impl FnOnce() -> Cow<'static, str>,
        message: &MessageInfo,
    ) -> Self {
        if hooks.propagate.is_none() && !is_taken() {
            return Self::default();
        }
        let name = name();
        let message_id = text(message.message_id.as_deref());
        let caller = text(message.app_id.as_deref());
        let span = at_info(|| {
            tracing::info_span!(
                "request",
                otel.name = &*name,
                otel.kind = "server",
                rpc.system.name = "lepus",
                rpc.method = &*name,
                messaging.message.id = message_id.as_deref(),
                caller = caller.as_deref(),
                outcome = Empty,
            )
        });
        let attributes = [
            ("rpc.system.name", Some(AttributeValue::Static("lepus"))),
            ("rpc.method", Some(AttributeValue::from(&name))),
            ("messaging.message.id", optional(&message_id)),
            ("caller", optional(&caller)),
        ];
        let start = SpanStart {
            span: &span,
            kind: SpanKind::Server,
            name: &name,
            queue: None,
            attributes: &attributes,
        };
        let telemetry = hooks.extract(&start, &message.trace);
        Self::of(span, telemetry)
    }

    /// The span of a push of a job or a publish of an event, `publish`. Its trace is written into these headers.
    /// `target` is the work queue or the exchange; of a job, `exchange` is empty.
    pub(crate) fn publish(
        hooks: &Hooks,
        target: &str,
        (exchange, key): (&str, &str),
        message_id: Option<&str>,
        trace: &mut TraceHeaders,
    ) -> Self {
        if hooks.propagate.is_none() && !is_taken() {
            return Self::default();
        }
        let destination = destination(match exchange {
            "" => ["", "", target],
            exchange => [exchange, key, ""],
        });
        let name = Cow::Owned(joined("publish", " ", target));
        let (key, message_id) = (printable(key), text(message_id));
        let span = at_info(|| {
            tracing::info_span!(
                "publish",
                otel.name = &*name,
                otel.kind = "producer",
                messaging.system = "rabbitmq",
                messaging.operation.name = "publish",
                "messaging.operation.type" = "send",
                messaging.destination.name = &*destination,
                messaging.rabbitmq.destination.routing_key = &*key,
                messaging.message.id = message_id.as_deref(),
                outcome = Empty,
            )
        });
        let [system, operation, operation_type, destination, key] =
            messaging(("publish", "send"), &destination, &key);
        let attributes = [
            system,
            operation,
            operation_type,
            destination,
            key,
            ("messaging.message.id", optional(&message_id)),
        ];
        let start = SpanStart {
            span: &span,
            kind: SpanKind::Producer,
            name: &name,
            queue: None,
            attributes: &attributes,
        };
        let telemetry = hooks.inject(&start, trace);
        Self::of(span, telemetry)
    }

    /// The span of a job or an event at its handler, `process`. `source` is the queue, or the exchange of a
    /// broadcast subscription, whose queue has a random name. `conversation` is the message's `correlation_id`.
    pub(crate) fn process(
        hooks: &Hooks,
        source: &str,
        message: &MessageInfo,
        delivery_tag: u64,
        conversation: Option<&[u8]>,
    ) -> Self {
        if hooks.propagate.is_none() && !is_taken() {
            return Self::default();
        }
        // Through the default exchange, the routing key is the name of the queue.
        let (exchange, key) = match message.exchange.as_str() {
            "" => ("", ""),
            exchange => (exchange, message.routing_key.as_str()),
        };
        let queue = if source == exchange { "" } else { source };
        let destination = destination([exchange, key, queue]);
        let name = Cow::Owned(joined("process", " ", source));
        let key = printable(&message.routing_key);
        // Numbers have a sign, because `tracing-opentelemetry` takes those without one as texts.
        let delivery_tag = i64::try_from(delivery_tag).unwrap_or(i64::MAX);
        let message_id = text(message.message_id.as_deref());
        let conversation = conversation.map(String::from_utf8_lossy);
        let conversation = text(conversation.as_deref());
        let kind = text(message.kind.as_deref());
        let caller = text(message.app_id.as_deref());
        let attempt = i64::from(message.attempt);
        let span = at_info(|| {
            tracing::info_span!(
                "process",
                otel.name = &*name,
                otel.kind = "consumer",
                messaging.system = "rabbitmq",
                messaging.operation.name = "process",
                "messaging.operation.type" = "process",
                messaging.destination.name = &*destination,
                messaging.rabbitmq.destination.routing_key = &*key,
                messaging.rabbitmq.message.delivery_tag = delivery_tag,
                messaging.message.id = message_id.as_deref(),
                messaging.message.conversation_id = conversation.as_deref(),
                "type" = kind.as_deref(),
                caller = caller.as_deref(),
                attempt,
                outcome = Empty,
            )
        });
        let [system, operation, operation_type, destination, key] =
            messaging(("process", "process"), &destination, &key);
        let attributes = [
            system,
            operation,
            operation_type,
            destination,
            key,
            (
                "messaging.rabbitmq.message.delivery_tag",
                Some(AttributeValue::Int(delivery_tag)),
            ),
            ("messaging.message.id", optional(&message_id)),
            ("messaging.message.conversation_id", optional(&conversation)),
            ("type", optional(&kind)),
            ("caller", optional(&caller)),
            ("attempt", Some(AttributeValue::Int(attempt))),
        ];
        let start = SpanStart {
            span: &span,
            kind: SpanKind::Consumer,
            name: &name,
            queue: None,
            attributes: &attributes,
        };
        let telemetry = hooks.extract(&start, &message.trace);
        Self::of(span, telemetry)
    }

    fn of(tracing: Span, telemetry: Option<Box<dyn TelemetrySpan>>) -> Self {
        if telemetry.is_none() && tracing.is_disabled() {
            return Self::default();
        }
        Self(Some(Arc::new(Inner { tracing, telemetry })))
    }

    /// The span of `tracing`.
    pub(crate) fn tracing(&self) -> &Span {
        self.0.as_ref().map_or(&NO_SPAN, |inner| &inner.tracing)
    }

    /// The span of the telemetry system.
    pub(crate) fn telemetry(&self) -> Option<&dyn TelemetrySpan> {
        self.0.as_ref()?.telemetry.as_deref()
    }

    /// Runs a function inside the span.
    pub(crate) fn in_scope(&self, run: impl FnOnce()) {
        let Some(inner) = &self.0 else {
            return run();
        };
        let Some(telemetry) = &inner.telemetry else {
            return inner.tracing.in_scope(run);
        };
        let mut run = Some(run);
        let mut once = || {
            if let Some(run) = run.take() {
                run();
            }
        };
        inner.tracing.in_scope(|| {
            telemetry.enter(&mut once);
            // A hook may have failed to run it.
            once();
        });
    }

    /// Runs a future inside the span.
    pub(crate) async fn around<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            let mut polled = Poll::Pending;
            self.in_scope(|| polled = future.as_mut().poll(cx));
            polled
        })
        .await
    }

    /// Records the outcome. `Span::record` does work of its own even if the span is disabled.
    pub(crate) fn record_outcome(&self, outcome: &str) {
        let span = self.tracing();
        if !span.is_disabled() {
            span.record("outcome", outcome);
        }
    }

    /// Records the `message_id` of a call.
    pub(crate) fn record_message_id(&self, message_id: &str) {
        let span = self.tracing();
        if !span.is_disabled() {
            span.record("messaging.message.id", message_id);
        }
    }

    /// Tells the span of the telemetry system of the end.
    pub(crate) fn ended(&self, outcome: HandlerOutcome, message_id: Option<&str>) {
        if let Some(telemetry) = self.telemetry() {
            telemetry.ended(&SpanEnd {
                outcome,
                message_id,
            });
        }
    }

    /// Records the outcome of a push or a publish, and logs its end.
    pub(crate) fn published(&self, outcome: HandlerOutcome) {
        self.ended(outcome, None);
        let outcome = outcome.as_str();
        self.record_outcome(outcome);
        tracing::debug!(parent: self.tracing(), outcome, "message published");
    }
}

/// A destination as the semantic conventions name it for RabbitMQ: exchange, routing key and queue, separated by `:`.
/// Parts that are empty are left out, and a part that is the same as the one before it.
fn destination(parts: [&str; 3]) -> String {
    let (mut name, mut before) = (String::new(), "");
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if part == before {
            continue;
        }
        if !before.is_empty() {
            name.push(':');
        }
        name.push_str(&printable(part));
        before = part;
    }
    name
}

/// Two texts with a separator between them.
fn joined(first: &str, separator: &str, second: &str) -> String {
    let (first, second) = (printable(first), printable(second));
    [&*first, separator, &*second].concat()
}

/// The attributes that the spans of pushes, publishes and their handlers have in common.
fn messaging<'a>(
    (operation, operation_type): (&'static str, &'static str),
    destination: &'a str,
    routing_key: &'a str,
) -> [(&'static str, Option<AttributeValue<'a>>); 5] {
    [
        ("messaging.system", AttributeValue::Static("rabbitmq")),
        (
            "messaging.operation.name",
            AttributeValue::Static(operation),
        ),
        (
            "messaging.operation.type",
            AttributeValue::Static(operation_type),
        ),
        (
            "messaging.destination.name",
            AttributeValue::Text(destination),
        ),
        (
            "messaging.rabbitmq.destination.routing_key",
            AttributeValue::Text(routing_key),
        ),
    ]
    .map(|(name, value)| (name, Some(value)))
}

/// An optional text as an attribute.
fn optional<'a>(text: &'a Option<Cow<'_, str>>) -> Option<AttributeValue<'a>> {
    text.as_deref().map(AttributeValue::Text)
}

/// An optional text, which is left out if there is none.
fn text(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_the_parts_that_there_are() {
        assert_eq!(destination(["", "", "resize"]), "resize");
        assert_eq!(destination(["logs", "kern.info", ""]), "logs:kern.info");
        assert_eq!(
            destination(["logs", "kern.info", "audit"]),
            "logs:kern.info:audit"
        );
        assert_eq!(destination(["logs", "audit", "audit"]), "logs:audit");
        assert_eq!(destination(["a\nb", "", ""]), "a\\nb");
    }

    #[test]
    fn names_are_joined_with_their_control_characters_escaped() {
        assert_eq!(joined("calculator", "/", "divide"), "calculator/divide");
        assert_eq!(joined("process", " ", "a\nb"), "process a\\nb");
    }
}
