//! Head of a dead letter.

use super::job::{
    ATTEMPT, ATTEMPTS, DEATH, ERROR, FAILED_AT, FIRST_ERROR, JOB_HEADERS, REASON, SOURCE_QUEUE,
    SourceRoute, record_error, remove_broker_headers,
};
use super::property::count_of;
use crate::wire::message::Properties;
use crate::wire::value::{Table, Value};

/// The record of a job's death: why it was given up, and on which queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeathRecord {
    pub(crate) reason: String,
    pub(crate) error: String,
    pub(crate) first_error: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) source_queue: String,
    /// Seconds since the Unix epoch.
    pub(crate) failed_at: Option<u64>,
    /// The exchange and the routing key that the message came with, if the broker dead-lettered it.
    pub(crate) route: Option<SourceRoute>,
}

impl DeathRecord {
    /// The properties of the dead letter: those of the job, with this record in the headers.
    pub(crate) fn write(&self, mut job: Properties) -> Properties {
        remove_broker_headers(&mut job);
        record_error(&mut job, &self.error);
        job.headers.remove(ATTEMPT);
        job.headers
            .insert(REASON.into(), self.reason.as_str().into());
        job.headers.insert(ATTEMPTS.into(), self.attempts.into());
        job.headers
            .insert(SOURCE_QUEUE.into(), self.source_queue.as_str().into());
        if let Some(seconds) = self.failed_at {
            job.headers
                .insert(FAILED_AT.into(), Value::Timestamp(seconds));
        }
        job
    }

    /// Reads a dead letter that Lepus published, or that the broker made of a message (`expired`,
    /// `delivery_limit`).
    pub(crate) fn read(properties: &Properties) -> Self {
        let headers = &properties.headers;
        let text = |name| headers.get(name).and_then(Value::as_str).map(str::to_owned);
        let death = first_death(headers);
        let of_death = |name| death.and_then(|death| death.get(name));
        // Lepus removes the broker's `x-death` from the dead letters that it publishes. If the header is
        // there, the broker made this dead letter, and Lepus's headers come from the sender.
        let ours = |name| text(name).filter(|_| death.is_none());
        let reason = ours(REASON).or_else(|| {
            of_death("reason")
                .and_then(Value::as_str)
                .map(str::to_owned)
        });
        let source = ours(SOURCE_QUEUE)
            .or_else(|| of_death("queue").and_then(Value::as_str).map(str::to_owned));
        let time = of_death("time").or_else(|| headers.get(FAILED_AT));
        let attempts = count_of(headers.get(ATTEMPTS)).or_else(|| count_of(headers.get(ATTEMPT)));
        Self {
            reason: reason.unwrap_or_else(|| "unknown".into()),
            error: text(ERROR).unwrap_or_default(),
            first_error: text(FIRST_ERROR),
            attempts: attempts.unwrap_or(0),
            source_queue: source.unwrap_or_default(),
            failed_at: match time {
                Some(Value::Timestamp(seconds)) => Some(*seconds),
                _ => None,
            },
            route: death.and_then(route_of_death),
        }
    }

    /// The properties of a dead letter that is replayed: a job before its first attempt.
    pub(crate) fn erase(mut letter: Properties) -> Properties {
        remove_broker_headers(&mut letter);
        for name in JOB_HEADERS {
            letter.headers.remove(name);
        }
        letter
    }
}

/// The first entry of `x-death`, which is the most recent.
fn first_death(headers: &Table) -> Option<&Table> {
    match headers.get(DEATH)? {
        Value::List(deaths) => match deaths.first()? {
            Value::Table(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

fn route_of_death(death: &Table) -> Option<SourceRoute> {
    let exchange = death.get("exchange")?.as_str()?;
    let Value::List(keys) = death.get("routing-keys")? else {
        return None;
    };
    Some(SourceRoute {
        exchange: exchange.to_owned(),
        routing_key: keys.first()?.as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::{JobHead, retried};

    #[test]
    fn a_job_keeps_its_first_error_and_dies_with_its_last() {
        let job = Properties {
            kind: Some("resize".into()),
            ..Properties::default()
        };
        let second = retried(job, 2, "busy");
        let third = retried(second, 3, "still busy");
        assert_eq!(JobHead::read(&third).attempt, 3);
        let record = DeathRecord {
            reason: "attempts".into(),
            error: "gone".into(),
            first_error: None,
            attempts: 3,
            source_queue: "images".into(),
            failed_at: Some(7),
            route: None,
        };
        let letter = record.write(third);
        let read = DeathRecord::read(&letter);
        assert_eq!(
            (read.error.as_str(), read.first_error.as_deref()),
            ("gone", Some("busy"))
        );
        assert_eq!((read.attempts, read.failed_at), (3, Some(7)));
        let replayed = DeathRecord::erase(letter);
        assert!(replayed.headers.is_empty());
        assert_eq!(replayed.kind.as_deref(), Some("resize"));
    }

    #[test]
    fn a_letter_of_the_brokers_is_not_told_by_its_senders_headers() {
        let death = Table::from([
            ("reason".to_owned(), Value::from("expired")),
            ("queue".to_owned(), Value::from("images")),
            ("time".to_owned(), Value::Timestamp(9)),
        ]);
        let headers = Table::from([
            (DEATH.to_owned(), Value::List(vec![Value::Table(death)])),
            (REASON.to_owned(), Value::from("attempts")),
            (SOURCE_QUEUE.to_owned(), Value::from("elsewhere")),
            (FAILED_AT.to_owned(), Value::Timestamp(1)),
        ]);
        let read = DeathRecord::read(&Properties {
            headers,
            ..Properties::default()
        });
        assert_eq!(
            (
                read.reason.as_str(),
                read.source_queue.as_str(),
                read.failed_at
            ),
            ("expired", "images", Some(9))
        );
    }

    #[test]
    fn the_brokers_own_dead_letters_are_read_too() {
        let death = Table::from([
            ("reason".to_owned(), Value::from("delivery_limit")),
            ("queue".to_owned(), Value::from("images")),
            ("time".to_owned(), Value::Timestamp(9)),
            ("exchange".to_owned(), Value::from("pictures")),
            (
                "routing-keys".to_owned(),
                Value::List(vec![Value::from("new.png")]),
            ),
        ]);
        let headers = Table::from([(DEATH.to_owned(), Value::List(vec![Value::Table(death)]))]);
        let read = DeathRecord::read(&Properties {
            headers,
            ..Properties::default()
        });
        assert_eq!(
            (read.reason.as_str(), read.source_queue.as_str()),
            ("delivery_limit", "images")
        );
        assert_eq!(read.failed_at, Some(9));
        let route = SourceRoute {
            exchange: "pictures".into(),
            routing_key: "new.png".into(),
        };
        assert_eq!(read.route, Some(route));
    }
}
