//! What one writes first on lapin: a task a request, direct reply-to, a UUID for each call, every
//! publish and every acknowledgement awaited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ConnectionProperties, Consumer};
use tokio::sync::oneshot;

use crate::load::Operation;
use crate::task::Task;

const DIRECT: &str = "amq.rabbitmq.reply-to";

pub async fn connect(uri: &str) -> lapin::Connection {
    lapin::Connection::connect(uri, ConnectionProperties::default())
        .await
        .expect("a connection")
}

/// A channel that keeps its connection.
pub async fn channel(uri: &str) -> Channel {
    let connection = connect(uri).await;
    connection.create_channel().await.expect("a channel")
}

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

pub async fn serve(task: &Task) -> String {
    let channel = channel(&task.address).await;
    let queue = task.name("echo");
    declare(&channel, &queue).await;
    let mut requests = consume(&channel, &queue, task.case.prefetch).await;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let request = request.expect("a request");
            let channel = channel.clone();
            tokio::spawn(async move { answer(&channel, request).await });
        }
    });
    String::new()
}

async fn answer(channel: &Channel, request: Delivery) {
    let properties = &request.properties;
    let reply_to = properties.reply_to().clone().expect("reply_to");
    let id = properties.correlation_id().clone().expect("correlation_id");
    let properties = BasicProperties::default().with_correlation_id(id);
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), reply_to, options, &request.data, properties)
        .await
        .expect("a reply");
    request
        .ack(BasicAckOptions::default())
        .await
        .expect("an acknowledgement");
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

pub async fn client(task: &Task) -> Operation {
    let channel = channel(&task.address).await;
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
                let _ = waiter.send(reply.data);
            }
        }
    });
    let (queue, payload) = (task.name("echo"), task.payload());
    Operation::new(move || {
        let (channel, waiting) = (channel.clone(), Arc::clone(&waiting));
        let (queue, payload) = (queue.clone(), payload.clone());
        async move {
            let id = uuid::Uuid::new_v4().to_string();
            let (sender, reply) = oneshot::channel();
            waiting.lock().expect("no panic").insert(id.clone(), sender);
            let properties = BasicProperties::default()
                .with_correlation_id(id.into())
                .with_reply_to(DIRECT.into());
            let options = BasicPublishOptions::default();
            channel
                .basic_publish("".into(), queue.into(), options, &payload, properties)
                .await
                .expect("a request");
            assert_eq!(reply.await.expect("a reply").len(), payload.len());
        }
    })
}
