//! Spans and log lines of requests, jobs and events, without any set-up but a subscriber.

use lepus::middleware::AccessLog;
use lepus::{Connection, Fanout, WorkQueue};
use lepus_broker::Broker;
use lepus_tests::env::turn;
use lepus_tests::eventually;
use lepus_tests::log::Log;
use lepus_tests::probe::{ProbeClient, Subject, serve};
use lepus_tests::raw::Raw;
use std::sync::Arc;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_span_and_a_line_at_its_end() {
    let _turn = turn().await;
    let log = Log::capture("lepus=debug");
    log.take();
    let broker = Broker::start().await.unwrap();
    let builder = Connection::builder(&broker.uri()).name("hare");
    let connection = builder.open().await.unwrap();
    let subject = Arc::new(Subject::default());
    let server = serve(&connection, &subject).start().await.unwrap();
    let probe = ProbeClient::new(&connection);

    probe.echo("x".into()).await.unwrap();
    let server_span = [
        "request{",
        "otel.name=\"probe/echo\"",
        "otel.kind=\"server\"",
        "rpc.system.name=\"lepus\"",
        "caller=\"hare\"",
        "outcome=\"ok\"",
    ];
    let line = [&server_span[..], &["DEBUG", "handler ended", "elapsed="]].concat();
    log.line_with(&line).await;
    log.line_with(&["DEBUG", "call{", "otel.kind=\"client\"", "call ended"])
        .await;
    log.line_with(&["call ended", "outcome=\"ok\""]).await;

    // The method's own error, and a request that is refused.
    assert!(probe.divide(1, 0).await.is_err());
    log.line_with(&[
        "DEBUG",
        "handler ended",
        "probe/divide",
        "outcome=\"application\"",
    ])
    .await;
    let properties = lapin::BasicProperties::default()
        .with_type("no_such".into())
        .with_message_id("id-7".into())
        .with_correlation_id("1".into())
        .with_reply_to("replies".into());
    let raw = Raw::open(&broker.uri()).await;
    let sent = raw.publish_with("", "probe", b"{}", properties);
    sent.await.unwrap();
    let refused = [
        "WARN",
        "a request was refused",
        "service=\"probe\"",
        "method=no_such",
        "message_id=id-7",
    ];
    log.line_with(&refused).await;

    // A panic, and a handler that is stopped at its deadline.
    assert!(probe.panic("ouch".into()).await.is_err());
    log.line_with(&["WARN", "a handler panicked", "method=panic", "panic=ouch"])
        .await;
    let stopped = probe.hold_idempotent(1).timeout(SHORT).await;
    assert!(stopped.unwrap_err().is_timeout());
    let stopped = [
        "WARN",
        "a handler was stopped at its deadline",
        "service=probe",
        "method=hold_idempotent",
        "message_id=",
        "elapsed=",
    ];
    log.line_with(&stopped).await;
    server.stop().await.unwrap();
    connection.close().await;
    let log = log.take();
    Log::capture("off");
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_events_have_spans_on_both_sides() {
    let _turn = turn().await;
    let log = Log::capture("lepus=debug");
    log.take();
    let broker = Broker::start().await.unwrap();
    let connection = Connection::open(&broker.uri()).await.unwrap();
    let queue = WorkQueue::<u8>::new("resize");
    let worker = queue.worker(&connection).start(|_| async {}).await.unwrap();
    let push = queue
        .producer(&connection)
        .push(&1)
        .message_id("job-1")
        .await;
    push.unwrap();
    let published = [
        "DEBUG",
        "publish{",
        "otel.name=\"publish resize\"",
        "otel.kind=\"producer\"",
        "messaging.system=\"rabbitmq\"",
        "messaging.operation.type=\"send\"",
        "messaging.message.id=\"job-1\"",
        "message published",
        "outcome=\"ok\"",
    ];
    log.line_with(&published).await;
    let processed = [
        "DEBUG",
        "process{",
        "otel.name=\"process resize\"",
        "otel.kind=\"consumer\"",
        "messaging.message.id=\"job-1\"",
        "handler ended",
        "message_id=job-1",
        "attempt=1",
    ];
    log.line_with(&processed).await;

    let news = Fanout::<u8>::new("news");
    let subscription = news.subscribe(&connection).start(|_| async {}).await;
    let subscription = subscription.unwrap();
    news.publisher(&connection).publish(&1).await.unwrap();
    log.line_with(&["DEBUG", "publish{", "otel.name=\"publish news\""])
        .await;
    log.line_with(&[
        "DEBUG",
        "process{",
        "otel.name=\"process news\"",
        "event handler ended",
    ])
    .await;
    drop((worker, subscription));
    connection.close().await;
    Log::capture("off");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_not_decode_is_told_once() {
    let _turn = turn().await;
    let log = Log::capture("lepus=debug");
    log.take();
    let broker = Broker::start().await.unwrap();
    let connection = Connection::open(&broker.uri()).await.unwrap();
    let news = Fanout::<u8>::new("news");
    let subscription = news.subscribe(&connection).layer(AccessLog::new());
    let subscription = subscription.start(|_| async {}).await.unwrap();
    let other = Fanout::<String>::new("news").publisher(&connection);
    other.publish(&"no number".to_owned()).await.unwrap();
    log.line_with(&["event handler ended", "outcome=\"application\""])
        .await;
    subscription.stop().await.unwrap();
    connection.close().await;
    let log = log.take();
    Log::capture("off");
    let warnings = log.lines().filter(|line| line.contains(" WARN "));
    let warnings: Vec<_> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("does not decode"), "{warnings:?}");
}

/// The semantic conventions call AMQP's `correlation_id` so.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_events_tell_the_conversation_that_they_belong_to() {
    let _turn = turn().await;
    let log = Log::capture("lepus=debug");
    log.take();
    let broker = Broker::start().await.unwrap();
    let connection = Connection::open(&broker.uri()).await.unwrap();
    let raw = Raw::open(&broker.uri()).await;
    let resize = WorkQueue::<u8>::new("resize").worker(&connection);
    let worker = resize.start(|_| async {}).await.unwrap();
    let news = Fanout::<u8>::new("news");
    let plain = news.subscribe(&connection).start(|_| async {}).await;
    let layered = news.subscribe(&connection).layer(AccessLog::new());
    let layered = layered.start(|_| async {}).await.unwrap();
    for (exchange, key, conversation) in [("", "resize", "order\n7"), ("news", "", "order 8")] {
        let properties = lapin::BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id(conversation.into());
        let sent = raw.publish_with(exchange, key, b"1", properties);
        sent.await.unwrap();
    }
    log.line_with(&[
        "process resize",
        "messaging.message.conversation_id=\"order\\\\n7\"",
        "handler ended",
    ])
    .await;
    eventually("both have handled the event", || async {
        let text = log.text();
        let is_told = |line: &&str| {
            let told = "messaging.message.conversation_id=\"order 8\"";
            line.contains(told) && line.contains("event handler ended")
        };
        let count = text.lines().filter(is_told).count();
        if count == 2 { Ok(()) } else { Err(text) }
    })
    .await;
    drop((worker, plain.unwrap(), layered));
    connection.close().await;
    Log::capture("off");
}
