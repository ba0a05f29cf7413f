//! A call as it is sent: the request, and what its errors say.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::Codec;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::envelope::RequestHead;
use crate::error::{Error, Kind, Outcome};
use crate::message::Outgoing;
use crate::publisher::What;
use crate::value::Table;

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
}

/// What a request's answer is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CorrelationId {
    /// A call.
    One(u64),
    /// A message of several calls.
    Several(u64),
}

impl CorrelationId {
    const SEVERAL: char = 'm';

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(Self::SEVERAL) {
            Some(number) => number.parse().ok().map(Self::Several),
            None => text.parse().ok().map(Self::One),
        }
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(id) => write!(f, "{id}"),
            Self::Several(number) => write!(f, "{}{number}", Self::SEVERAL),
        }
    }
}

impl Letter {
    pub(super) fn what(&self) -> What {
        let (service, method) = (self.service.name().into(), self.method.name().into());
        What {
            service,
            method,
            queue: Arc::clone(&self.queue),
        }
    }

    pub(super) fn failed(&self, kind: Kind, outcome: Outcome) -> Error {
        self.what().failed(Error::new(kind), self.started, outcome)
    }

    pub(super) fn not_sent(&self, error: Error) -> Error {
        self.what().failed(error, self.started, Outcome::NotSent)
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
            correlation_id: answer.map(|address| address.id.to_string()),
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
