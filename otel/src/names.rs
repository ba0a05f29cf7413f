//! The names of attributes and metrics: those of OpenTelemetry's semantic conventions (1.44) where they define one, and
//! of Lepus where they do not.
//!
//! A metric has no name of a queue that is made up at random: reply queues and the queues of broadcast subscriptions
//! appear nowhere, and the destination of an event is its exchange or the queue of its group.
//!
//! In Prometheus, a metric is called as [`Metric::prometheus`] says, and its attributes have `_` in place of `.`.

/// Header of W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// Header of W3C Trace Context.
pub const TRACESTATE: &str = "tracestate";

/// The instrumentation scope of the metrics.
pub const SCOPE: &str = "lepus";

/// `lepus`.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// The service and the method: `calculator/divide`.
pub const RPC_METHOD: &str = "rpc.method";
/// The status in capital letters, as gRPC names it: `OK`, `DEADLINE_EXCEEDED`; `APPLICATION` for the method's own
/// error.
pub const RPC_RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";
/// The kind of an error, in one word. Absent if there was none.
pub const ERROR_TYPE: &str = "error.type";
/// The queue that a request was sent to. Of spans alone.
pub const SERVER_ADDRESS: &str = "server.address";
/// The host of the broker. Of spans alone.
pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
/// The port of the broker. Of spans alone.
pub const NETWORK_PEER_PORT: &str = "network.peer.port";
/// `rabbitmq`.
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// `publish` or `process`.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// `send` or `process`.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// In metrics, the work queue, the exchange, or the queue of a group, without the namespace.
pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// The task of a job, if it has one.
pub const LEPUS_TASK: &str = "lepus.task";
/// The idempotency key of a call, the id of a job or an event. Of spans alone.
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// The outcome in one word of Lepus: `ok`, `deadline_exceeded`. Of spans alone.
pub const OUTCOME: &str = "outcome";
/// `request`, `job` or `event`.
pub const LEPUS_KIND: &str = "lepus.kind";
/// The service and the method, or the destination of a job or event.
pub const LEPUS_HANDLER: &str = "lepus.handler";
/// `publishing` or `consuming`: which of the two AMQP connections of a `Connection` it is.
pub const LEPUS_CONNECTION_ROLE: &str = "lepus.connection.role";

/// The kind of an instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instrument {
    /// Only grows.
    Counter,
    /// Grows and shrinks; a gauge in Prometheus.
    UpDownCounter,
    /// A histogram.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name in OpenTelemetry.
    pub name: &'static str,
    /// The name in Prometheus, without the suffixes of histograms (`_bucket`, `_sum`, `_count`).
    pub prometheus: &'static str,
    /// The kind of its instrument.
    pub instrument: Instrument,
    /// The unit, as UCUM writes it: `s`, `{message}`.
    pub unit: &'static str,
    /// A sentence that says what is measured.
    pub description: &'static str,
    /// The names of its attributes. Some may be absent, as they say.
    pub attributes: &'static [&'static str],
    pub(crate) index: usize,
}

macro_rules! metrics {
    ($($constant:ident: $instrument:ident, $name:literal, $prometheus:literal, $unit:literal, $description:literal, $attributes:expr;)*) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "named as the constants")]
        enum Index { $($constant,)* }

        $(
            #[doc = $description]
            pub const $constant: Metric = Metric {
                name: $name,
                prometheus: $prometheus,
                instrument: Instrument::$instrument,
                unit: $unit,
                description: $description,
                attributes: $attributes,
                index: Index::$constant as usize,
            };
        )*

        /// All metrics.
        pub const METRICS: &[Metric] = &[$($constant,)*];
    };
}

const CALL: &[&str] = &[
    RPC_SYSTEM_NAME,
    RPC_METHOD,
    RPC_RESPONSE_STATUS_CODE,
    ERROR_TYPE,
];
const SENT: &[&str] = &[
    MESSAGING_SYSTEM,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_DESTINATION_NAME,
    ERROR_TYPE,
];
const PROCESSED: &[&str] = &[
    MESSAGING_SYSTEM,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_DESTINATION_NAME,
    LEPUS_TASK,
    ERROR_TYPE,
];
const HANDLER: &[&str] = &[LEPUS_KIND, LEPUS_HANDLER];
const QUEUE: &[&str] = &[LEPUS_KIND, MESSAGING_DESTINATION_NAME];

metrics! {
    CLIENT_CALL_DURATION: Histogram, "rpc.client.call.duration", "rpc_client_call_duration_seconds", "s",
        "The time from the start of a call to its end.", CALL;
    SERVER_CALL_DURATION: Histogram, "rpc.server.call.duration", "rpc_server_call_duration_seconds", "s",
        "The time from the delivery of a request to the end of its handler.", CALL;
    OPERATION_DURATION: Histogram, "messaging.client.operation.duration", "messaging_client_operation_duration_seconds", "s",
        "The time from the start of a push or publish to its confirm.", SENT;
    PROCESS_DURATION: Histogram, "messaging.process.duration", "messaging_process_duration_seconds", "s",
        "The time that a handler of a job or an event takes.", PROCESSED;
    SENT_MESSAGES: Counter, "messaging.client.sent.messages", "messaging_client_sent_messages_total", "{message}",
        "The number of jobs and events that were published.", SENT;
    CONSUMED_MESSAGES: Counter, "messaging.client.consumed.messages", "messaging_client_consumed_messages_total", "{message}",
        "The number of jobs and events that were given to a handler.", PROCESSED;
    QUEUE_WAIT: Histogram, "lepus.queue.wait", "lepus_queue_wait_seconds", "s",
        "The time from the sending of a message to its delivery, where the message tells when it was sent.", HANDLER;
    IN_FLIGHT: UpDownCounter, "lepus.handlers.in_flight", "lepus_handlers_in_flight", "{message}",
        "The number of requests, jobs and events that are being handled.", HANDLER;
    REDELIVERED: Counter, "lepus.redelivered", "lepus_redelivered_total", "{message}",
        "The number of requests, jobs and events that the broker had delivered before.", HANDLER;
    RETRIES: Counter, "lepus.retries", "lepus_retries_total", "{message}",
        "The number of jobs and events that were published for another attempt.", QUEUE;
    DEAD_LETTERS: Counter, "lepus.dead_letters", "lepus_dead_letters_total", "{message}",
        "The number of jobs and events that were dead-lettered.", QUEUE;
    RECONNECTS: Counter, "lepus.connection.reconnects", "lepus_connection_reconnects_total", "{connection}",
        "The number of times that an AMQP connection was opened again.", &[LEPUS_CONNECTION_ROLE];
    BLOCKED: UpDownCounter, "lepus.connection.blocked", "lepus_connection_blocked", "{connection}",
        "The number of AMQP connections that the broker has blocked.", &[LEPUS_CONNECTION_ROLE];
    CALLS_PER_MESSAGE: Histogram, "lepus.client.calls_per_message", "lepus_client_calls_per_message", "{call}",
        "The number of calls in a message to a service: the coalescing factor.", &[LEPUS_HANDLER];
}

impl Metric {
    /// The boundaries of the buckets of a histogram: of durations, those of
    /// [`DurationHistogram`](lepus::amqp::DurationHistogram) in seconds; of numbers of calls, powers of two.
    #[must_use]
    pub fn boundaries(&self) -> Vec<f64> {
        if self.unit == "s" {
            let bounds = lepus::amqp::DurationHistogram::BOUNDS.iter();
            bounds.map(std::time::Duration::as_secs_f64).collect()
        } else {
            (0..=8).map(|power| f64::from(1 << power)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_name_in_prometheus_follows_from_that_in_opentelemetry() {
        for (index, metric) in METRICS.iter().enumerate() {
            let suffix = match (metric.instrument, metric.unit) {
                (Instrument::Counter, _) => "_total",
                (_, "s") => "_seconds",
                _ => "",
            };
            let expected = format!("{}{suffix}", metric.name.replace('.', "_"));
            assert_eq!(metric.prometheus, expected);
            assert_eq!(metric.index, index, "{}", metric.name);
            assert!(metric.description.ends_with('.'), "{}", metric.name);
        }
        let names: HashSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }

    #[test]
    fn boundaries_grow() {
        for metric in METRICS {
            assert!(metric.boundaries().is_sorted_by(|a, b| a < b));
        }
        assert_eq!(CLIENT_CALL_DURATION.boundaries().len(), 14);
        assert_eq!(CALLS_PER_MESSAGE.boundaries()[..3], [1.0, 2.0, 4.0]);
    }
}
