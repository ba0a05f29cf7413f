//! Head of a job, and of the copies that are published for later attempts.

use std::time::Duration;

use super::property::{count_of, expiration, non_empty, sent_at, truncated};
use crate::wire::message::{IncomingMessage, MessageInfo, Properties, SentAt};
use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::{Table, Value};

/// Header of a job: the number of the attempt, from 1.
pub(super) const ATTEMPT: &str = "attempt";
/// Headers of a job that failed: its first error and its last one.
pub(super) const FIRST_ERROR: &str = "first-error";
pub(super) const ERROR: &str = "error";
/// Headers of a dead letter.
pub(super) const REASON: &str = "reason";
pub(super) const FAILED_AT: &str = "failed-at";
pub(super) const ATTEMPTS: &str = "attempts";
pub(super) const SOURCE_QUEUE: &str = "source-queue";
/// Headers of an event's copy, for a later attempt or as a dead letter: the exchange and the routing key
/// that it was published with.
const SOURCE_EXCHANGE: &str = "source-exchange";
const SOURCE_KEY: &str = "source-routing-key";
/// Header of a copy: the `user_id` of the original, if the copy is published by another user.
pub(super) const SOURCE_USER: &str = "source-user-id";
/// The headers that Lepus writes on any copy of a message that was published through an exchange.
pub(super) const SOURCE_HEADERS: [&str; 3] = [SOURCE_EXCHANGE, SOURCE_KEY, SOURCE_USER];
/// The headers that Lepus writes on a job, from its first failure until it is a dead letter.
pub(super) const JOB_HEADERS: [&str; 7] = [
    ATTEMPT,
    FIRST_ERROR,
    ERROR,
    REASON,
    FAILED_AT,
    ATTEMPTS,
    SOURCE_QUEUE,
];
/// The number of times that a quorum queue has delivered the message before.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// The history that RabbitMQ writes when it dead-letters a message.
pub(super) const DEATH: &str = "x-death";
/// The headers that RabbitMQ writes on a message's way. They are removed from a copy: with them the broker
/// would take a retry for a cycle of dead letters and drop it.
pub(super) const BROKER_HEADERS: [&str; 10] = [
    DEATH,
    DELIVERY_COUNT,
    "x-acquired-count",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-opt-rabbitmq-delivery-count",
];

/// The head of a job that is pushed.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) task: Option<String>,
    pub(crate) message_id: String,
    pub(crate) content_type: &'static str,
    /// Seconds since the Unix epoch.
    pub(crate) pushed_at: Option<u64>,
    pub(crate) producer: Option<String>,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// The time for which it waits in a delay queue first.
    pub(crate) delay: Option<Duration>,
    pub(crate) headers: Table,
    pub(crate) trace: TraceHeaders,
}

impl NewJob {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        self.trace.remove_from(&mut headers);
        Properties {
            content_type: Some(self.content_type.to_owned()),
            headers,
            trace: self.trace,
            persistent: self.persistent,
            priority: self.priority,
            expiration: self.delay.map(expiration),
            message_id: Some(self.message_id),
            timestamp: self.pushed_at,
            kind: self.task,
            app_id: self.producer,
            ..Properties::default()
        }
    }
}

/// The head of a job that was delivered: all but its payload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobHead {
    pub(crate) task: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) content_type: Option<String>,
    /// The attempt this delivery was published for.
    pub(crate) attempt: u32,
    /// Earlier deliveries that were not settled, as far as the broker counts them.
    pub(crate) unsettled: u32,
    /// When it was pushed, in seconds since the Unix epoch.
    pub(crate) pushed_at: Option<u64>,
    pub(crate) caller: Option<String>,
    pub(crate) headers: Table,
    pub(crate) trace: TraceHeaders,
    /// The exchange and key that an event was first published with, on a copy for a later attempt.
    pub(crate) route: Option<SourceRoute>,
    /// The time at which it was sent, if it came to its queue straight from its sender: for its first attempt,
    /// and without a delay.
    pub(crate) sent_at: Option<SentAt>,
}

impl JobHead {
    pub(crate) fn read(properties: &Properties) -> Self {
        let mut headers = properties.headers.clone();
        let is_first = !headers.contains_key(ATTEMPT) && !headers.contains_key(DEATH);
        let attempt = headers.remove(ATTEMPT);
        let count = headers.remove(DELIVERY_COUNT);
        for name in BROKER_HEADERS
            .iter()
            .chain(&[FIRST_ERROR, ERROR, SOURCE_USER])
        {
            headers.remove(*name);
        }
        let route = SourceRoute::take(&mut headers);
        Self {
            task: non_empty(properties.kind.clone()),
            message_id: properties.message_id.clone(),
            content_type: non_empty(properties.content_type.clone()),
            attempt: count_of(attempt.as_ref()).unwrap_or(1).max(1),
            unsettled: count_of(count.as_ref()).unwrap_or(0),
            pushed_at: properties.timestamp,
            caller: properties.app_id.clone(),
            trace: properties.trace.clone(),
            headers,
            route,
            sent_at: sent_at(properties).filter(|_| is_first),
        }
    }

    /// The facts for its handler.
    pub(crate) fn into_info(self, message: &IncomingMessage, attempt: u32) -> MessageInfo {
        let (exchange, routing_key) = match self.route {
            Some(route) => (route.exchange, route.routing_key),
            None => (message.exchange.clone(), message.routing_key.clone()),
        };
        MessageInfo {
            exchange,
            routing_key,
            kind: self.task,
            content_type: self.content_type,
            message_id: self.message_id,
            timestamp: self.pushed_at,
            app_id: self.caller,
            headers: self.headers,
            trace: self.trace,
            redelivered: message.redelivered,
            attempt,
        }
    }
}

/// The exchange and the routing key that an event was first published with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceRoute {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
}

impl SourceRoute {
    /// Records the exchange and key of a message in its properties, before a copy of it is published
    /// straight to a queue. A message that came through the default exchange is such a copy, and keeps
    /// the headers that it has.
    pub(crate) fn record(exchange: &str, routing_key: &str, properties: &mut Properties) {
        if !exchange.is_empty() {
            let headers = &mut properties.headers;
            headers.insert(SOURCE_EXCHANGE.into(), exchange.into());
            headers.insert(SOURCE_KEY.into(), routing_key.into());
        }
    }

    fn take(headers: &mut Table) -> Option<Self> {
        let (exchange, key) = (headers.remove(SOURCE_EXCHANGE), headers.remove(SOURCE_KEY));
        match (exchange?, key?) {
            (Value::Text(exchange), Value::Text(routing_key)) => Some(Self {
                exchange,
                routing_key,
            }),
            _ => None,
        }
    }
}

/// Removes the headers of Lepus and of the broker that can only come from the sender of a message, who
/// could pretend an attempt or an error with them.
///
/// Copies of jobs that carry Lepus's headers come straight to their queue and not through an exchange. The
/// broker sets `x-delivery-count` on redeliveries from queues that count them (`has_count`), and does not
/// touch the header otherwise.
pub(crate) fn remove_untrusted_headers(message: &mut IncomingMessage, has_count: bool) {
    let headers = &mut message.properties.headers;
    if headers.is_empty() {
        return;
    }
    let is_event = !message.exchange.is_empty();
    if is_event {
        for name in JOB_HEADERS.iter().chain(&SOURCE_HEADERS) {
            headers.remove(*name);
        }
    }
    if !message.redelivered || (is_event && !has_count) {
        headers.remove(DELIVERY_COUNT);
    }
}

/// The properties of a job's next attempt.
pub(crate) fn retried(mut job: Properties, attempt: u32, error: &str) -> Properties {
    remove_broker_headers(&mut job);
    record_error(&mut job, error);
    job.headers.insert(ATTEMPT.into(), attempt.into());
    job
}

/// Records an error as the last one, and as the first one if there is none yet.
pub(super) fn record_error(job: &mut Properties, error: &str) {
    let error = Value::from(truncated(error).as_ref());
    job.headers
        .entry(FIRST_ERROR.into())
        .or_insert_with(|| error.clone());
    job.headers.insert(ERROR.into(), error);
}

/// Removes the `expiration` and the broker's headers, which belong to one delivery, from a copy.
pub(super) fn remove_broker_headers(job: &mut Properties) {
    job.expiration = None;
    for name in BROKER_HEADERS {
        job.headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retried_event_knows_how_it_came() {
        let mut properties = Properties::default();
        SourceRoute::record("topic_logs", "kern.info", &mut properties);
        let mut second = retried(properties, 2, "busy");
        SourceRoute::record("", "topic_logs.audit", &mut second);
        let head = JobHead::read(&second);
        let route = SourceRoute {
            exchange: "topic_logs".into(),
            routing_key: "kern.info".into(),
        };
        assert_eq!(head.route, Some(route));
        assert!(head.headers.is_empty());
    }

    #[test]
    fn what_a_sender_makes_up_is_removed_and_the_brokers_word_kept() {
        let headers: Table = JOB_HEADERS
            .iter()
            .chain(&SOURCE_HEADERS)
            .chain(&[DELIVERY_COUNT, "tenant"])
            .map(|name| ((*name).to_owned(), Value::Int(7)))
            .collect();
        let event = |exchange: &str, redelivered, has_count| {
            let mut message = IncomingMessage {
                exchange: exchange.into(),
                routing_key: "a.b".into(),
                redelivered,
                properties: Properties {
                    headers: headers.clone(),
                    ..Properties::default()
                },
                body: bytes::Bytes::new(),
                size: 0,
            };
            remove_untrusted_headers(&mut message, has_count);
            message.properties
        };
        let names = |properties: &Properties| {
            let names = properties.headers.keys();
            names.cloned().collect::<Vec<_>>()
        };
        let counted = event("logs", true, true);
        assert_eq!(names(&counted), ["tenant", DELIVERY_COUNT]);
        assert_eq!(JobHead::read(&counted).unsettled, 7);
        for made_up in [event("logs", false, true), event("logs", true, false)] {
            assert_eq!(names(&made_up), ["tenant"]);
            let head = JobHead::read(&made_up);
            assert_eq!((head.attempt, head.unsettled), (1, 0));
        }
        // A copy of ours.
        assert_eq!(JobHead::read(&event("", true, false)).unsettled, 7);
        let copy = JobHead::read(&event("", false, true));
        assert_eq!((copy.attempt, copy.unsettled), (7, 0));
    }

    #[test]
    fn the_time_in_the_queue_is_known_for_the_first_attempt_without_a_delay() {
        let mut properties = Properties {
            timestamp: Some(7),
            ..Properties::default()
        };
        assert_eq!(JobHead::read(&properties).sent_at, Some(SentAt::Seconds(7)));
        let second = retried(properties.clone(), 2, "busy");
        assert_eq!(JobHead::read(&second).sent_at, None);
        properties.headers.insert(DEATH.into(), Value::List(vec![]));
        assert_eq!(JobHead::read(&properties).sent_at, None);
    }

    #[test]
    fn the_source_user_is_not_a_header_of_the_user() {
        let mut properties = Properties::default();
        properties.headers.insert(SOURCE_USER.into(), "hare".into());
        assert!(JobHead::read(&properties).headers.is_empty());
    }
}
