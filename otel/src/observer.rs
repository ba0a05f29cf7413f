//! The observer of a connection: attributes of spans, and measurements.

use std::iter;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lepus::Code;
use lepus::observe::{
    Called, ConnectionFact, Handled, HandlerKind, HandlerOutcome, Moved, Observe, Published,
    Starting,
};
use opentelemetry::KeyValue;
use opentelemetry::trace::{Status, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::names::{self, Metric};
use crate::sink::{Attribute, Sink};

/// Sets attributes of spans, and gives measurements to the sinks.
pub(crate) struct Observer {
    sinks: Vec<Arc<dyn Sink>>,
    /// Host and port of the broker.
    peer: RwLock<Option<(Arc<str>, u16)>>,
}

impl Observer {
    pub(crate) fn new(sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self {
            sinks,
            peer: RwLock::new(None),
        }
    }

    fn record(&self, metric: &Metric, value: f64, attributes: &[Attribute<'_>]) {
        for sink in &self.sinks {
            sink.record(metric, value, attributes);
        }
    }

    fn record_call(
        &self,
        metric: &Metric,
        (service, method): (&str, &str),
        outcome: HandlerOutcome,
        duration: Duration,
    ) {
        if self.sinks.is_empty() {
            return;
        }
        let (method, status) = (method_name(service, method), status_code(outcome));
        let attributes = [
            (names::RPC_SYSTEM_NAME, "lepus"),
            (names::RPC_METHOD, &*method),
            (names::RPC_RESPONSE_STATUS_CODE, status),
            (names::ERROR_TYPE, status),
        ];
        let count = attributes.len() - usize::from(outcome == HandlerOutcome::Ok);
        self.record(metric, duration.as_secs_f64(), &attributes[..count]);
    }
}

impl Observe for Observer {
    fn call(&self, call: &Called<'_>) {
        self.record_call(
            &names::CLIENT_CALL_DURATION,
            (call.service, call.method),
            call.outcome,
            call.duration,
        );
        if call.span.is_disabled() {
            return;
        }
        let peer = self.peer.read().unwrap_or_else(PoisonError::into_inner);
        let peer = peer.clone().map(|(host, port)| {
            [
                KeyValue::new(names::NETWORK_PEER_ADDRESS, host),
                KeyValue::new(names::NETWORK_PEER_PORT, i64::from(port)),
            ]
        });
        let server = KeyValue::new(names::SERVER_ADDRESS, call.queue.to_owned());
        let attributes = iter::once(server).chain(peer.into_iter().flatten());
        let is_error = call.outcome.is_failure();
        set_rpc_status(call.span, attributes, call.outcome, is_error);
    }

    fn calls_sent(&self, service: &str, calls: usize) {
        // A message has 4096 calls at most.
        let calls = u32::try_from(calls).unwrap_or(u32::MAX);
        let attributes = [(names::LEPUS_HANDLER, service)];
        self.record(&names::CALLS_PER_MESSAGE, calls.into(), &attributes);
    }

    fn starting(&self, starting: &Starting<'_>) {
        if self.sinks.is_empty() {
            return;
        }
        let handler = handler_name(starting.kind, starting.service, starting.method);
        let attributes = handler_attributes(starting.kind, &handler);
        self.record(&names::IN_FLIGHT, 1.0, &attributes);
        if starting.redelivered {
            self.record(&names::REDELIVERED, 1.0, &attributes);
        }
        if let Some(wait) = starting.queue_wait {
            self.record(&names::QUEUE_WAIT, wait.as_secs_f64(), &attributes);
        }
    }

    fn served(&self, request: &Handled<'_>) {
        self.ended(request);
        self.record_call(
            &names::SERVER_CALL_DURATION,
            (request.service, request.method),
            request.outcome,
            request.duration,
        );
        let is_error = is_error_of_server(request.outcome);
        set_rpc_status(request.span, iter::empty(), request.outcome, is_error);
    }

    fn job(&self, job: &Handled<'_>) {
        self.ended(job);
        let error = error_type(job.outcome);
        if !self.sinks.is_empty() {
            let mut attributes = vec![
                (names::MESSAGING_SYSTEM, "rabbitmq"),
                (names::MESSAGING_OPERATION_NAME, "process"),
                (names::MESSAGING_OPERATION_TYPE, "process"),
                (names::MESSAGING_DESTINATION_NAME, job.service),
            ];
            if !job.method.is_empty() {
                attributes.push((names::LEPUS_TASK, job.method));
            }
            attributes.extend(error.map(|error| (names::ERROR_TYPE, error)));
            let seconds = job.duration.as_secs_f64();
            self.record(&names::PROCESS_DURATION, seconds, &attributes);
            self.record(&names::CONSUMED_MESSAGES, 1.0, &attributes);
        }
        set_error(job.span, error);
    }

    fn moved(&self, job: &Moved<'_>) {
        let attributes = [
            (names::LEPUS_KIND, kind_name(job.kind)),
            (names::MESSAGING_DESTINATION_NAME, job.queue),
        ];
        let metric = if job.is_dead {
            names::DEAD_LETTERS
        } else {
            names::RETRIES
        };
        self.record(&metric, 1.0, &attributes);
    }

    fn published(&self, message: &Published<'_>) {
        let error = error_type(message.outcome);
        let attributes = [
            (names::MESSAGING_SYSTEM, "rabbitmq"),
            (names::MESSAGING_OPERATION_NAME, "publish"),
            (names::MESSAGING_OPERATION_TYPE, "send"),
            (names::MESSAGING_DESTINATION_NAME, message.destination),
            (names::ERROR_TYPE, error.unwrap_or_default()),
        ];
        let attributes = &attributes[..attributes.len() - usize::from(error.is_none())];
        let seconds = message.duration.as_secs_f64();
        self.record(&names::OPERATION_DURATION, seconds, attributes);
        self.record(&names::SENT_MESSAGES, 1.0, attributes);
        set_error(message.span, error);
    }

    fn connection(&self, fact: &ConnectionFact<'_>) {
        match *fact {
            ConnectionFact::Connected {
                role,
                is_again,
                host,
                port,
                ..
            } => {
                let mut peer = self.peer.write().unwrap_or_else(PoisonError::into_inner);
                *peer = Some((host.into(), port));
                drop(peer);
                if is_again {
                    let attributes = [(names::LEPUS_CONNECTION_ROLE, role)];
                    self.record(&names::RECONNECTS, 1.0, &attributes);
                }
            }
            ConnectionFact::Blocked {
                role, is_blocked, ..
            } => {
                let attributes = [(names::LEPUS_CONNECTION_ROLE, role)];
                let change = if is_blocked { 1.0 } else { -1.0 };
                self.record(&names::BLOCKED, change, &attributes);
            }
            // It is counted when it is connected again.
            _ => {}
        }
    }
}

impl Observer {
    fn ended(&self, handled: &Handled<'_>) {
        if self.sinks.is_empty() {
            return;
        }
        let handler = handler_name(handled.kind, handled.service, handled.method);
        let attributes = handler_attributes(handled.kind, &handler);
        self.record(&names::IN_FLIGHT, -1.0, &attributes);
    }
}

fn method_name(service: &str, method: &str) -> String {
    format!("{service}/{method}")
}

/// The name of a handler: of a request its method, of a job or event its queue or exchange.
fn handler_name(kind: HandlerKind, service: &str, method: &str) -> String {
    match kind {
        HandlerKind::Request => method_name(service, method),
        _ => service.to_owned(),
    }
}

fn handler_attributes(kind: HandlerKind, handler: &str) -> [Attribute<'_>; 2] {
    [
        (names::LEPUS_KIND, kind_name(kind)),
        (names::LEPUS_HANDLER, handler),
    ]
}

fn kind_name(kind: HandlerKind) -> &'static str {
    match kind {
        HandlerKind::Request => "request",
        HandlerKind::Job => "job",
        _ => "event",
    }
}

/// The status as gRPC writes it.
fn status_code(outcome: HandlerOutcome) -> &'static str {
    let code = match outcome {
        HandlerOutcome::Ok => return "OK",
        HandlerOutcome::OwnError => return "APPLICATION",
        HandlerOutcome::Status(code) => code,
        HandlerOutcome::Stopped => Code::DeadlineExceeded,
        HandlerOutcome::Panicked => Code::Internal,
        HandlerOutcome::Cancelled => Code::Cancelled,
        _ => Code::Unknown,
    };
    match code {
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

/// The kind of an error of a job, an event or a publish; `None` if it succeeded.
fn error_type(outcome: HandlerOutcome) -> Option<&'static str> {
    match outcome {
        HandlerOutcome::Ok => None,
        HandlerOutcome::Panicked => Some("panic"),
        other => Some(other.as_str()),
    }
}

/// Whether the status of a server's span is an error: it is not if the client is to blame. That is how the
/// semantic conventions have it for gRPC.
fn is_error_of_server(outcome: HandlerOutcome) -> bool {
    match outcome {
        HandlerOutcome::Stopped | HandlerOutcome::Panicked => true,
        HandlerOutcome::Status(code) => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
        _ => false,
    }
}

fn set_rpc_status(
    span: &Span,
    attributes: impl Iterator<Item = KeyValue>,
    outcome: HandlerOutcome,
    is_error: bool,
) {
    let status = status_code(outcome);
    let is_ok = outcome == HandlerOutcome::Ok;
    let error = (!is_ok).then(|| KeyValue::new(names::ERROR_TYPE, status));
    let code = KeyValue::new(names::RPC_RESPONSE_STATUS_CODE, status);
    set(
        span,
        attributes.chain([code]).chain(error),
        is_error.then_some(status),
    );
}

fn set_error(span: &Span, error: Option<&'static str>) {
    if let Some(error) = error {
        set(span, [KeyValue::new(names::ERROR_TYPE, error)], Some(error));
    }
}

/// Sets attributes of a span and its status. All of them are set by one access, because it takes longer to find the
/// span than to set them.
fn set(span: &Span, attributes: impl IntoIterator<Item = KeyValue>, error: Option<&'static str>) {
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    let span = context.span();
    span.set_attributes(attributes);
    if let Some(error) = error {
        span.set_status(Status::error(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name_of_grpc() {
        for code in [
            Code::Cancelled,
            Code::Unknown,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
            Code::Unauthenticated,
        ] {
            let name = status_code(HandlerOutcome::Status(code));
            assert_eq!(name, code.as_str().to_uppercase());
        }
        assert_eq!(status_code(HandlerOutcome::Panicked), "INTERNAL");
    }
}
