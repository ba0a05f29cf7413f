//! A call as it is sent: the request, and what its errors say.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Error, Kind, Outcome};
use crate::publish::Target;
use crate::random::{self, Secret};
use crate::wire::codec::Codec;
use crate::wire::envelope::RequestHead;
use crate::wire::message::Outgoing;
use crate::wire::value::Table;

/// What is sent, and what its errors say.
pub(super) struct Letter {
    pub(super) service: &'static ServiceDescriptor,
    pub(super) method: &'static MethodDescriptor,
    pub(super) queue: Arc<str>,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    pub(super) codec: Codec,
    pub(super) body: Bytes,
    pub(super) message_id: Option<String>,
    pub(super) priority: Option<u8>,
    pub(super) headers: Table,
    pub(super) trace: Table,
}

/// Where a call's answer goes.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) reply_to: &'a str,
    pub(super) id: u64,
    pub(super) secret: &'a Secret,
}

/// The property that a request's answer is told apart by: a mark that nobody can guess, for a peer
/// that was called once could answer calls to others else, and the number of a call or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CorrelationId {
    /// A call.
    One(u64),
    /// A message of several calls.
    Several(u64),
}

impl CorrelationId {
    const SEVERAL: u8 = b'm';

    pub(super) fn write(self, secret: &Secret) -> Vec<u8> {
        let (Self::One(number) | Self::Several(number)) = self;
        let mark = random::digits(secret.mark(number));
        let mut text = Vec::with_capacity(mark.len() + 12);
        text.extend(mark);
        if matches!(self, Self::Several(_)) {
            text.push(Self::SEVERAL);
        }
        // Writing to memory does not fail.
        let _ = write!(text, "{number}");
        text
    }

    /// Reads one that was written under this secret.
    pub(super) fn read(text: &[u8], secret: &Secret) -> Option<Self> {
        let (mark, rest) = text.split_first_chunk()?;
        let (digits, is_several) = match rest.strip_prefix(&[Self::SEVERAL]) {
            Some(digits) => (digits, true),
            None => (rest, false),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (random::digits(secret.mark(number)) == *mark).then_some(if is_several {
            Self::Several(number)
        } else {
            Self::One(number)
        })
    }
}

impl Letter {
    pub(super) fn what(&self) -> Target {
        let (service, method) = (self.service.name().into(), self.method.name().into());
        Target {
            service,
            method,
            queue: Arc::clone(&self.queue),
        }
    }

    pub(super) fn failed(&self, kind: Kind, outcome: Outcome) -> Error {
        self.what()
            .describe(Error::new(kind), self.started, outcome)
    }

    pub(super) fn not_sent(&self, error: Error) -> Error {
        self.what().describe(error, self.started, Outcome::NotSent)
    }

    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The message as it goes out now: the time left is part of it. It may ask the server whether
    /// it takes several calls in one message.
    pub(super) fn outgoing(
        &self,
        caller: Option<&str>,
        answer: Option<Address<'_>>,
        asks: bool,
    ) -> Outgoing {
        let head = RequestHead {
            method: Some(self.method.name().to_owned()),
            reply_to: answer.map(|address| address.reply_to.to_owned()),
            correlation_id: answer
                .map(|address| CorrelationId::One(address.id).write(address.secret)),
            message_id: self.message_id.clone(),
            content_type: Some(self.codec.content_type().to_owned()),
            time_left: Some(self.time_left()),
            priority: self.priority,
            caller: caller.map(str::to_owned),
            asks,
            headers: self.headers.clone(),
            trace: self.trace.clone(),
            persistent: false,
        };
        self.request(head, self.body.clone())
    }

    /// A message to the queue that this one goes to.
    pub(super) fn request(&self, head: RequestHead, body: Bytes) -> Outgoing {
        Outgoing {
            exchange: String::new(),
            routing_key: self.queue.to_string(),
            mandatory: true,
            properties: head.into_properties(),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_correlation_id_is_read_by_who_wrote_it(number: u64, is_several: bool) {
            let id = if is_several {
                CorrelationId::Several(number)
            } else {
                CorrelationId::One(number)
            };
            let (secret, other) = (Secret::new(), Secret::new());
            let text = id.write(&secret);
            prop_assert!(text.is_ascii() && text.len() <= 32);
            prop_assert_eq!(CorrelationId::read(&text, &secret), Some(id));
            prop_assert_eq!(CorrelationId::read(&text, &other), None);
        }

        #[test]
        fn nothing_else_is_one(text in any::<Vec<u8>>(), number: u64) {
            let secret = Secret::new();
            prop_assert_eq!(CorrelationId::read(&text, &secret), None);
            let text = number.to_string();
            prop_assert_eq!(CorrelationId::read(text.as_bytes(), &secret), None);
        }
    }
}
