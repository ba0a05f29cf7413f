//! The fixture of the tests: a broker to talk to, names of their own, and patience.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part, and a test fails by panicking"
)]

pub(crate) mod raw;

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use lepus_broker::Broker;

/// Publishes and waits for the broker's word, if the channel asks for it.
pub(crate) async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) {
    publish_with(channel, exchange, key, body, BasicProperties::default()).await;
}

pub(crate) async fn publish_with(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Confirmation {
    channel
        .basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap()
}

/// A broker and one connection to it.
pub(crate) struct Env {
    pub(crate) broker: Option<Broker>,
    pub(crate) uri: String,
    pub(crate) connection: Connection,
}

impl Env {
    /// The embedded broker, or the one that `AMQP_URL` names.
    pub(crate) async fn start() -> Self {
        match std::env::var("AMQP_URL") {
            Ok(uri) => Self::connected(None, uri).await,
            Err(_) => Self::embedded(Broker::start().await.unwrap()).await,
        }
    }

    pub(crate) async fn embedded(broker: Broker) -> Self {
        let uri = broker.uri();
        Self::connected(Some(broker), uri).await
    }

    async fn connected(broker: Option<Broker>, uri: String) -> Self {
        let connection = connect(&uri).await.unwrap();
        Self {
            broker,
            uri,
            connection,
        }
    }

    pub(crate) fn broker(&self) -> &Broker {
        self.broker
            .as_ref()
            .expect("this test is for the embedded broker")
    }

    pub(crate) async fn connect(&self) -> Connection {
        connect(&self.uri).await.unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// A name that no other test has.
    pub(crate) fn name(&self, hint: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("lepus-broker-test.{}.{number}.{hint}", std::process::id())
    }

    /// A queue that another broker forgets by itself.
    pub(crate) async fn queue(
        &self,
        channel: &Channel,
        hint: &str,
        arguments: FieldTable,
    ) -> String {
        let mut arguments = arguments;
        if self.broker.is_none() {
            arguments.insert("x-expires".into(), AMQPValue::LongInt(60_000));
        }
        let name = self.name(hint);
        channel
            .queue_declare(
                name.as_str().into(),
                QueueDeclareOptions::default(),
                arguments,
            )
            .await
            .unwrap();
        name
    }

    pub(crate) async fn exchange(
        &self,
        channel: &Channel,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> String {
        let name = self.name("exchange");
        let options = ExchangeDeclareOptions {
            auto_delete: self.broker.is_none(),
            ..Default::default()
        };
        channel
            .exchange_declare(name.as_str().into(), kind, options, arguments)
            .await
            .unwrap();
        name
    }
}

pub(crate) async fn connect(uri: &str) -> lapin::Result<Connection> {
    Connection::connect(uri, ConnectionProperties::default()).await
}

pub(crate) fn table<const N: usize>(fields: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

/// The AMQP reply code of an error.
pub(crate) fn reply_code(error: &lapin::Error) -> u16 {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("no AMQP error: {other:?}"),
    }
}

pub(crate) fn reply_text(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        other => panic!("no AMQP error: {other:?}"),
    }
}

/// Asks again until there is an answer, for ten seconds.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "nothing came of it in ten seconds"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
