//! A peer without Lepus: plain lapin, for what a test has to send or see by itself.

use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use lapin::{ExchangeKind, Result};

use crate::eventually::eventually;
use std::time::Duration;

/// A connection with one channel in confirm mode.
#[derive(Debug)]
pub struct Raw {
    pub connection: Connection,
    pub channel: Channel,
}

/// The counts that a passive declare tells of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Ready, that is, not those delivered and unacknowledged.
    pub messages: u32,
    pub consumers: u32,
}

impl Raw {
    pub async fn open(uri: &str) -> Raw {
        Raw::try_open(uri)
            .await
            .unwrap_or_else(|error| panic!("a raw connection: {error}"))
    }

    pub async fn try_open(uri: &str) -> Result<Raw> {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Raw {
            connection,
            channel,
        })
    }

    /// A durable classic queue.
    pub async fn declare(&self, queue: &str) {
        self.declare_with(queue, durable(), &[])
            .await
            .unwrap_or_else(|e| panic!("{queue}: {e}"));
    }

    /// A queue of this connection alone, which is gone with it.
    pub async fn declare_exclusive(&self, queue: &str) {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        self.declare_with(queue, options, &[])
            .await
            .unwrap_or_else(|e| panic!("{queue}: {e}"));
    }

    pub async fn declare_with(
        &self,
        queue: &str,
        options: QueueDeclareOptions,
        arguments: &[(&str, AMQPValue)],
    ) -> Result<lapin::Queue> {
        self.channel
            .queue_declare(queue.into(), options, table(arguments))
            .await
    }

    /// A durable exchange.
    pub async fn declare_exchange(&self, exchange: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let declared =
            self.channel
                .exchange_declare(exchange.into(), kind, options, FieldTable::default());
        declared
            .await
            .unwrap_or_else(|error| panic!("{exchange}: {error}"));
    }

    pub async fn bind(
        &self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: &[(&str, AMQPValue)],
    ) {
        let options = QueueBindOptions::default();
        let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
        let bound = self
            .channel
            .queue_bind(queue, exchange, key, options, table(arguments));
        bound.await.expect("the binding");
    }

    /// Publishes with no properties; returns when the broker has confirmed it.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        let confirm = self
            .publish_with(exchange, key, body, BasicProperties::default())
            .await;
        assert_eq!(
            confirm.expect("a confirm"),
            Confirmation::Ack(None),
            "{exchange:?} {key:?}"
        );
    }

    /// Publishes mandatory; the confirmation carries the message if it came back.
    pub async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Confirmation> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let (exchange, key) = (exchange.into(), key.into());
        self.channel
            .basic_publish(exchange, key, options, body, properties)
            .await?
            .await
    }

    /// Takes one message and acknowledges it.
    pub async fn get(&self, queue: &str) -> Option<BasicGetMessage> {
        let options = BasicGetOptions { no_ack: true };
        self.channel
            .basic_get(queue.into(), options)
            .await
            .unwrap_or_else(|e| panic!("{queue}: {e}"))
    }

    /// The same, once there is one.
    pub async fn next(&self, queue: &str) -> BasicGetMessage {
        eventually(&format!("a message in {queue}"), || self.get(queue)).await
    }

    /// A consumer that has to acknowledge, with this prefetch.
    pub async fn consume(&self, queue: &str, prefetch: u16) -> Consumer {
        self.channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await
            .expect("a prefetch");
        let options = BasicConsumeOptions::default();
        let consumer = self
            .channel
            .basic_consume(queue.into(), "".into(), options, table(&[]));
        consumer
            .await
            .unwrap_or_else(|error| panic!("{queue}: {error}"))
    }

    /// The counts of a queue; panics when there is none.
    pub async fn count(&self, queue: &str) -> Counts {
        self.try_count(queue)
            .await
            .unwrap_or_else(|error| panic!("{queue}: {error}"))
    }

    pub async fn exists(&self, queue: &str) -> bool {
        self.try_count(queue).await.is_ok()
    }

    /// On a channel of its own, which a missing queue closes.
    pub async fn try_count(&self, queue: &str) -> Result<Counts> {
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let queue = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await?;
        channel.close(200, "counted".into()).await?;
        Ok(Counts {
            messages: queue.message_count(),
            consumers: queue.consumer_count(),
        })
    }

    /// Waits for a queue that somebody declares to have its first message. Until then a quorum
    /// queue may be there and have no leader yet: RabbitMQ answers a `basic.get` with 541, which
    /// ends the connection.
    pub async fn first_message(&self, queue: &str) {
        eventually(&format!("a message in {queue}"), || async {
            let counts = self.try_count(queue).await;
            counts.is_ok_and(|counts| counts.messages > 0)
        })
        .await;
    }

    /// Waits until the queue has so many ready messages.
    pub async fn until_messages(&self, queue: &str, messages: u32) {
        eventually(&format!("{messages} messages in {queue}"), || async {
            let counts = self.count(queue).await;
            if counts.messages == messages {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            }
        })
        .await;
    }

    pub async fn delete(&self, queue: &str) {
        let deleted = self
            .channel
            .queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted
            .await
            .unwrap_or_else(|error| panic!("{queue}: {error}"));
    }

    pub async fn delete_exchange(&self, exchange: &str) {
        let options = ExchangeDeleteOptions::default();
        let deleted = self.channel.exchange_delete(exchange.into(), options);
        deleted
            .await
            .unwrap_or_else(|error| panic!("{exchange}: {error}"));
    }

    pub async fn close(self) {
        self.connection
            .close(200, "done".into())
            .await
            .expect("an orderly end");
    }
}

/// The options of a durable queue.
pub fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..Default::default()
    }
}

/// A table of headers or arguments.
pub fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert((*key).into(), value.clone());
    }
    table
}

/// The next delivery, within ten seconds.
pub async fn delivery(consumer: &mut Consumer) -> Delivery {
    use futures_util::StreamExt;
    let next = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await;
    next.expect("a delivery within 10 s")
        .expect("the consumer goes on")
        .expect("no error")
}
