//! The broker as a real client (`lapin`) sees it.
//!
//! `AMQP_URL` runs the scenarios that need nothing but a client against another broker.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use lapin::{
    BasicProperties, Confirmation, ExchangeKind,
    message::BasicGetMessage,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions,
        BasicNackOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use support::{Env, publish, publish_with, reply_code, table};

async fn get(channel: &lapin::Channel, queue: &str) -> Option<BasicGetMessage> {
    channel
        .basic_get(queue.into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_world() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let queue = env.queue(&channel, "hello", FieldTable::default()).await;
    for body in [&b""[..], b"hello", &[7; 300_000]] {
        publish(&channel, "", &queue, body).await;
        let message = get(&channel, &queue).await.unwrap();
        assert_eq!(message.data, body);
        assert!(!message.redelivered);
    }
    assert!(get(&channel, &queue).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn confirms_and_returns() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let queue = env.queue(&channel, "confirms", FieldTable::default()).await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let routed = channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            mandatory,
            b"x",
            BasicProperties::default(),
        )
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(routed, Confirmation::Ack(None));
    let lost = channel
        .basic_publish(
            "".into(),
            "nowhere".into(),
            mandatory,
            b"x",
            BasicProperties::default(),
        )
        .await
        .unwrap()
        .await
        .unwrap();
    match lost {
        Confirmation::Ack(Some(returned)) => assert_eq!(returned.reply_code, 312),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_acks_and_redelivery() {
    use futures_util::StreamExt;
    let env = Env::start().await;
    let channel = env.channel().await;
    let queue = env.queue(&channel, "work", FieldTable::default()).await;
    for n in 0..5_u8 {
        publish(&channel, "", &queue, &[n]).await;
    }
    let worker = env.channel().await;
    worker
        .basic_qos(2, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = worker
        .basic_consume(
            queue.as_str().into(),
            "w".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let first = consumer.next().await.unwrap().unwrap();
    let second = consumer.next().await.unwrap().unwrap();
    assert_eq!((first.data[0], second.data[0]), (0, 1));
    let third = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await;
    assert!(third.is_err(), "more than the prefetch arrived");
    worker
        .basic_ack(first.delivery_tag, BasicAckOptions::default())
        .await
        .unwrap();
    let third = consumer.next().await.unwrap().unwrap();
    assert_eq!(third.data[0], 2);
    // Given back, it is the first again.
    worker
        .basic_nack(
            second.delivery_tag,
            BasicNackOptions {
                requeue: true,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let again = consumer.next().await.unwrap().unwrap();
    assert_eq!((again.data[0], again.redelivered), (1, true));
    worker
        .basic_cancel("w".into(), BasicCancelOptions::default())
        .await
        .unwrap();
    worker.close(200, "done".into()).await.unwrap();
    let mut left = Vec::new();
    while let Some(message) = get(&channel, &queue).await {
        left.push((message.data[0], message.redelivered));
    }
    assert_eq!(left, [(1, true), (2, true), (3, false), (4, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_route() {
    let env = Env::start().await;
    let channel = env.channel().await;
    for (kind, binding, key, other) in [
        (ExchangeKind::Direct, "info", "info", "warning"),
        (ExchangeKind::Fanout, "", "anything", ""),
        (
            ExchangeKind::Topic,
            "*.critical.#",
            "kern.critical.now",
            "kern.info",
        ),
    ] {
        let exchange = env.exchange(&channel, kind, FieldTable::default()).await;
        let queue = env.queue(&channel, "routed", FieldTable::default()).await;
        channel
            .queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                binding.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        publish(&channel, &exchange, key, b"yes").await;
        if !other.is_empty() {
            publish(&channel, &exchange, other, b"no").await;
        }
        let message = get(&channel, &queue).await.unwrap();
        assert_eq!(
            (message.data.as_slice(), message.routing_key.as_str()),
            (&b"yes"[..], key)
        );
        assert_eq!(message.exchange.as_str(), exchange);
        assert!(get(&channel, &queue).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_exchange_routes() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let exchange = env
        .exchange(&channel, ExchangeKind::Headers, FieldTable::default())
        .await;
    let queue = env.queue(&channel, "headers", FieldTable::default()).await;
    let pattern = table([
        ("x-match", AMQPValue::LongString("any".into())),
        ("format", AMQPValue::LongString("pdf".into())),
        ("pages", AMQPValue::LongInt(3)),
    ]);
    channel
        .queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            pattern,
        )
        .await
        .unwrap();
    let headers = table([("pages", AMQPValue::LongLongInt(3))]);
    let properties = BasicProperties::default().with_headers(headers.clone());
    publish_with(&channel, &exchange, "", b"match", properties).await;
    let headers_no = table([("pages", AMQPValue::LongInt(4))]);
    publish_with(
        &channel,
        &exchange,
        "",
        b"no",
        BasicProperties::default().with_headers(headers_no),
    )
    .await;
    let message = get(&channel, &queue).await.unwrap();
    assert_eq!(message.data, b"match");
    assert_eq!(message.properties.headers(), &Some(headers));
    assert!(get(&channel, &queue).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_rejected_messages_are_dead_lettered() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let grave = env.queue(&channel, "grave", FieldTable::default()).await;
    let dying = env
        .queue(
            &channel,
            "dying",
            table([
                ("x-message-ttl", AMQPValue::LongInt(50)),
                ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
                (
                    "x-dead-letter-routing-key",
                    AMQPValue::LongString(grave.as_str().into()),
                ),
            ]),
        )
        .await;
    publish(&channel, "", &dying, b"late").await;
    let message = support::eventually(|| get(&channel, &grave)).await;
    assert_eq!(message.data, b"late");
    let headers = message.properties.headers().clone().unwrap();
    assert_eq!(
        headers.inner().get("x-first-death-reason"),
        Some(&AMQPValue::LongString("expired".into()))
    );
    let deaths = headers
        .inner()
        .get("x-death")
        .unwrap()
        .as_array()
        .unwrap()
        .clone();
    let death = deaths.as_slice()[0].as_field_table().unwrap().clone();
    assert_eq!(death.inner().get("count"), Some(&AMQPValue::LongLongInt(1)));
    assert_eq!(
        death.inner().get("queue"),
        Some(&AMQPValue::LongString(dying.as_str().into()))
    );

    publish(&channel, "", &dying, b"bad").await;
    let bad = channel
        .basic_get(dying.as_str().into(), BasicGetOptions { no_ack: false })
        .await
        .unwrap()
        .unwrap();
    channel
        .basic_nack(bad.delivery_tag, BasicNackOptions::default())
        .await
        .unwrap();
    let message = support::eventually(|| get(&channel, &grave)).await;
    let headers = message.properties.headers().clone().unwrap();
    assert_eq!(
        headers.inner().get("x-first-death-reason"),
        Some(&AMQPValue::LongString("rejected".into()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_close_the_channel_with_their_code() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let missing = channel
        .queue_declare("no.such.queue".into(), passive, FieldTable::default())
        .await;
    assert_eq!(reply_code(&missing.unwrap_err()), 404);

    let channel = env.channel().await;
    let queue = env.queue(&channel, "fixed", FieldTable::default()).await;
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let different = channel
        .queue_declare(queue.as_str().into(), durable, FieldTable::default())
        .await;
    assert_eq!(reply_code(&different.unwrap_err()), 406);

    let channel = env.channel().await;
    let reserved = channel
        .queue_declare(
            "amq.mine".into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        )
        .await;
    assert_eq!(reply_code(&reserved.unwrap_err()), 403);

    // The connection and its other channels live on.
    let channel = env.channel().await;
    env.queue(&channel, "still", FieldTable::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_queues_belong_to_their_connection() {
    let env = Env::start().await;
    let other = env.connect().await;
    let channel = other.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    let name = env.name("exclusive");
    channel
        .queue_declare(name.as_str().into(), exclusive, FieldTable::default())
        .await
        .unwrap();

    let mine = env.channel().await;
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let locked = mine
        .queue_declare(name.as_str().into(), passive, FieldTable::default())
        .await;
    assert_eq!(reply_code(&locked.unwrap_err()), 405);

    other.close(200, "bye".into()).await.unwrap();
    support::eventually(|| async {
        let mine = env.channel().await;
        let gone = mine
            .queue_declare(name.as_str().into(), passive, FieldTable::default())
            .await;
        gone.err().filter(|error| reply_code(error) == 404)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_deleted_and_consumers_told() {
    use futures_util::StreamExt;
    let env = Env::start().await;
    let channel = env.channel().await;
    let queue = env.queue(&channel, "doomed", FieldTable::default()).await;
    let mut consumer = channel
        .basic_consume(
            queue.as_str().into(),
            "c".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    publish(&channel, "", &queue, b"one").await;
    assert_eq!(consumer.next().await.unwrap().unwrap().data, b"one");
    let second = env.channel().await;
    let in_use = second
        .queue_delete(
            queue.as_str().into(),
            QueueDeleteOptions {
                if_unused: true,
                ..Default::default()
            },
        )
        .await;
    assert_eq!(reply_code(&in_use.unwrap_err()), 406);
    let second = env.channel().await;
    second
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    assert!(consumer.next().await.is_none(), "the consumer is cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn exchange_declarations_are_compared() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let exchange = env
        .exchange(&channel, ExchangeKind::Direct, FieldTable::default())
        .await;
    let different = channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await;
    assert_eq!(reply_code(&different.unwrap_err()), 406);
}
