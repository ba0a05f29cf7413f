//! Spans (`tracing`) of requests, jobs and events on both sides, and the events of the log at their ends.
//!
//! Fields have OpenTelemetry's names where it defines one. Without a subscriber that takes INFO, there are no spans at all ([`Span::none`]): a span that is only
//! disabled still has its metadata, which cost a moment at each use.

use std::borrow::Cow;

use tracing::Span;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;

use crate::escape::printable;
use crate::wire::message::MessageInfo;

/// A span at INFO; none if no subscriber takes this level. Its texts are plain `&str`, because a subscriber such as
/// `tracing-opentelemetry` would format any other value.
fn at_info(make: impl FnOnce() -> Span) -> Span {
    if LevelFilter::current() >= LevelFilter::INFO {
        make()
    } else {
        Span::none()
    }
}

/// The span of a handler. The default is none.
#[derive(Clone, Debug)]
pub(crate) struct HandlerSpan(Span);

impl Default for HandlerSpan {
    fn default() -> Self {
        Self(Span::none())
    }
}

impl HandlerSpan {
    /// The span of a request at the server, `request`.
    pub(crate) fn request(service: &str, method: &str, message: &MessageInfo) -> Self {
        Self(at_info(|| {
            let name = joined(service, "/", method);
            tracing::info_span!(
                "request",
                otel.name = name,
                otel.kind = "server",
                rpc.system.name = "lepus",
                rpc.method = name,
                messaging.message.id = text(message.message_id.as_deref()).as_deref(),
                caller = text(message.app_id.as_deref()).as_deref(),
                outcome = Empty,
            )
        }))
    }

    /// The span of a job or an event at its handler, `process`. `source` is the queue, or the exchange of a
    /// broadcast subscription, whose queue has a random name. `conversation` is the message's `correlation_id`.
    pub(crate) fn process(
        source: &str,
        message: &MessageInfo,
        delivery_tag: u64,
        conversation: Option<&[u8]>,
    ) -> Self {
        Self(at_info(|| {
            // Through the default exchange, the routing key is the name of the queue.
            let (exchange, key) = match message.exchange.as_str() {
                "" => ("", ""),
                exchange => (exchange, message.routing_key.as_str()),
            };
            let queue = if source == exchange { "" } else { source };
            let conversation = conversation.map(String::from_utf8_lossy);
            tracing::info_span!(
                "process",
                otel.name = joined("process", " ", source),
                otel.kind = "consumer",
                messaging.system = "rabbitmq",
                messaging.operation.name = "process",
                "messaging.operation.type" = "process",
                messaging.destination.name = destination([exchange, key, queue]),
                messaging.rabbitmq.destination.routing_key = &*printable(&message.routing_key),
                // Numbers have a sign, because `tracing-opentelemetry` takes those without one as texts.
                messaging.rabbitmq.message.delivery_tag =
                    i64::try_from(delivery_tag).unwrap_or(i64::MAX),
                messaging.message.id = text(message.message_id.as_deref()).as_deref(),
                messaging.message.conversation_id = text(conversation.as_deref()).as_deref(),
                "type" = text(message.kind.as_deref()).as_deref(),
                caller = text(message.app_id.as_deref()).as_deref(),
                attempt = i64::from(message.attempt),
                outcome = Empty,
            )
        }))
    }

    pub(crate) fn span(&self) -> &Span {
        &self.0
    }
}

/// The span of a call at the client, `call`.
pub(crate) fn call(service: &str, method: &str) -> Span {
    at_info(|| {
        let name = joined(service, "/", method);
        tracing::info_span!(
            "call",
            otel.name = name,
            otel.kind = "client",
            rpc.system.name = "lepus",
            rpc.method = name,
            messaging.message.id = Empty,
            outcome = Empty,
        )
    })
}

/// The span of a push of a job or a publish of an event, `publish`. `target` is the work queue or the exchange; of a
/// job, `exchange` is empty.
pub(crate) fn publish(target: &str, exchange: &str, key: &str, message_id: Option<&str>) -> Span {
    at_info(|| {
        let parts = match exchange {
            "" => ["", "", target],
            exchange => [exchange, key, ""],
        };
        tracing::info_span!(
            "publish",
            otel.name = joined("publish", " ", target),
            otel.kind = "producer",
            messaging.system = "rabbitmq",
            messaging.operation.name = "publish",
            "messaging.operation.type" = "send",
            messaging.destination.name = destination(parts),
            messaging.rabbitmq.destination.routing_key = &*printable(key),
            messaging.message.id = text(message_id).as_deref(),
            outcome = Empty,
        )
    })
}

/// Records the outcome in a span. `Span::record` does work of its own even if the span is disabled.
pub(crate) fn record_outcome(span: &Span, outcome: &str) {
    if !span.is_disabled() {
        span.record("outcome", outcome);
    }
}

/// Records the `message_id` of a call in its span.
pub(crate) fn record_message_id(span: &Span, message_id: &str) {
    if !span.is_disabled() {
        span.record("messaging.message.id", message_id);
    }
}

/// Records the outcome of a publish in its span, and logs its end.
pub(crate) fn published(span: &Span, outcome: &'static str) {
    record_outcome(span, outcome);
    tracing::debug!(parent: span, outcome, "message published");
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
