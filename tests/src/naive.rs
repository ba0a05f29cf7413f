//! RPC as one writes it first on lapin, for Lepus to be compared with: a task a request, direct
//! reply-to, a UUID for each call, every publish and every acknowledgement awaited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tokio::sync::oneshot;

const DIRECT: &str = "amq.rabbitmq.reply-to";

pub async fn connect(uri: &str) -> Connection {
    Connection::connect(uri, ConnectionProperties::default())
        .await
        .expect("a connection")
}

/// A channel that keeps its connection.
pub async fn channel(uri: &str) -> Channel {
    let connection = connect(uri).await;
    connection.create_channel().await.expect("a channel")
}

/// A durable queue.
pub async fn declare(channel: &Channel, queue: &str) {
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), durable, FieldTable::default())
        .await
        .expect("a queue");
}

pub async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Consumer {
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .expect("a prefetch");
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .expect("a consumer")
}

/// Declares the queue; from then on its requests are answered.
pub async fn serve(uri: &str, queue: &str, prefetch: u16, handler: fn(Vec<u8>) -> Vec<u8>) {
    let channel = channel(uri).await;
    declare(&channel, queue).await;
    let mut requests = consume(&channel, queue, prefetch).await;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let request = request.expect("a request");
            let channel = channel.clone();
            tokio::spawn(async move { answer(&channel, request, handler).await });
        }
    });
}

async fn answer(channel: &Channel, mut request: Delivery, handler: fn(Vec<u8>) -> Vec<u8>) {
    let properties = &request.properties;
    let reply_to = properties.reply_to().clone().expect("reply_to");
    let id = properties.correlation_id().clone().expect("correlation_id");
    let properties = BasicProperties::default().with_correlation_id(id);
    let options = BasicPublishOptions::default();
    let reply = handler(std::mem::take(&mut request.data));
    channel
        .basic_publish("".into(), reply_to, options, &reply, properties)
        .await
        .expect("a reply");
    request
        .ack(BasicAckOptions::default())
        .await
        .expect("an acknowledgement");
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// The calling side.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
    queue: String,
    waiting: Waiting,
}

impl Caller {
    pub async fn open(uri: &str, queue: &str) -> Self {
        let channel = channel(uri).await;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let mut replies = channel
            .basic_consume(DIRECT.into(), "".into(), options, FieldTable::default())
            .await
            .expect("a consumer");
        let waiting = Waiting::default();
        let table = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(reply) = replies.next().await {
                let reply = reply.expect("a reply");
                let id = reply.properties.correlation_id().as_ref().expect("an id");
                let waiter = table.lock().expect("no panic").remove(id.as_str());
                if let Some(waiter) = waiter {
                    // It may have been dropped.
                    let _ = waiter.send(reply.data);
                }
            }
        });
        Self {
            channel,
            queue: queue.to_owned(),
            waiting,
        }
    }

    pub async fn call(&self, payload: &[u8]) -> Vec<u8> {
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, reply) = oneshot::channel();
        let wait = |id| self.waiting.lock().expect("no panic").insert(id, sender);
        wait(id.clone());
        let properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(DIRECT.into());
        let options = BasicPublishOptions::default();
        let queue = self.queue.as_str().into();
        self.channel
            .basic_publish("".into(), queue, options, payload, properties)
            .await
            .expect("a request");
        reply.await.expect("a reply")
    }
}
