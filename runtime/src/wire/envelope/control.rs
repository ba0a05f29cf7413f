//! Heads of the questions that are asked on the control exchange, and of their answers; names of its queues and
//! routing keys.

use std::time::Duration;

use super::property::{expiration, non_empty, parse_expiration};
use crate::wire::message::Properties;

/// The exchange of questions: direct and durable, in the namespace.
pub(crate) const CONTROL_EXCHANGE: &str = "lepus.control";
/// The routing key of questions to all instances.
pub(crate) const ALL: &str = "all";

/// The content type of answers.
const JSON: &str = "application/json";

/// The routing key of questions to the instances that serve a service.
pub(crate) fn service_key(service: &str) -> String {
    format!("service.{service}")
}

/// The routing key of questions to the instances that consume a queue, given without the namespace.
pub(crate) fn queue_key(queue: &str) -> String {
    format!("queue.{queue}")
}

/// The queue of the questions to one instance.
pub(crate) fn control_queue(instance: &str) -> String {
    format!("lepus.control.{instance}")
}

/// The kind of a question, and of its answers. It is the `type` of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuestionKind {
    Ping,
    Info,
    Stats,
    Health,
}

impl QuestionKind {
    const ALL: [Self; 4] = [Self::Ping, Self::Info, Self::Stats, Self::Health];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "lepus.ping/1",
            Self::Info => "lepus.info/1",
            Self::Stats => "lepus.stats/1",
            Self::Health => "lepus.health/1",
        }
    }

    fn parse(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

/// The head of a question, which has no body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QuestionHead {
    pub(crate) kind: QuestionKind,
    /// A queue: direct reply-to is not allowed.
    pub(crate) reply_to: String,
    pub(crate) correlation_id: Vec<u8>,
    /// The time left until the asker stops waiting for answers.
    pub(crate) time_left: Option<Duration>,
    /// The asker's name.
    pub(crate) asker: Option<String>,
}

impl QuestionHead {
    pub(crate) fn into_properties(self) -> Properties {
        Properties {
            kind: Some(self.kind.as_str().to_owned()),
            reply_to: Some(self.reply_to),
            correlation_id: Some(self.correlation_id),
            expiration: self.time_left.map(expiration),
            app_id: self.asker,
            ..Properties::default()
        }
    }

    /// Reads a question. `None` if it is of an unknown kind, or names no queue or no id for its answers.
    pub(crate) fn from_properties(properties: Properties) -> Option<Self> {
        let reply_to = non_empty(properties.reply_to)?;
        // A direct reply to an address that does not exist makes RabbitMQ before 4.0 close the connection.
        if reply_to.starts_with("amq.") {
            return None;
        }
        Some(Self {
            kind: QuestionKind::parse(properties.kind.as_deref()?)?,
            reply_to,
            correlation_id: properties.correlation_id?,
            time_left: properties.expiration.as_deref().and_then(parse_expiration),
            asker: properties.app_id,
        })
    }
}

/// The `type` of a message that tells which calls were given up.
const CANCEL_TYPE: &str = "lepus.cancel/1";

/// The head of a message that tells which calls were given up. Its body has their ids.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CancelHead {
    /// The reply queue of their requests.
    pub(crate) reply_to: String,
    /// The longest time left of the calls. The message is of no use afterwards.
    pub(crate) time_left: Duration,
}

impl CancelHead {
    pub(crate) fn into_properties(self) -> Properties {
        Properties {
            kind: Some(CANCEL_TYPE.to_owned()),
            reply_to: Some(self.reply_to),
            expiration: Some(expiration(self.time_left)),
            ..Properties::default()
        }
    }

    /// Whether these are the properties of such a message, which [`from_properties`](Self::from_properties) may not
    /// be able to read.
    pub(crate) fn is_in(properties: &Properties) -> bool {
        properties.kind.as_deref() == Some(CANCEL_TYPE)
    }

    /// Reads the head. `None` if it is that of another message, or names no reply queue or no time.
    pub(crate) fn from_properties(properties: Properties) -> Option<Self> {
        if !Self::is_in(&properties) {
            return None;
        }
        Some(Self {
            reply_to: non_empty(properties.reply_to)?,
            time_left: properties
                .expiration
                .as_deref()
                .and_then(parse_expiration)?,
        })
    }
}

/// The head of an answer, whose body is JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AnswerHead {
    pub(crate) kind: QuestionKind,
    pub(crate) correlation_id: Vec<u8>,
    /// The name of the program that answers.
    pub(crate) answerer: Option<String>,
}

impl AnswerHead {
    pub(crate) fn into_properties(self) -> Properties {
        Properties {
            kind: Some(self.kind.as_str().to_owned()),
            correlation_id: Some(self.correlation_id),
            content_type: Some(JSON.to_owned()),
            app_id: self.answerer,
            ..Properties::default()
        }
    }

    /// Reads an answer. `None` if it is of an unknown kind, or answers no question.
    pub(crate) fn from_properties(properties: Properties) -> Option<Self> {
        Some(Self {
            kind: QuestionKind::parse(properties.kind.as_deref()?)?,
            correlation_id: properties.correlation_id?,
            answerer: properties.app_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> QuestionHead {
        QuestionHead {
            kind: QuestionKind::Stats,
            reply_to: "lepus.reply.7".into(),
            correlation_id: b"42".to_vec(),
            time_left: Some(Duration::from_secs(2)),
            asker: Some("hare".into()),
        }
    }

    #[test]
    fn a_question_reads_as_it_was_written() {
        let properties = question().into_properties();
        assert_eq!(properties.kind.as_deref(), Some("lepus.stats/1"));
        assert_eq!(properties.expiration.as_deref(), Some("2000"));
        assert!(properties.headers.is_empty());
        assert_eq!(QuestionHead::from_properties(properties), Some(question()));
    }

    #[test]
    fn a_question_that_cannot_be_answered_is_none() {
        let read = |change: fn(&mut Properties)| {
            let mut properties = question().into_properties();
            change(&mut properties);
            QuestionHead::from_properties(properties)
        };
        assert!(read(|_| ()).is_some());
        assert_eq!(read(|it| it.kind = Some("lepus.stats/2".into())), None);
        assert_eq!(read(|it| it.kind = None), None);
        assert_eq!(read(|it| it.reply_to = Some(String::new())), None);
        assert_eq!(read(|it| it.correlation_id = None), None);
        let direct = |it: &mut Properties| it.reply_to = Some("amq.rabbitmq.reply-to.x".into());
        assert_eq!(read(direct), None);
    }

    #[test]
    fn a_cancellation_reads_as_it_was_written() {
        let head = CancelHead {
            reply_to: "lepus.reply.7".into(),
            time_left: Duration::from_millis(1500),
        };
        let properties = head.clone().into_properties();
        assert_eq!(properties.kind.as_deref(), Some("lepus.cancel/1"));
        assert_eq!(properties.expiration.as_deref(), Some("1500"));
        assert_eq!(QuestionHead::from_properties(properties.clone()), None);
        let read = |change: fn(&mut Properties)| {
            let mut properties = properties.clone();
            change(&mut properties);
            CancelHead::from_properties(properties)
        };
        assert_eq!(read(|_| ()), Some(head));
        assert_eq!(read(|it| it.kind = Some("lepus.cancel/2".into())), None);
        assert_eq!(read(|it| it.reply_to = None), None);
        assert_eq!(read(|it| it.expiration = None), None);
        assert_eq!(read(|it| it.expiration = Some("soon".into())), None);
    }

    #[test]
    fn an_answer_reads_as_it_was_written() {
        let head = AnswerHead {
            kind: QuestionKind::Health,
            correlation_id: b"42".to_vec(),
            answerer: None,
        };
        let properties = head.clone().into_properties();
        assert_eq!(properties.content_type.as_deref(), Some(JSON));
        assert_eq!(AnswerHead::from_properties(properties), Some(head));
    }
}
