//! Answers of an instance to questions: what it serves, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use super::answer::{
    ConsumerReport, EndpointFigures, EndpointInfo, EndpointStats, Identity, Pong, ServiceHealth,
    ServiceInfo, ServiceStats,
};
use super::health;
use super::instance::{Endpoint, Served};
use crate::link::{Connection, ConnectionState};
use crate::stats::{HandlerOutcome, MethodStats};
use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::QuestionKind;
use crate::worker::{ConsumerStatus, ConsumerView};

/// Makes the answers of one instance.
pub(super) struct Responder {
    id: String,
    metadata: BTreeMap<String, String>,
    state: watch::Receiver<ConnectionState>,
}

impl Responder {
    pub(super) fn new(connection: &Connection, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            metadata: connection.metadata().clone(),
            state: connection.state(),
        }
    }

    /// The answer to a question about one thing that is served.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub(super) fn answer(&self, kind: QuestionKind, served: &Served) -> Result<Bytes, CodecError> {
        let identity = Identity {
            name: served.name.clone(),
            id: self.id.clone(),
            version: served.version.clone(),
            metadata: self.metadata.clone(),
            kind: served.kind,
        };
        match kind {
            QuestionKind::Ping => json(&Pong::from(identity)),
            QuestionKind::Info => json(&info(served, identity)),
            QuestionKind::Stats => json(&stats(served, identity)),
            QuestionKind::Health => json(&self.health(served, identity)),
        }
    }

    fn health(&self, served: &Served, identity: Identity) -> ServiceHealth {
        let consumers = served.consumers.iter().map(ConsumerView::status);
        let consumers: Vec<ConsumerStatus> = consumers.collect();
        let idle = consumers
            .iter()
            .filter(|consumer| !consumer.state.is_consuming());
        let of_connection = health::reason_of(&self.state.borrow());
        ServiceHealth {
            status: health::status(served),
            reasons: of_connection
                .into_iter()
                .chain(idle.map(ToString::to_string))
                .collect(),
            consumers: consumers.iter().map(report).collect(),
            ..identity.into()
        }
    }
}

fn info(served: &Served, identity: Identity) -> ServiceInfo {
    let endpoints = served.endpoints.iter();
    ServiceInfo {
        description: served.description.clone(),
        started: served.started.clone(),
        endpoints: endpoints.map(|endpoint| endpoint.info.clone()).collect(),
        topology: served.topology.clone(),
        ..identity.into()
    }
}

fn stats(served: &Served, identity: Identity) -> ServiceStats {
    ServiceStats {
        started: served.started.clone(),
        endpoints: served.endpoints.iter().map(endpoint_stats).collect(),
        ..identity.into()
    }
}

fn endpoint_stats(endpoint: &Endpoint) -> EndpointStats {
    let EndpointInfo {
        name,
        subject,
        queue_group,
        ..
    } = endpoint.info.clone();
    let stats = endpoint.meter.counters.read();
    let errors = errors(&stats);
    EndpointStats {
        name,
        subject,
        queue_group,
        num_requests: stats.requests,
        num_errors: errors.values().sum(),
        last_error: stats.last_error.unwrap_or_default().to_owned(),
        processing_time: nanos(stats.duration.sum),
        average_processing_time: nanos(stats.duration.mean().unwrap_or_default()),
        data: EndpointFigures {
            in_flight: stats.in_flight,
            expired: stats.expired,
            cancelled: stats.cancelled,
            panics: stats.panics,
            redelivered: stats.redelivered,
            retried: stats.retried,
            dead_lettered: stats.dead_lettered,
            errors,
            latency: stats.duration.buckets.to_vec(),
            queue_wait: stats.queue_wait.buckets.to_vec(),
        },
    }
}

/// The errors by the codes that callers get.
fn errors(stats: &MethodStats) -> BTreeMap<String, u64> {
    let own = [
        (HandlerOutcome::OwnError, stats.own_errors),
        (HandlerOutcome::Stopped, stats.stopped),
        (HandlerOutcome::Panicked, stats.panics),
    ];
    let own = own.map(|(outcome, count)| (outcome.as_str(), count));
    let statuses = stats.statuses.iter();
    let statuses = statuses.map(|(code, count)| (code.as_str(), *count));
    let mut errors = BTreeMap::new();
    for (code, count) in own.into_iter().chain(statuses) {
        if count > 0 {
            *errors.entry(code.to_owned()).or_default() += count;
        }
    }
    errors
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn report(consumer: &ConsumerStatus) -> ConsumerReport {
    let ConsumerStatus { queue, state } = consumer;
    ConsumerReport {
        queue: queue.clone(),
        state: state.name().to_owned(),
        duration: nanos(state.elapsed()),
        error: state.error().map(ToString::to_string),
    }
}

fn json(answer: &impl Serialize) -> Result<Bytes, CodecError> {
    Codec::Json.encode(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meters;
    use crate::stats::HandlerKind;
    use crate::wire::status::Code;

    #[test]
    fn errors_are_counted_by_their_codes() {
        let meter = Meters::default().of(HandlerKind::Request, "calculator", "divide");
        let outcomes = [
            HandlerOutcome::Ok,
            HandlerOutcome::OwnError,
            HandlerOutcome::Panicked,
            HandlerOutcome::Status(Code::Internal),
            HandlerOutcome::Stopped,
            HandlerOutcome::Cancelled,
        ];
        for outcome in outcomes {
            meter.counters.started(false, None);
            meter.counters.ended(outcome, Duration::from_millis(6));
        }
        let info = EndpointInfo::default();
        let stats = endpoint_stats(&Endpoint { info, meter });
        let errors = [
            ("application", 1),
            ("deadline_exceeded", 1),
            ("internal", 2),
        ];
        let errors = errors.map(|(code, count)| (code.to_owned(), count));
        assert_eq!(stats.data.errors, BTreeMap::from(errors));
        assert_eq!((stats.num_requests, stats.num_errors), (6, 4));
        assert_eq!(stats.last_error, "deadline_exceeded");
        assert_eq!(stats.average_processing_time, 6_000_000);
        assert_eq!((stats.data.latency[1], stats.data.latency.len()), (6, 15));
    }
}
