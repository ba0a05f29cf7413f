//! The same through `lapin`, as an application would.

use std::time::Instant;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, options::*,
    types::FieldTable,
};

pub(crate) fn stream(uri: &str, size: usize, count: usize) -> f64 {
    run(async {
        let (connection, queue) = open(uri).await;
        let consuming = connection.create_channel().await.unwrap();
        let mut consumer = consume(&consuming, &queue, 1000, false).await;
        let publishing = connect(uri).await;
        let channel = publishing.create_channel().await.unwrap();
        let start = Instant::now();
        let publisher = tokio::spawn(async move {
            let body = vec![7; size];
            for _ in 0..count {
                publish(&channel, &queue, &body).await;
            }
            channel
        });
        for received in 1..=count {
            let delivery = consumer.next().await.unwrap().unwrap();
            if received % 100 == 0 || received == count {
                let options = BasicAckOptions { multiple: true };
                consuming
                    .basic_ack(delivery.delivery_tag, options)
                    .await
                    .unwrap();
            }
        }
        let elapsed = start.elapsed();
        publisher.await.unwrap();
        count as f64 / elapsed.as_secs_f64()
    })
}

pub(crate) fn rpc(uri: &str, window: usize, count: usize) -> f64 {
    run(async {
        let (server, requests) = open(uri).await;
        let serving = server.create_channel().await.unwrap();
        let mut incoming = consume(&serving, &requests, window, false).await;
        let (client, replies) = open(uri).await;
        let calling = client.create_channel().await.unwrap();
        let mut answers = consume(&calling, &replies, 0, true).await;
        let start = Instant::now();
        let serve = tokio::spawn(async move {
            for _ in 0..count {
                let request = incoming.next().await.unwrap().unwrap();
                publish(&serving, &replies, &request.data).await;
                serving
                    .basic_ack(request.delivery_tag, BasicAckOptions::default())
                    .await
                    .unwrap();
            }
            serving
        });
        for _ in 0..window {
            publish(&calling, &requests, &[7; 16]).await;
        }
        for answered in 0..count {
            answers.next().await.unwrap().unwrap();
            if answered + window < count {
                publish(&calling, &requests, &[7; 16]).await;
            }
        }
        let elapsed = start.elapsed();
        serve.await.unwrap();
        count as f64 / elapsed.as_secs_f64()
    })
}

fn run(work: impl Future<Output = f64>) -> f64 {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

async fn connect(uri: &str) -> Connection {
    Connection::connect(uri, ConnectionProperties::default())
        .await
        .unwrap()
}

async fn open(uri: &str) -> (Connection, String) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("lepus-bench-lapin.{}.{number}", std::process::id());
    let connection = connect(uri).await;
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .queue_declare(name.as_str().into(), options, FieldTable::default())
        .await
        .unwrap();
    (connection, name)
}

async fn consume(channel: &Channel, queue: &str, prefetch: usize, no_ack: bool) -> Consumer {
    let prefetch = u16::try_from(prefetch).unwrap();
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .unwrap();
    let options = BasicConsumeOptions {
        no_ack,
        ..Default::default()
    };
    channel
        .basic_consume(queue.into(), "c".into(), options, FieldTable::default())
        .await
        .unwrap()
}

async fn publish(channel: &Channel, queue: &str, body: &[u8]) {
    let properties = BasicProperties::default().with_correlation_id("12345678".into());
    channel
        .basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
        .unwrap();
}
