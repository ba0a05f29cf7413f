//! amqprs, by hand and as naively as on lapin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use amqprs::BasicProperties;
use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicPublishArguments, BasicQosArguments, Channel,
    ConsumerMessage, QueueDeclareArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use tokio::sync::oneshot;

use crate::load::Operation;
use crate::task::Task;

const DIRECT: &str = "amq.rabbitmq.reply-to";

async fn channel(task: &Task) -> Channel {
    let uri: lapin::uri::AMQPUri = task.address.parse().expect("a URI");
    let (authority, user) = (uri.authority.clone(), uri.authority.userinfo);
    let mut arguments = OpenConnectionArguments::new(
        &authority.host,
        authority.port,
        &user.username,
        &user.password,
    );
    arguments.virtual_host(&uri.vhost);
    let connection = Connection::open(&arguments).await.expect("a connection");
    let channel = connection.open_channel(None).await.expect("a channel");
    // Its drop closes it; this one lives as long as the process.
    std::mem::forget(connection);
    channel
}

pub async fn serve(task: &Task) -> String {
    let channel = channel(task).await;
    let queue = task.name("echo");
    let declare = QueueDeclareArguments::durable_client_named(&queue);
    channel.queue_declare(declare).await.expect("a queue");
    let prefetch = BasicQosArguments::new(0, task.case.prefetch, false);
    channel.basic_qos(prefetch).await.expect("a prefetch");
    let arguments = BasicConsumeArguments::new(&queue, "echo");
    let (_, mut requests) = channel
        .basic_consume_rx(arguments)
        .await
        .expect("a consumer");
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let channel = channel.clone();
            tokio::spawn(async move { answer(&channel, request).await });
        }
    });
    String::new()
}

async fn answer(channel: &Channel, request: ConsumerMessage) {
    let properties = request.basic_properties.expect("properties");
    let to = properties.reply_to().expect("reply_to");
    let arguments = BasicPublishArguments::new("", to);
    let id = properties.correlation_id().expect("correlation_id");
    let mut properties = BasicProperties::default();
    properties.with_correlation_id(id);
    let content = request.content.expect("a body");
    channel
        .basic_publish(properties, content, arguments)
        .await
        .expect("a reply");
    let tag = request.deliver.expect("a delivery").delivery_tag();
    channel
        .basic_ack(BasicAckArguments::new(tag, false))
        .await
        .expect("an acknowledgement");
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

pub async fn client(task: &Task) -> Operation {
    let channel = channel(task).await;
    let mut arguments = BasicConsumeArguments::new(DIRECT, "replies");
    let arguments = arguments.manual_ack(false).finish();
    let (_, mut replies) = channel
        .basic_consume_rx(arguments)
        .await
        .expect("a consumer");
    let waiting = Waiting::default();
    let table = Arc::clone(&waiting);
    tokio::spawn(async move {
        while let Some(reply) = replies.recv().await {
            let properties = reply.basic_properties.expect("properties");
            let id = properties.correlation_id().expect("an id");
            let waiter = table.lock().expect("no panic").remove(id);
            if let Some(waiter) = waiter {
                let _ = waiter.send(reply.content.expect("a body"));
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
            let mut properties = BasicProperties::default();
            properties.with_correlation_id(&id).with_reply_to(DIRECT);
            let (arguments, size) = (BasicPublishArguments::new("", &queue), payload.len());
            channel
                .basic_publish(properties, payload, arguments)
                .await
                .expect("a request");
            assert_eq!(reply.await.expect("a reply").len(), size);
        }
    })
}
