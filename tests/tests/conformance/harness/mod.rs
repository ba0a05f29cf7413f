//! The harness itself, on each broker: what the suites lean on holds.

mod node;

use lapin::types::AMQPValue;
use lepus_tests::proxy::{Cut, Proxy, Way};
use lepus_tests::raw::{Raw, delivery, durable};
use lepus_tests::{Env, conformance, eventually};

conformance!(
    a_message_comes_back,
    a_missing_queue_returns_it,
    a_cut_redelivers,
    arguments_must_match
);

async fn a_message_comes_back(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("box");
    raw.declare(&queue).await;
    assert_eq!(
        raw.get(&queue).await.map(|message| message.data.clone()),
        None
    );
    raw.publish("", &queue, b"hello").await;
    raw.until_messages(&queue, 1).await;
    assert_eq!(raw.next(&queue).await.data, b"hello");
    assert_eq!(raw.count(&queue).await.messages, 0);
    raw.delete(&queue).await;
    assert!(!raw.exists(&queue).await);
    raw.close().await;
}

async fn a_missing_queue_returns_it(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let confirm = raw
        .publish_with("", &env.name("nowhere"), b"x", Default::default())
        .await;
    let returned = confirm
        .expect("a confirm")
        .take_message()
        .expect("the message is back");
    assert_eq!(returned.reply_code, 312);
}

async fn a_cut_redelivers(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("jobs");
    raw.declare(&queue).await;
    raw.publish("", &queue, b"job").await;
    {
        let worker = Raw::open(proxy.uri()).await;
        let mut consumer = worker.consume(&queue, 1).await;
        assert!(!delivery(&mut consumer).await.redelivered);
        proxy.stall(Way::Up);
        proxy.cut(Cut::Rst);
        eventually("the worker sees it", || async {
            !worker.connection.status().connected()
        })
        .await;
    }
    raw.until_messages(&queue, 1).await;
    assert!(raw.next(&queue).await.redelivered);
    raw.delete(&queue).await;
}

async fn arguments_must_match(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("typed");
    raw.declare(&queue).await;
    let other = [("x-max-length", AMQPValue::LongLongInt(1))];
    let error = raw
        .declare_with(&queue, durable(), &other)
        .await
        .expect_err("a mismatch");
    assert!(error.to_string().contains("x-max-length"), "{error}");
    let raw = Raw::open(&env.uri).await;
    let quorum = [("x-queue-type", AMQPValue::LongString("quorum".into()))];
    let error = raw
        .declare_with(&queue, durable(), &quorum)
        .await
        .expect_err("another type");
    assert!(error.to_string().contains("x-queue-type"), "{error}");
    Raw::open(&env.uri).await.delete(&queue).await;
}
