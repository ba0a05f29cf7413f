//! Bodies of answers: JSON with the names of NATS's ADR-32, so that dashboards and people who know those find them
//! here.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::declared::DeclaredTopology;

/// The kind of what an instance serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServedKind {
    /// A service of a server.
    Service,
    /// A work queue with jobs of one type.
    Queue,
    /// A work queue whose jobs are methods of a trait.
    Tasks,
    /// The group of a shared or singleton subscription.
    Group,
    /// A kind that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Whether something is served, in the words of gRPC's health checking protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum HealthStatus {
    /// All of its consumers are consuming.
    Serving,
    /// One of its consumers is not consuming, or is being drained.
    NotServing,
    /// No instance serves it.
    ServiceUnknown,
    /// A word that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl HealthStatus {
    /// The status on the wire: `SERVING`, `NOT_SERVING`, `SERVICE_UNKNOWN` or `UNKNOWN`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Defines the body of an answer: the fields that all answers have, and its own. A field that is missing in an
/// answer has its default, so that peers of other versions and in other languages may leave it out.
macro_rules! answer {
    ($(#[$attribute:meta])* $name:ident { $($(#[$field_attribute:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct $name {
            /// The name of the service, work queue, set of tasks, or group.
            pub name: String,
            /// The instance: 22 letters and digits, the same for everything that one connection serves, and after
            /// each reconnect.
            pub id: String,
            /// The version of the service, `0.0.0` if it has none.
            pub version: String,
            /// The [metadata](crate::amqp::ConnectionBuilder::metadata) of the connection.
            pub metadata: BTreeMap<String, String>,
            /// Service, work queue, tasks or group.
            pub kind: ServedKind,
            $($(#[$field_attribute])* pub $field: $type,)*
        }

        #[allow(clippy::needless_update, reason = "one answer has no fields of its own")]
        impl From<Identity> for $name {
            fn from(identity: Identity) -> Self {
                let Identity { name, id, version, metadata, kind } = identity;
                Self { name, id, version, metadata, kind, ..Self::default() }
            }
        }

        impl Named for $name {
            fn names(&self) -> (&str, &str) {
                (&self.name, &self.id)
            }
        }
    };
}

/// A body that names what it is about.
pub(super) trait Named {
    /// The name, and the instance.
    fn names(&self) -> (&str, &str);
}

/// The fields that all answers of an instance about one thing have.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) version: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) kind: ServedKind,
}

answer! {
    /// The answer to a ping.
    Pong {}
}

answer! {
    /// The description of what an instance serves.
    ServiceInfo {
        /// The first paragraph of its documentation, that of the annotated trait.
        description: String,
        /// When it was started, in UTC, as RFC 3339 has it: `2026-11-30T12:00:00Z`.
        started: String,
        /// Its methods or tasks; for a plain work queue or a group, one that stands for its handler.
        endpoints: Vec<EndpointInfo>,
        /// The queues, exchanges and bindings that it declares.
        #[serde(skip_serializing_if = "DeclaredTopology::is_empty")]
        topology: DeclaredTopology,
    }
}

answer! {
    /// The figures of what an instance serves, since the connection was opened.
    ServiceStats {
        /// When it was started, in UTC, as RFC 3339 has it: `2026-11-30T12:00:00Z`.
        started: String,
        /// Its methods or tasks; for a plain work queue or a group, one that stands for its handler.
        endpoints: Vec<EndpointStats>,
    }
}

answer! {
    /// The health of what an instance serves.
    ServiceHealth {
        /// Whether it is served.
        status: HealthStatus,
        /// Why not; or that the broker takes no messages, which does not change the status.
        reasons: Vec<String>,
        /// Its consumers, one for each queue.
        consumers: Vec<ConsumerReport>,
    }
}

/// A method, a task, or the handler of a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointInfo {
    /// The method or the task; the queue, if its jobs or events have no methods.
    pub name: String,
    /// The routing key of its messages: the queue; the exchange, if it is a group.
    pub subject: String,
    /// The queue that the instances share.
    pub queue_group: String,
    /// The details.
    pub data: EndpointDetails,
}

/// Details of a method, a task, or the handler of a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointDetails {
    /// The documentation of the method.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub doc: String,
    /// The content type of requests without one, and of those that clients send by default.
    pub codec: String,
    /// The names of the arguments, in their order.
    pub arguments: Vec<String>,
    /// The timeout of calls, or the time limit of the task, in milliseconds, if the method has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether the method may run twice.
    pub idempotent: bool,
    /// Whether the method has no reply.
    pub oneway: bool,
    /// Whether the method runs at most once.
    pub at_most_once: bool,
    /// Whether the body is the one argument itself, without a map around it.
    #[serde(skip_serializing_if = "is_false")]
    pub bare: bool,
    /// `server` for a method that returns a stream of items, `upload` for one that takes a stream, `both` for one that
    /// does both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// For serde, which gives a reference.
fn is_false(value: &bool) -> bool {
    !value
}

/// Figures of a method, a task, or the handler of a queue. Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointStats {
    /// The method or the task; the queue, if its jobs or events have no methods.
    pub name: String,
    /// The routing key of its messages: the queue; the exchange, if it is a group.
    pub subject: String,
    /// The queue that the instances share.
    pub queue_group: String,
    /// Requests, jobs or events that were to be handled.
    pub num_requests: u64,
    /// Those that ended with an error: the method's own, a status, a deadline or a panic.
    pub num_errors: u64,
    /// The last error as a code: `application` for the method's own error, or a status code; empty if there was
    /// none. Never a text, which may contain a user's data.
    pub last_error: String,
    /// The time that they took in all.
    pub processing_time: u64,
    /// The time that one took on average.
    pub average_processing_time: u64,
    /// The figures that only Lepus has.
    pub data: EndpointFigures,
}

/// Figures beyond those of ADR-32.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EndpointFigures {
    /// Requests, jobs or events whose handler runs now.
    pub in_flight: u64,
    /// Requests that were past their deadline when they were delivered, and were not run.
    pub expired: u64,
    /// Handlers that were dropped before their end.
    pub cancelled: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Requests, jobs or events that the broker had delivered before.
    pub redelivered: u64,
    /// Jobs or events that were published for another attempt.
    pub retried: u64,
    /// Jobs or events that were dead-lettered.
    pub dead_lettered: u64,
    /// Errors by their codes: `application`, or a status code.
    pub errors: BTreeMap<String, u64>,
    /// Those that took up to 5, 10, 25, 50, 75, 100, 250, 500, 750 ms, 1, 2.5, 5, 7.5, 10 s, and more: fifteen
    /// counters, each without those before it.
    pub latency: Vec<u64>,
    /// The times from the sending of the messages to their delivery, in the same way.
    pub queue_wait: Vec<u64>,
}

/// The state of one consumer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ConsumerReport {
    /// The queue that it consumes, without the namespace.
    pub queue: String,
    /// `consuming`, `waiting` or `draining`.
    pub state: String,
    /// The time in this state, in nanoseconds.
    pub duration: u64,
    /// The reason why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::Codec;

    #[test]
    fn an_answer_of_another_version_is_read() {
        let json = r#"{"name":"calculator","id":"7","kind":"stream","later":[1],"endpoints":[{"name":"fib"}]}"#;
        let info: ServiceInfo = Codec::Json.decode(json.as_bytes()).unwrap();
        assert_eq!(info.names(), ("calculator", "7"));
        assert_eq!(info.kind, ServedKind::Unknown);
        assert_eq!(info.endpoints[0].name, "fib");
        let json = r#"{"name":"calculator","status":"ASLEEP"}"#;
        let health: ServiceHealth = Codec::Json.decode(json.as_bytes()).unwrap();
        assert_eq!(health.status, HealthStatus::Unknown);
    }

    #[test]
    fn a_status_is_written_as_it_is_called() {
        for status in [
            HealthStatus::Serving,
            HealthStatus::NotServing,
            HealthStatus::ServiceUnknown,
        ] {
            let json = Codec::Json.encode(&status).unwrap();
            assert_eq!(json, format!("\"{status}\""));
            assert_eq!(Codec::Json.decode::<HealthStatus>(&json).unwrap(), status);
        }
    }
}
