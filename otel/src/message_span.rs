//! The span of OpenTelemetry for a message, from its start to its end.

use std::sync::Arc;

use lepus::observe::{AttributeValue, HandlerOutcome, SpanEnd, SpanKind, SpanStart, TelemetrySpan};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, StringValue, Value};

use crate::names;
use crate::outcome::{error_type, is_error_of_server, status_code};
use crate::peer::Peer;

/// The number of attributes of an address.
pub(crate) const ADDRESS_ATTRIBUTES: usize = 3;
/// The number of attributes that a span gets at its end, unless it failed.
pub(crate) const OUTCOME_ATTRIBUTES: usize = 2;

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

    fn status(&self, outcome: HandlerOutcome) -> SpanStatus {
        let is_error = match self.kind {
            SpanKind::Client => outcome.is_failure(),
            SpanKind::Server => is_error_of_server(outcome),
            _ => {
                let error = error_type(outcome);
                return SpanStatus {
                    code: None,
                    error_type: error,
                    error,
                };
            }
        };
        let code = status_code(outcome);
        SpanStatus {
            code: Some(code),
            error_type: (outcome != HandlerOutcome::Ok).then_some(code),
            error: is_error.then_some(code),
        }
    }
}

/// An outcome as OpenTelemetry has it.
struct SpanStatus {
    /// Of calls and requests.
    code: Option<&'static str>,
    error_type: Option<&'static str>,
    /// The description of the status, if that is an error.
    error: Option<&'static str>,
}

impl TelemetrySpan for MessageSpan {
    fn enter(&self, run: &mut dyn FnMut()) {
        // The layer of `tracing-opentelemetry` has made its span current already, as far as it is set up to do so.
        let _current = (!self.is_of_tracing).then(|| self.context.clone().attach());
        run();
    }

    fn ended(&self, end: &SpanEnd<'_>) {
        let span = self.context.span();
        let status = self.status(end.outcome);
        let code = status.code;
        let code = code.map(|code| KeyValue::new(names::RPC_RESPONSE_STATUS_CODE, code));
        let outcome = KeyValue::new(names::OUTCOME, end.outcome.as_str());
        // Each access takes a lock, and nearly all spans of a kind get the same attributes.
        match code {
            Some(code) if self.is_of_tracing => span.set_attribute(code),
            Some(code) => span.set_attributes([code, outcome]),
            None if self.is_of_tracing => {}
            None => span.set_attribute(outcome),
        }
        if let Some(error) = status.error_type {
            span.set_attribute(KeyValue::new(names::ERROR_TYPE, error));
        }
        if let Some(error) = status.error {
            span.set_status(Status::error(error));
        }
        if self.is_of_tracing {
            return;
        }
        if let Some(id) = end.message_id {
            span.set_attribute(KeyValue::new(names::MESSAGING_MESSAGE_ID, id.to_owned()));
        }
        span.end();
    }
}

/// Appends the attributes of a call that `tracing` does not know: the queue, and the address of the broker.
pub(crate) fn put_address(attributes: &mut Vec<KeyValue>, start: &SpanStart<'_>, peer: &Peer) {
    if let Some(queue) = start.queue {
        let queue = StringValue::from(Arc::clone(queue));
        attributes.push(KeyValue::new(names::SERVER_ADDRESS, queue));
    }
    peer.put_attributes(attributes);
}

/// The value of an attribute that a span has from its start on.
pub(crate) fn value(value: AttributeValue<'_>) -> Value {
    match value {
        AttributeValue::Static(text) => text.into(),
        AttributeValue::Text(text) => text.to_owned().into(),
        AttributeValue::Int(number) => number.into(),
        // A kind of a later version of Lepus, which this crate is released with.
        _ => Value::from(""),
    }
}
