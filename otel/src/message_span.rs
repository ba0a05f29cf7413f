//! The span of OpenTelemetry for a message, from its start to its end.

use std::iter;

use lepus::observe::{AttributeValue, SpanEnd, SpanKind, SpanStart, TelemetrySpan};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, StringValue, Value};

use crate::names;
use crate::outcome::{error_type, is_error_of_server, status_code};
use crate::peer::Peer;

/// A span that was started.
pub(crate) struct MessageSpan {
    /// Has the span.
    context: Context,
    kind: SpanKind,
    /// Whether `tracing-opentelemetry` has made the span. It ends it and makes it current, and `tracing` has set the
    /// attributes that `tracing` knows.
    is_of_tracing: bool,
}

impl MessageSpan {
    /// The span that `tracing-opentelemetry` has made of one of `tracing`, by its context.
    pub(crate) fn of_tracing(context: Context, kind: SpanKind) -> Self {
        Self {
            context,
            kind,
            is_of_tracing: true,
        }
    }

    /// A span that was made for the message, by its context. It ends with the message.
    pub(crate) fn own(context: Context, kind: SpanKind) -> Self {
        Self {
            context,
            kind,
            is_of_tracing: false,
        }
    }

    /// The attributes of the outcome, and the description of the status if that is an error.
    fn outcome(&self, end: &SpanEnd<'_>) -> ([Option<KeyValue>; 2], Option<&'static str>) {
        let outcome = end.outcome;
        let is_error = match self.kind {
            SpanKind::Client => outcome.is_failure(),
            SpanKind::Server => is_error_of_server(outcome),
            _ => {
                let error = error_type(outcome);
                let attribute = error.map(|error| KeyValue::new(names::ERROR_TYPE, error));
                return ([attribute, None], error);
            }
        };
        let status = status_code(outcome);
        let code = KeyValue::new(names::RPC_RESPONSE_STATUS_CODE, status);
        let is_ok = outcome == lepus::observe::HandlerOutcome::Ok;
        let error = (!is_ok).then(|| KeyValue::new(names::ERROR_TYPE, status));
        ([Some(code), error], is_error.then_some(status))
    }
}

impl TelemetrySpan for MessageSpan {
    fn enter(&self, run: &mut dyn FnMut()) {
        // The layer of `tracing-opentelemetry` has made its span current already, as far as it is set up to do so.
        let _current = (!self.is_of_tracing).then(|| self.context.clone().attach());
        run();
    }

    fn ended(&self, end: &SpanEnd<'_>) {
        let span = self.context.span();
        let (attributes, error) = self.outcome(end);
        let attributes = attributes.into_iter().flatten();
        if self.is_of_tracing {
            span.set_attributes(attributes);
        } else {
            let outcome = KeyValue::new(names::OUTCOME, end.outcome.as_str());
            let id = end
                .message_id
                .map(|id| KeyValue::new(names::MESSAGING_MESSAGE_ID, id.to_owned()));
            span.set_attributes(attributes.chain([outcome]).chain(id));
        }
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        if !self.is_of_tracing {
            span.end();
        }
    }
}

/// The attributes of a call that `tracing` does not know: the queue, and the address of the broker.
pub(crate) fn address(
    start: &SpanStart<'_>,
    peer: &Peer,
) -> impl Iterator<Item = KeyValue> + use<> {
    let queue = start
        .queue
        .map(|queue| KeyValue::new(names::SERVER_ADDRESS, StringValue::from(queue.clone())));
    let peer = peer.attributes();
    iter::empty().chain(queue).chain(peer.into_iter().flatten())
}

/// The value of an attribute that a span has from its start on.
pub(crate) fn value(value: AttributeValue<'_>) -> Value {
    match value {
        AttributeValue::Static(text) => text.into(),
        AttributeValue::Text(text) => text.to_owned().into(),
        AttributeValue::Int(number) => number.into(),
        _ => Value::from(""),
    }
}
