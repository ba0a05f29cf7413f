//! The semantics of queues and exchanges, scenario by scenario.
//!
//! `AMQP_URL` runs the same against RabbitMQ, which is the yardstick.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Consumer, ExchangeKind,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldArray, FieldTable},
};
use support::{Env, eventually, long, publish, publish_with, reply_code, table};

fn number(n: i32) -> AMQPValue {
    AMQPValue::LongInt(n)
}

async fn confirming(env: &Env) -> Channel {
    let channel = env.channel().await;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    channel
}

async fn get(channel: &Channel, queue: &str) -> Option<Delivery> {
    let found = channel
        .basic_get(queue.into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap();
    found.map(|message| message.delivery)
}

/// Takes everything out of a queue.
async fn drain(channel: &Channel, queue: &str) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some(message) = get(channel, queue).await {
        bodies.push(message.data);
    }
    bodies
}

async fn consume(channel: &Channel, queue: &str, tag: &str, arguments: FieldTable) -> Consumer {
    channel
        .basic_consume(
            queue.into(),
            tag.into(),
            BasicConsumeOptions::default(),
            arguments,
        )
        .await
        .unwrap()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_secs(10), consumer.next())
        .await
        .expect("nothing was delivered")
        .unwrap()
        .unwrap()
}

/// Whether nothing arrives for a while.
async fn quiet(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(Duration::from_millis(100), consumer.next())
        .await
        .is_err()
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}

async fn depth(env: &Env, queue: &str) -> u32 {
    let channel = env.channel().await;
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
        .unwrap()
        .message_count()
}

async fn exists(env: &Env, queue: &str) -> bool {
    let channel = env.channel().await;
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    match channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
    {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(reply_code(&error), 404);
            false
        }
    }
}

/// The deaths in a message's headers: queue, reason, count.
fn deaths(message: &Delivery) -> Vec<(String, String, i64)> {
    let headers = message.properties.headers().clone().unwrap();
    let deaths = headers
        .inner()
        .get("x-death")
        .unwrap()
        .as_array()
        .unwrap()
        .clone();
    deaths
        .as_slice()
        .iter()
        .map(|death| {
            let death = death.as_field_table().unwrap();
            let text = |name: &str| {
                death
                    .inner()
                    .get(name)
                    .unwrap()
                    .as_long_string()
                    .unwrap()
                    .to_string()
            };
            let count = death
                .inner()
                .get("count")
                .unwrap()
                .as_long_long_int()
                .unwrap();
            (text("queue"), text("reason"), count)
        })
        .collect()
}

fn dead_letters_to(queue: &str) -> [(&'static str, AMQPValue); 2] {
    [
        ("x-dead-letter-exchange", long("")),
        ("x-dead-letter-routing-key", long(queue)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatch_is_round_robin() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env.queue(&channel, "robin", FieldTable::default()).await;
    let mut a = consume(&channel, &queue, "a", FieldTable::default()).await;
    let mut b = consume(&channel, &queue, "b", FieldTable::default()).await;
    for n in 0..4 {
        publish(&channel, "", &queue, &[n]).await;
    }
    let mut seen = vec![next(&mut a).await.data[0], next(&mut a).await.data[0]];
    seen.sort_unstable();
    assert!(seen == [0, 2] || seen == [1, 3], "{seen:?}");
    next(&mut b).await;
    next(&mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_consumer_priority_goes_first() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env
        .queue(&channel, "priorities", FieldTable::default())
        .await;
    channel
        .basic_qos(2, BasicQosOptions::default())
        .await
        .unwrap();
    let mut low = consume(&channel, &queue, "low", FieldTable::default()).await;
    let mut high = consume(
        &channel,
        &queue,
        "high",
        table([("x-priority", number(10))]),
    )
    .await;
    for n in 0..3 {
        publish(&channel, "", &queue, &[n]).await;
    }
    assert_eq!(next(&mut high).await.data, [0]);
    assert_eq!(next(&mut high).await.data, [1]);
    assert_eq!(next(&mut low).await.data, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_active_consumer_is_followed_by_the_next() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let arguments = table([("x-single-active-consumer", AMQPValue::Boolean(true))]);
    let queue = env.queue(&channel, "single", arguments).await;
    let mut first = consume(&channel, &queue, "first", FieldTable::default()).await;
    let mut second = consume(&channel, &queue, "second", FieldTable::default()).await;
    for n in 0..2 {
        publish(&channel, "", &queue, &[n]).await;
        assert_eq!(next(&mut first).await.data, [n]);
    }
    assert!(quiet(&mut second).await);
    channel
        .basic_cancel("first".into(), BasicCancelOptions::default())
        .await
        .unwrap();
    publish(&channel, "", &queue, &[2]).await;
    assert_eq!(next(&mut second).await.data, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_consumers_are_alone() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let queue = env.queue(&channel, "alone", FieldTable::default()).await;
    let exclusive = BasicConsumeOptions {
        exclusive: true,
        ..Default::default()
    };
    let _consumer = channel
        .basic_consume(
            queue.as_str().into(),
            "x".into(),
            exclusive,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let other = env.channel().await;
    let refused = other
        .basic_consume(
            queue.as_str().into(),
            "y".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await;
    assert_eq!(reply_code(&refused.unwrap_err()), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn message_priorities_order_a_queue() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env
        .queue(&channel, "ranked", table([("x-max-priority", number(5))]))
        .await;
    for (priority, body) in [(0, b"c"), (3, b"b"), (9, b"a"), (0, b"d")] {
        let properties = BasicProperties::default().with_priority(priority);
        publish_with(&channel, "", &queue, body, properties).await;
    }
    assert_eq!(drain(&channel, &queue).await, [b"a", b"b", b"c", b"d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_its_head() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let grave = env.queue(&channel, "grave", FieldTable::default()).await;
    let mut arguments = table(dead_letters_to(&grave));
    arguments.insert("x-max-length".into(), number(2));
    let queue = env.queue(&channel, "short", arguments).await;
    for n in 0..4 {
        assert_eq!(
            publish_with(&channel, "", &queue, &[n], BasicProperties::default()).await,
            Confirmation::Ack(None)
        );
    }
    assert_eq!(drain(&channel, &queue).await, [[2], [3]]);
    let dead = eventually(|| get(&channel, &grave)).await;
    assert_eq!(dead.data, [0]);
    assert_eq!(deaths(&dead), [(queue, "maxlen".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_may_count_bytes() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env
        .queue(
            &channel,
            "bytes",
            table([("x-max-length-bytes", number(10))]),
        )
        .await;
    for body in [&b"12345"[..], b"6789", b"abcd"] {
        publish(&channel, "", &queue, body).await;
    }
    assert_eq!(drain(&channel, &queue).await, [b"6789", b"abcd"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_may_reject() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let arguments = table([
        ("x-max-length", number(1)),
        ("x-overflow", long("reject-publish")),
    ]);
    let queue = env.queue(&channel, "full", arguments).await;
    let plain = BasicProperties::default;
    assert_eq!(
        publish_with(&channel, "", &queue, b"1", plain()).await,
        Confirmation::Ack(None)
    );
    // RabbitMQ's queue may take one more before its limit is known to all.
    let outcomes = eventually(|| async {
        let outcome = publish_with(&channel, "", &queue, b"2", plain()).await;
        matches!(outcome, Confirmation::Nack(_)).then_some(outcome)
    })
    .await;
    assert_eq!(outcomes, Confirmation::Nack(None));
    assert_eq!(get(&channel, &queue).await.unwrap().data, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_publish_may_be_dead_lettered() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let grave = env.queue(&channel, "grave", FieldTable::default()).await;
    let mut arguments = table(dead_letters_to(&grave));
    arguments.insert("x-max-length".into(), number(1));
    arguments.insert("x-overflow".into(), long("reject-publish-dlx"));
    let queue = env.queue(&channel, "full", arguments).await;
    for body in [b"1", b"2"] {
        publish(&channel, "", &queue, body).await;
    }
    assert_eq!(eventually(|| get(&channel, &grave)).await.data, b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_expire_at_the_head_only() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env.queue(&channel, "expiring", FieldTable::default()).await;
    publish(&channel, "", &queue, b"stays").await;
    let short = BasicProperties::default().with_expiration("1".into());
    publish_with(&channel, "", &queue, b"goes", short).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        depth(&env, &queue).await,
        2,
        "behind another it is not looked at"
    );
    assert_eq!(drain(&channel, &queue).await, [b"stays"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_request_is_never_delivered() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env.queue(&channel, "expiring", FieldTable::default()).await;
    let none = BasicProperties::default().with_expiration("0".into());
    publish_with(&channel, "", &queue, b"late", none.clone()).await;
    assert!(get(&channel, &queue).await.is_none());
    // Somebody who waits for it gets it.
    let mut consumer = consume(&channel, &queue, "c", FieldTable::default()).await;
    publish_with(&channel, "", &queue, b"in time", none).await;
    assert_eq!(next(&mut consumer).await.data, b"in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_queues_expire() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let name = env.name("unused");
    let arguments = table([("x-expires", number(80))]);
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare(name.as_str().into(), options, arguments)
        .await
        .unwrap();
    let mut consumer = consume(&channel, &name, "c", FieldTable::default()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(exists(&env, &name).await, "a consumer uses it");
    channel
        .basic_cancel("c".into(), BasicCancelOptions::default())
        .await
        .unwrap();
    assert!(consumer.next().await.is_none());
    eventually(|| async {
        // Asking is use too, so ask seldom.
        tokio::time::sleep(Duration::from_millis(200)).await;
        (!exists(&env, &name).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_delete_queues_go_with_their_last_consumer() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let name = env.name("auto");
    let options = QueueDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .queue_declare(name.as_str().into(), options, FieldTable::default())
        .await
        .unwrap();
    let _first = consume(&channel, &name, "1", FieldTable::default()).await;
    let _second = consume(&channel, &name, "2", FieldTable::default()).await;
    channel
        .basic_cancel("1".into(), BasicCancelOptions::default())
        .await
        .unwrap();
    assert!(exists(&env, &name).await);
    channel
        .basic_cancel("2".into(), BasicCancelOptions::default())
        .await
        .unwrap();
    eventually(|| async { (!exists(&env, &name).await).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unroutable_messages_take_the_alternate_exchange() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let spare = env
        .exchange(&channel, ExchangeKind::Fanout, FieldTable::default())
        .await;
    let main = env
        .exchange(
            &channel,
            ExchangeKind::Direct,
            table([("alternate-exchange", long(&spare))]),
        )
        .await;
    let (hit, miss) = (
        env.queue(&channel, "hit", FieldTable::default()).await,
        env.queue(&channel, "miss", FieldTable::default()).await,
    );
    bind(&channel, &hit, &main, "k").await;
    bind(&channel, &miss, &spare, "").await;
    publish(&channel, &main, "k", b"hit").await;
    publish(&channel, &main, "other", b"miss").await;
    assert_eq!(drain(&channel, &hit).await, [b"hit"]);
    let message = get(&channel, &miss).await.unwrap();
    assert_eq!(
        (message.data.as_slice(), message.exchange.as_str()),
        (&b"miss"[..], main.as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_bind_to_exchanges_and_each_queue_gets_one_copy() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let source = env
        .exchange(&channel, ExchangeKind::Topic, FieldTable::default())
        .await;
    let target = env
        .exchange(&channel, ExchangeKind::Fanout, FieldTable::default())
        .await;
    let queue = env.queue(&channel, "chained", FieldTable::default()).await;
    bind(&channel, &queue, &target, "").await;
    bind(&channel, &queue, &source, "a.*").await;
    for (destination, source) in [(&target, &source), (&source, &target)] {
        channel
            .exchange_bind(
                destination.as_str().into(),
                source.as_str().into(),
                "#".into(),
                ExchangeBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
    }
    publish(&channel, &source, "a.b", b"once").await;
    assert_eq!(drain(&channel, &queue).await, [b"once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_delete_exchanges_go_with_their_last_binding() {
    let env = Env::start().await;
    let channel = env.channel().await;
    let name = env.name("auto");
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .exchange_declare(
            name.as_str().into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let queue = env.queue(&channel, "bound", FieldTable::default()).await;
    bind(&channel, &queue, &name, "k").await;
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let gone = channel
        .exchange_declare(
            name.as_str().into(),
            ExchangeKind::Direct,
            passive,
            FieldTable::default(),
        )
        .await;
    assert_eq!(reply_code(&gone.unwrap_err()), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_to_the_keys_in_the_headers() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let mut queues = Vec::new();
    for hint in ["to", "cc", "bcc"] {
        queues.push(env.queue(&channel, hint, FieldTable::default()).await);
    }
    let list = |name: &str| AMQPValue::FieldArray(FieldArray::from(vec![long(name)]));
    let headers = table([("CC", list(&queues[1])), ("BCC", list(&queues[2]))]);
    let properties = BasicProperties::default().with_headers(headers);
    publish_with(&channel, "", &queues[0], b"copy", properties).await;
    for queue in &queues {
        let message = get(&channel, queue).await.unwrap();
        assert_eq!(message.routing_key.as_str(), queues[0]);
        let headers = message.properties.headers().clone().unwrap();
        assert!(headers.contains_key("CC") && !headers.contains_key("BCC"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_are_counted_and_a_cycle_without_rejection_is_cut() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let (work, wait) = (env.name("work"), env.name("wait"));
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    channel
        .queue_declare(work.as_str().into(), options, table(dead_letters_to(&wait)))
        .await
        .unwrap();
    let mut waiting = table(dead_letters_to(&work));
    waiting.insert("x-message-ttl".into(), number(1));
    channel
        .queue_declare(wait.as_str().into(), options, waiting)
        .await
        .unwrap();
    // The retry ladder: rejected, waits, comes back, as often as it is rejected.
    publish(&channel, "", &work, b"job").await;
    for round in 1..4 {
        let job = eventually(|| async {
            let options = BasicGetOptions { no_ack: false };
            channel
                .basic_get(work.as_str().into(), options)
                .await
                .unwrap()
        })
        .await;
        if round > 1 {
            let expected = [
                (wait.clone(), "expired".to_owned(), round - 1),
                (work.clone(), "rejected".to_owned(), round - 1),
            ];
            assert_eq!(deaths(&job.delivery), expected);
        }
        channel
            .basic_reject(job.delivery_tag, BasicRejectOptions { requeue: false })
            .await
            .unwrap();
    }
    // A message that expires its way round is dropped when it closes the circle.
    let mut looping = table(dead_letters_to(""));
    let round = env.name("round");
    looping.insert("x-dead-letter-routing-key".into(), long(&round));
    looping.insert("x-message-ttl".into(), number(1));
    channel
        .queue_declare(round.as_str().into(), options, looping)
        .await
        .unwrap();
    publish(&channel, "", &round, b"dizzy").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(get(&channel, &round).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_lose_their_expiration_and_keep_the_rest() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let grave = env.queue(&channel, "grave", FieldTable::default()).await;
    let queue = env
        .queue(&channel, "dying", table(dead_letters_to(&grave)))
        .await;
    let properties = BasicProperties::default()
        .with_expiration("10".into())
        .with_correlation_id("id".into())
        .with_headers(table([("mine", number(1))]));
    publish_with(&channel, "", &queue, b"x", properties).await;
    let dead = eventually(|| get(&channel, &grave)).await;
    assert_eq!(dead.properties.expiration(), &None);
    assert_eq!(dead.properties.correlation_id(), &Some("id".into()));
    let headers = dead.properties.headers().clone().unwrap();
    assert_eq!(headers.inner().get("mine"), Some(&number(1)));
    assert_eq!(
        headers.inner().get("x-first-death-queue"),
        Some(&long(&queue))
    );
    assert_eq!(
        headers.inner().get("x-first-death-exchange"),
        Some(&long(""))
    );
    let deaths = headers
        .inner()
        .get("x-death")
        .unwrap()
        .as_array()
        .unwrap()
        .clone();
    let death = deaths.as_slice()[0].as_field_table().unwrap().clone();
    assert_eq!(death.inner().get("original-expiration"), Some(&long("10")));
    assert_eq!(
        death.inner().get("routing-keys"),
        Some(&AMQPValue::FieldArray(FieldArray::from(vec![long(&queue)])))
    );
    assert!(matches!(
        death.inner().get("time"),
        Some(AMQPValue::Timestamp(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_queues_limit_deliveries() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let grave = env.queue(&channel, "grave", FieldTable::default()).await;
    let mut arguments = table(dead_letters_to(&grave));
    arguments.insert("x-queue-type".into(), long("quorum"));
    arguments.insert("x-delivery-limit".into(), number(2));
    let name = env.name("quorum");
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(name.as_str().into(), options, arguments)
        .await
        .unwrap();
    publish(&channel, "", &name, b"poison").await;
    let worker = env.channel().await;
    let mut consumer = consume(&worker, &name, "w", FieldTable::default()).await;
    let mut counts = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        counts.push(
            headers
                .inner()
                .get("x-delivery-count")
                .and_then(AMQPValue::as_long_long_int),
        );
        let options = BasicNackOptions {
            requeue: true,
            ..Default::default()
        };
        worker
            .basic_nack(delivery.delivery_tag, options)
            .await
            .unwrap();
    }
    assert_eq!(counts, [None, Some(1), Some(2)]);
    let dead = eventually(|| get(&channel, &grave)).await;
    assert_eq!(
        deaths(&dead),
        [(name.clone(), "delivery_limit".to_owned(), 1)]
    );
    channel
        .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_gives_everything_back_in_order() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env
        .queue(&channel, "recovered", FieldTable::default())
        .await;
    for n in 0..3 {
        publish(&channel, "", &queue, &[n]).await;
    }
    let worker = env.channel().await;
    for _ in 0..2 {
        worker
            .basic_get(queue.as_str().into(), BasicGetOptions::default())
            .await
            .unwrap()
            .unwrap();
    }
    worker
        .basic_recover(BasicRecoverOptions { requeue: true })
        .await
        .unwrap();
    let mut seen = Vec::new();
    while let Some(message) = get(&channel, &queue).await {
        seen.push((message.data[0], message.redelivered));
    }
    assert_eq!(seen, [(0, true), (1, true), (2, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_settle_several_and_unknown_tags_close_the_channel() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env.queue(&channel, "multiple", FieldTable::default()).await;
    for n in 0..4 {
        publish(&channel, "", &queue, &[n]).await;
    }
    let worker = env.channel().await;
    let mut consumer = consume(&worker, &queue, "w", FieldTable::default()).await;
    let mut tags = Vec::new();
    for _ in 0..4 {
        tags.push(next(&mut consumer).await.delivery_tag);
    }
    let multiple = BasicAckOptions { multiple: true };
    worker.basic_ack(tags[2], multiple).await.unwrap();
    // Settled already, also as one of several.
    worker.basic_ack(tags[1], multiple).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), consumer.next())
        .await
        .unwrap();
    assert_eq!(reply_code(&end.unwrap().unwrap_err()), 406);
    let left = eventually(|| get(&channel, &queue)).await;
    assert_eq!((left.data.as_slice(), left.redelivered), (&[3][..], true));
    assert!(get(&channel, &queue).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_may_be_shared_by_the_channel() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let (one, two) = (
        env.queue(&channel, "one", FieldTable::default()).await,
        env.queue(&channel, "two", FieldTable::default()).await,
    );
    for queue in [&one, &two] {
        for n in 0..2 {
            publish(&channel, "", queue, &[n]).await;
        }
    }
    let worker = env.channel().await;
    worker
        .basic_qos(2, BasicQosOptions { global: true })
        .await
        .unwrap();
    let mut a = consume(&worker, &one, "a", FieldTable::default()).await;
    let mut b = consume(&worker, &two, "b", FieldTable::default()).await;
    let first = next(&mut a).await;
    next(&mut a).await;
    assert!(quiet(&mut b).await);
    worker
        .basic_ack(first.delivery_tag, BasicAckOptions::default())
        .await
        .unwrap();
    assert_eq!(next(&mut b).await.data, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_replies_need_no_queue() {
    let env = Env::start().await;
    let server = env.channel().await;
    let queue = env.queue(&server, "rpc", FieldTable::default()).await;
    let mut requests = consume(&server, &queue, "s", FieldTable::default()).await;
    let client = env.channel().await;
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        ..Default::default()
    };
    let mut replies = client
        .basic_consume(
            "amq.rabbitmq.reply-to".into(),
            "r".into(),
            no_ack,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let properties = BasicProperties::default()
        .with_reply_to("amq.rabbitmq.reply-to".into())
        .with_correlation_id("7".into());
    publish_with(&client, "", &queue, b"ping", properties).await;
    let request = next(&mut requests).await;
    let address = request.properties.reply_to().clone().unwrap();
    assert!(address.as_str().starts_with("amq.rabbitmq.reply-to."));
    let properties = BasicProperties::default().with_correlation_id("7".into());
    publish_with(&server, "", address.as_str(), b"pong", properties).await;
    let reply = next(&mut replies).await;
    assert_eq!(reply.data, b"pong");
    assert_eq!(reply.properties.correlation_id(), &Some("7".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_returned_comes_before_its_confirm() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let exchange = env
        .exchange(&channel, ExchangeKind::Direct, FieldTable::default())
        .await;
    let properties = BasicProperties::default().with_message_id("m".into());
    let outcome = channel
        .basic_publish(
            exchange.as_str().into(),
            "k".into(),
            mandatory,
            b"body",
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap();
    let Confirmation::Ack(Some(returned)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (returned.reply_code, returned.reply_text.as_str()),
        (312, "NO_ROUTE")
    );
    assert_eq!(returned.delivery.data, b"body");
    assert_eq!(returned.delivery.properties.message_id(), &Some("m".into()));
    assert_eq!(returned.delivery.exchange.as_str(), exchange);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_every_type_come_through() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env.queue(&channel, "typed", FieldTable::default()).await;
    let headers = table([
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(8)),
        ("i16", AMQPValue::ShortInt(-16)),
        ("u16", AMQPValue::ShortUInt(16)),
        ("i32", AMQPValue::LongInt(-32)),
        ("u32", AMQPValue::LongUInt(32)),
        ("i64", AMQPValue::LongLongInt(-64)),
        ("f32", AMQPValue::Float(0.5)),
        ("f64", AMQPValue::Double(0.25)),
        ("text", long("text")),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("bytes", AMQPValue::ByteArray(vec![1, 2, 3].into())),
        ("void", AMQPValue::Void),
        ("table", AMQPValue::FieldTable(table([("in", number(1))]))),
        (
            "list",
            AMQPValue::FieldArray(FieldArray::from(vec![number(1), long("two")])),
        ),
    ]);
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_content_type("a".into())
        .with_content_encoding("b".into())
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("d".into())
        .with_expiration("60000".into())
        .with_message_id("e".into())
        .with_timestamp(1_700_000_000)
        .with_type("f".into())
        .with_user_id("guest".into())
        .with_app_id("g".into())
        .with_cluster_id("h".into());
    publish_with(&channel, "", &queue, b"", properties.clone()).await;
    assert_eq!(get(&channel, &queue).await.unwrap().properties, properties);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_channel_gives_back_what_it_holds() {
    let env = Env::start().await;
    let channel = confirming(&env).await;
    let queue = env.queue(&channel, "held", FieldTable::default()).await;
    for n in 0..3 {
        publish(&channel, "", &queue, &[n]).await;
    }
    let worker = env.channel().await;
    let mut held = consume(&worker, &queue, "w", FieldTable::default()).await;
    for _ in 0..3 {
        next(&mut held).await;
    }
    let mut heir = consume(&channel, &queue, "h", FieldTable::default()).await;
    worker.close(200, "gone".into()).await.unwrap();
    for n in 0..3 {
        let delivery = next(&mut heir).await;
        assert_eq!(
            (delivery.data.as_slice(), delivery.redelivered),
            (&[n][..], true)
        );
    }
}
