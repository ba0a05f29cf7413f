//! Spans (`tracing`) of requests, jobs and events on both sides, and the events of the log at their ends.
//!
//! Fields have OpenTelemetry's names where it defines one. A value is read and formatted only if its span or event
//! is enabled. Without a subscriber that takes INFO, there are no spans at all ([`Span::none`]): a span that is only
//! disabled still has its metadata, which cost a moment at each use.

use std::fmt;

use tracing::Span;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;

use crate::escape::{Escaped, escaped};
use crate::wire::message::MessageInfo;

/// A span at INFO; none if no subscriber takes this level.
macro_rules! span {
    ($($fields:tt)+) => {
        if LevelFilter::current() >= LevelFilter::INFO {
            tracing::info_span!($($fields)+)
        } else {
            Span::none()
        }
    };
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
        Self(span!(
            "request",
            otel.name = %Pair(service, "/", method),
            otel.kind = "server",
            rpc.system.name = "lepus",
            rpc.method = %Pair(service, "/", method),
            messaging.message.id = escaped(message.message_id.as_deref()),
            caller = escaped(message.app_id.as_deref()),
            attempt = message.attempt,
            outcome = Empty,
        ))
    }

    /// The span of a job or an event at its handler, `process`. `source` is the queue, or the exchange of a
    /// broadcast subscription, whose queue has a random name.
    pub(crate) fn process(source: &str, message: &MessageInfo, delivery_tag: u64) -> Self {
        // Through the default exchange, the routing key is the name of the queue.
        let (exchange, key) = match message.exchange.as_str() {
            "" => ("", ""),
            exchange => (exchange, message.routing_key.as_str()),
        };
        let queue = if source == exchange { "" } else { source };
        // `tracing-opentelemetry` takes numbers without a sign as texts.
        let delivery_tag = i64::try_from(delivery_tag).unwrap_or(i64::MAX);
        Self(span!(
            "process",
            otel.name = %Pair("process", " ", source),
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.operation.name = "process",
            "messaging.operation.type" = "process",
            messaging.destination.name = %DestinationName([exchange, key, queue]),
            messaging.rabbitmq.destination.routing_key = %Escaped(&message.routing_key),
            messaging.rabbitmq.message.delivery_tag = delivery_tag,
            messaging.message.id = escaped(message.message_id.as_deref()),
            "type" = escaped(message.kind.as_deref()),
            caller = escaped(message.app_id.as_deref()),
            attempt = message.attempt,
            outcome = Empty,
        ))
    }

    /// The span, if it is enabled.
    pub(crate) fn enabled(&self) -> Option<Span> {
        (!self.0.is_disabled()).then(|| self.0.clone())
    }

    pub(crate) fn span(&self) -> &Span {
        &self.0
    }
}

/// The span of a call at the client, `call`.
pub(crate) fn call(service: &str, method: &str) -> Span {
    span!(
        "call",
        otel.name = %Pair(service, "/", method),
        otel.kind = "client",
        rpc.system.name = "lepus",
        rpc.method = %Pair(service, "/", method),
        messaging.message.id = Empty,
        outcome = Empty,
    )
}

/// The span of a push of a job or a publish of an event, `publish`. `target` is the work queue or the exchange; of a
/// job, `exchange` is empty.
pub(crate) fn publish(target: &str, exchange: &str, key: &str, message_id: Option<&str>) -> Span {
    let destination = match exchange {
        "" => DestinationName(["", "", target]),
        exchange => DestinationName([exchange, key, ""]),
    };
    span!(
        "publish",
        otel.name = %Pair("publish", " ", target),
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.operation.name = "publish",
        "messaging.operation.type" = "send",
        messaging.destination.name = %destination,
        messaging.rabbitmq.destination.routing_key = %Escaped(key),
        messaging.message.id = escaped(message_id),
        outcome = Empty,
    )
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
struct DestinationName<'a>([&'a str; 3]);

impl fmt::Display for DestinationName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for part in self.0.into_iter().filter(|part| !part.is_empty()) {
            if part == before {
                continue;
            }
            if !before.is_empty() {
                f.write_str(":")?;
            }
            write!(f, "{}", Escaped(part))?;
            before = part;
        }
        Ok(())
    }
}

/// Two texts with a separator between them.
struct Pair<'a>(&'a str, &'a str, &'a str);

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(first, separator, second) = *self;
        write!(f, "{}{separator}{}", Escaped(first), Escaped(second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_the_parts_that_there_are() {
        let name = |parts| DestinationName(parts).to_string();
        assert_eq!(name(["", "", "resize"]), "resize");
        assert_eq!(name(["logs", "kern.info", ""]), "logs:kern.info");
        assert_eq!(name(["logs", "kern.info", "audit"]), "logs:kern.info:audit");
        assert_eq!(name(["logs", "audit", "audit"]), "logs:audit");
    }
}
