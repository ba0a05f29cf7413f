//! The observer of a connection: measurements, and the address of its broker.

use std::sync::Arc;
use std::time::Duration;

use lepus::observe::{
    Called, ConnectionFact, Handled, HandlerKind, HandlerOutcome, Moved, Observe, Published,
    Starting,
};

use crate::names::{self, Metric};
use crate::outcome::{error_type, status_code};
use crate::peer::Peer;
use crate::sink::{Attribute, Sink};

/// Gives measurements to the sinks.
pub(crate) struct Observer {
    sinks: Vec<Arc<dyn Sink>>,
    peer: Arc<Peer>,
}

impl Observer {
    /// An observer that gives measurements to these sinks, and keeps the address of the broker.
    pub(crate) fn new(sinks: Vec<Arc<dyn Sink>>, peer: Arc<Peer>) -> Self {
        Self { sinks, peer }
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
                self.peer.set(host, port);
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
