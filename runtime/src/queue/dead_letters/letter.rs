//! A message of a dead-letter queue, decoded, with the record of its death.

use std::time::SystemTime;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::escape;
use crate::link::{Delivery, Namespace};
use crate::queue::QueueSpec;
use crate::queue::job::{decode_payload, payload_codec};
use crate::wire::codec::{self, Codec, VariantError, variant};
use crate::wire::envelope::{DeathRecord, JobHead, SourceRoute};
use crate::wire::message::{MessageInfo, message_accessors};
use crate::wire::value::Table;

/// A job in the dead-letter queue, and the reason.
///
/// See [`DeadLetters`](crate::jobs::DeadLetters) for an example.
#[derive(Debug)]
pub struct DeadLetter<T> {
    payload: Result<T, Error>,
    body: Bytes,
    /// The codec of the payload, if it is known.
    codec: Option<Codec>,
    info: MessageInfo,
    record: DeathRecord,
    headers: Table,
}

impl<T> DeadLetter<T> {
    fn info(&self) -> &MessageInfo {
        &self.info
    }

    /// The payload.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when it does not decode, which may be why it is here.
    pub fn payload(&self) -> Result<&T, &Error> {
        self.payload.as_ref()
    }

    /// The payload, taken out.
    ///
    /// # Errors
    /// Those of [`payload`](Self::payload).
    pub fn into_payload(self) -> Result<T, Error> {
        self.payload
    }

    /// A view of the payload as JSON text that loses nothing, whether or not it decodes: see
    /// [`Codec::to_json`]. If there is no codec for its content type, it is
    /// `{"$body":"<base 64>"}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self.codec {
            Some(codec) => codec.to_json(&self.body),
            None => codec::undecoded(&self.body),
        }
    }

    message_accessors! {
        bytes key exchange content_type message_id timestamp app_id headers header trace redelivered
    }

    /// The number of the last attempt, which is the number of attempts; 0 if the broker moved the job
    /// here by itself.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info.attempt
    }

    /// The reason for which it is here: `attempts` (the last one failed), `rejected` (by its handler,
    /// or because it does not decode), `abandoned` (its workers crashed before they settled it); or
    /// the broker's own reason: `expired`, `delivery_limit`, `maxlen`, `rejected`.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.record.reason
    }

    /// The last error; empty if the broker moved it here by itself.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.record.error
    }

    /// The first error, which is the last one if there was one attempt; `None` if the broker moved it
    /// here by itself.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.record.first_error.as_deref()
    }

    /// The queue from which it was moved here.
    #[must_use]
    pub fn source_queue(&self) -> &str {
        &self.record.source_queue
    }

    /// The time at which it was moved here, to the second.
    #[must_use]
    pub fn failed_at(&self) -> Option<SystemTime> {
        clock::from_unix_seconds(self.record.failed_at?)
    }

    /// The task, if the queue carries tasks (AMQP's `type`).
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.info.kind.as_deref()
    }

    /// All headers, as they are on the broker: those that the sender set, and those in which Lepus
    /// and the broker have recorded the failures.
    #[must_use]
    pub fn all_headers(&self) -> &Table {
        &self.headers
    }
}

impl<T: DeserializeOwned> DeadLetter<T> {
    /// Reads a message from the dead-letter queue of `spec`. With `is_by_task`, the payload is an enum, and the
    /// task of the job names its variant.
    pub(super) fn read(
        delivery: &Delivery,
        spec: &QueueSpec,
        is_by_task: bool,
        namespace: &Namespace,
    ) -> Self {
        let message = &delivery.message;
        let record = DeathRecord::read(&message.properties);
        let job = DeathRecord::erase(message.properties.clone());
        let mut head = JobHead::read(&job);
        head.route = source_route(&record, head.route, namespace);
        let info = head.into_info(message, record.attempts);
        let codec = spec.codec();
        let payload = if is_by_task {
            decode_task(codec, &info, &message.body)
        } else {
            decode_payload(codec, info.content_type.as_deref(), &message.body)
        };
        Self {
            payload,
            body: message.body.clone(),
            codec: payload_codec(codec, info.content_type.as_deref()).ok(),
            record,
            headers: message.properties.all_headers(),
            info,
        }
    }
}

/// The exchange and the routing key that the job was published with. `recorded` are those that its headers name.
fn source_route(
    record: &DeathRecord,
    recorded: Option<SourceRoute>,
    namespace: &Namespace,
) -> Option<SourceRoute> {
    match (record.route.clone(), recorded) {
        // The broker dead-lettered what came through an exchange: the headers are its sender's.
        (Some(route), _) if !route.exchange.is_empty() => Some(route),
        (_, Some(recorded)) => Some(recorded),
        (Some(route), None) => Some(route),
        (None, None) if record.source_queue.is_empty() => None,
        // A job that was pushed to its queue.
        (None, None) => Some(SourceRoute {
            exchange: String::new(),
            routing_key: namespace.scope(&record.source_queue),
        }),
    }
}

/// Decodes the arguments of a task as the variant that it names.
fn decode_task<T: DeserializeOwned>(
    own: Codec,
    info: &MessageInfo,
    body: &Bytes,
) -> Result<T, Error> {
    let decoded = || {
        let task = info.kind.as_deref().ok_or("the job names no task")?;
        let codec = payload_codec(own, info.content_type.as_deref())?;
        variant::decode(task, codec, body).map_err(|error| match error {
            VariantError::UnknownName(reason) => escape::Escaped(reason).to_string(),
            VariantError::Malformed(reason) => {
                format!(
                    "the arguments of `{}` do not decode: {reason}",
                    escape::Escaped(task)
                )
            }
        })
    };
    let decoded: Result<T, String> = decoded();
    decoded.map_err(|reason| Error::new(ErrorKind::Decode).caused_by(reason))
}
