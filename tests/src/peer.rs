//! Callers without Lepus: the protocol by hand, for what no client of ours would send.

use crate::env::Env;
use crate::raw::{Raw, table};
use lapin::message::BasicGetMessage;
use lapin::types::{AMQPValue, ShortString};
use lapin::{BasicProperties, Confirmation};

/// Sends requests and reads replies.
#[derive(Debug)]
pub struct Caller {
    pub raw: Raw,
    pub replies: String,
}

/// A reply, as far as the protocol goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `rpc-status`, none on success.
    pub status: Option<String>,
    /// `rpc-message`.
    pub message: Option<String>,
    pub correlation_id: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

impl Caller {
    /// With an exclusive reply queue.
    pub async fn open(env: &Env) -> Caller {
        let raw = Raw::open(&env.uri).await;
        let replies = env.name("replies-by-hand");
        raw.declare_exclusive(&replies).await;
        Caller { raw, replies }
    }

    /// A request for `method` in JSON.
    pub fn json(&self, method: &str) -> BasicProperties {
        self.addressed("1")
            .with_type(short(method))
            .with_content_type("application/json".into())
    }

    /// The address for the reply, and nothing else.
    pub fn addressed(&self, correlation_id: &str) -> BasicProperties {
        BasicProperties::default()
            .with_reply_to(short(&self.replies))
            .with_correlation_id(short(correlation_id))
    }

    /// Sends a request; returns when the broker has it.
    pub async fn send(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        let sent = self.raw.publish_with("", queue, body, properties).await;
        assert_eq!(sent.expect("a confirm"), Confirmation::Ack(None), "{queue}");
    }

    /// Sends a request and waits for its reply.
    pub async fn ask(&self, queue: &str, properties: BasicProperties, body: &[u8]) -> Reply {
        self.send(queue, properties, body).await;
        self.reply().await
    }

    /// The next reply.
    pub async fn reply(&self) -> Reply {
        Reply::of(&self.raw.next(&self.replies).await)
    }

    /// The number of replies that wait.
    pub async fn waiting(&self) -> u32 {
        self.raw.count(&self.replies).await.messages
    }
}

impl Reply {
    pub fn of(message: &BasicGetMessage) -> Reply {
        let properties = &message.delivery.properties;
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        Reply {
            status: header(properties, "rpc-status"),
            message: header(properties, "rpc-message"),
            correlation_id: text(properties.correlation_id()),
            kind: text(properties.kind()),
            content_type: text(properties.content_type()),
            body: message.delivery.data.clone(),
        }
    }

    /// The code of a failure and its text.
    pub fn failure(&self) -> (&str, &str) {
        match (&self.status, &self.message) {
            (Some(status), Some(message)) => (status, message),
            other => panic!("not a failure: {other:?}, {self:?}"),
        }
    }
}

/// A header that is text.
pub fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("header {name}: {other:?}"),
    }
}

/// Headers that are texts.
pub fn headers(entries: &[(&str, &str)]) -> lapin::types::FieldTable {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, value)| (*name, AMQPValue::LongString((*value).into())))
        .collect();
    table(&entries)
}

/// A short string; panics beyond 255 bytes.
pub fn short(text: &str) -> ShortString {
    ShortString::try_new(text).expect("at most 255 bytes")
}
