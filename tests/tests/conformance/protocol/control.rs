//! Questions to instances and their answers, both ways.

use super::fixture::WireFixture;
use super::golden::Message;
use super::send;
use lapin::ExchangeKind;
use lepus::control::{HealthStatus, ServedKind};
use lepus::{Discovery, Server};
use lepus_tests::gate::Gate;
use lepus_tests::raw::delivery;
use lepus_tests::{Env, conformance, eventually};
use std::time::Duration;

/// Divides.
#[lepus::service(name = "divider", version = "1.2.0")]
trait Divider {
    /// The quotient.
    #[rpc(timeout = "2s", idempotent)]
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String>;
}

struct Pocket;

impl Divider for Pocket {
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, String> {
        let quotient = dividend.checked_div(divisor);
        quotient.ok_or_else(|| "divided by zero".to_owned())
    }
}

conformance!(
    a_question_is_golden_and_the_golden_answers_are_read,
    golden_questions_get_golden_answers,
    a_dropped_call_is_told_by_the_golden_message,
    the_golden_messages_stop_handlers,
);

/// A peer by hand is the instance.
async fn a_question_is_golden_and_the_golden_answers_are_read(env: Env) {
    let wire = WireFixture::new(&env).await;
    let (exchange, queue) = (wire.name("lepus.control"), wire.name("lepus.control.peer"));
    wire.raw
        .declare_exchange(&exchange, ExchangeKind::Direct)
        .await;
    wire.raw.declare_exclusive(&queue).await;
    wire.raw
        .bind(&queue, &exchange, "service.divider", &[])
        .await;
    let mut questions = wire.raw.consume(&queue, 10).await;
    let discovery = Discovery::new(&wire.connection).limit(Duration::from_secs(9));

    let answer = async |golden: &str| {
        let question = delivery(&mut questions).await;
        let seen = Message::seen(&question, &wire.namespace);
        let properties = &question.properties;
        let reply_to = properties.reply_to().clone().expect("an address");
        let id = properties.correlation_id().clone().expect("an id");
        let answer = Message::golden(golden);
        let properties = answer.properties().with_correlation_id(id);
        send(&wire.raw, reply_to.as_str(), &answer, properties).await;
        seen
    };
    let mut answer = answer;
    let (info, seen) = tokio::join!(
        discovery.info("divider").expect(1).into_future(),
        answer("control.info")
    );
    Message::golden("control.question").assert_is(&seen);
    let info = info.expect("an answer").remove(0);
    assert_eq!(
        (info.name.as_str(), info.kind),
        ("divider", ServedKind::Service)
    );
    assert_eq!(info.started, "2026-11-30T12:00:00Z");
    assert_eq!(info.endpoints[0].data.timeout_ms, Some(2000));

    let asked = discovery.stats("divider").expect(1).into_future();
    let (stats, _) = tokio::join!(asked, answer("control.stats"));
    let stats = stats.expect("an answer").remove(0);
    assert_eq!(stats.endpoints[0].num_requests, 7);
    assert_eq!(stats.endpoints[0].data.errors["application"], 7);

    let asked = discovery.ping().of("divider").expect(1).into_future();
    let (pongs, _) = tokio::join!(asked, answer("control.ping"));
    assert_eq!(pongs.expect("an answer")[0].id, "0123456789ABCDEFGHIJkl");

    let asked = discovery.health().of("divider").expect(1).into_future();
    let (health, _) = tokio::join!(asked, answer("control.health"));
    let health = health.expect("an answer").remove(0);
    assert_eq!(health.status, HealthStatus::Serving);
    assert_eq!(health.consumers[0].state, "consuming");
    wire.end_with(&[], &["lepus.control"]).await;
}

/// A peer by hand asks.
async fn golden_questions_get_golden_answers(env: Env) {
    let wire = WireFixture::new(&env).await;
    let server = Server::new(&wire.connection).serve(DividerServer::new(Pocket));
    let server = server.start().await.expect("a server");
    let discovery = Discovery::new(&wire.connection);
    eventually("it is found", || async {
        discovery
            .ping()
            .expect(1)
            .await
            .is_ok_and(|pongs| pongs.len() == 1)
    })
    .await;
    let client = DividerClient::new(&wire.connection);
    assert_eq!(client.divide(84, 2).await.expect("a value"), 42);
    client
        .divide(1, 0)
        .await
        .expect_err("the method's own error");
    let answers = wire.name("answers");
    wire.raw.declare_exclusive(&answers).await;
    let mut consumer = wire.raw.consume(&answers, 10).await;
    let golden = Message::golden("control.question");
    for kind in ["ping", "info", "stats", "health"] {
        let properties = golden
            .properties()
            .with_type(format!("lepus.{kind}/1").as_str().into())
            .with_reply_to(answers.as_str().into());
        let (exchange, key) = (wire.name("lepus.control"), &golden.fields["routing-key"]);
        let asked = wire.raw.publish_with(&exchange, key, b"", properties).await;
        assert!(asked.expect("a confirm").take_message().is_none());
        let mut seen = Message::seen(&delivery(&mut consumer).await, &wire.namespace);
        assert_eq!(seen.fields["routing-key"], "answers");
        seen.fields.insert(
            "routing-key".into(),
            "lepus.reply.0123456789ABCDEFGHIJkl".into(),
        );
        Message::golden(&format!("control.{kind}")).assert_is(&seen);
    }
    server.stop().await.expect("a drained server");
    wire.end_with(&["divider"], &["lepus.control"]).await;
}

/// A peer by hand is the server.
async fn a_dropped_call_is_told_by_the_golden_message(env: Env) {
    let wire = WireFixture::new(&env).await;
    let (exchange, queue) = (wire.name("lepus.control"), wire.name("lepus.control.peer"));
    wire.raw
        .declare_exchange(&exchange, ExchangeKind::Direct)
        .await;
    wire.raw.declare_exclusive(&queue).await;
    wire.raw.bind(&queue, &exchange, "queue.divider", &[]).await;
    wire.raw.declare(&wire.name("divider")).await;
    let mut told = wire.raw.consume(&queue, 10).await;
    let call = DividerClient::new(&wire.connection).divide(84, 2).send();
    let call = call.await.expect("it is sent");
    let request = wire.raw.next(&wire.name("divider")).await;
    let id = request.properties.correlation_id().clone().expect("an id");
    let id = id.as_str().as_bytes();
    drop(call);
    let mut seen = Message::seen(&delivery(&mut told).await, &wire.namespace);
    let golden = Message::golden("control.cancel");
    let length = u8::try_from(id.len()).expect("a short id");
    assert_eq!(
        seen.body,
        [&[0x91, 0xa0 | length], id].concat(),
        "the id of the request"
    );
    seen.body.clone_from(&golden.body);
    golden.assert_is(&seen);
    wire.end_with(&["divider"], &["lepus.control"]).await;
}

#[lepus::service(name = "divider")]
trait SlowDivider {
    async fn divide(&self, dividend: i64, divisor: i64) -> i64;
}

struct HeldDivider(Gate);

impl SlowDivider for HeldDivider {
    async fn divide(&self, dividend: i64, _: i64) -> i64 {
        self.0.pass().await;
        dividend
    }
}

/// A peer by hand calls, and gives calls up.
async fn the_golden_messages_stop_handlers(env: Env) {
    let wire = WireFixture::new(&env).await;
    let gate = Gate::default();
    let service = SlowDividerServer::new(HeldDivider(gate.clone())).concurrency(8);
    let server = Server::new(&wire.connection).serve(service);
    let server = server.start().await.expect("a server");
    let discovery = Discovery::new(&wire.connection);
    eventually("it has a control queue", || async {
        let found = discovery.info("divider").expect(1).await;
        found.is_ok_and(|found| found.len() == 1)
    })
    .await;
    let answers = wire.name("answers");
    wire.raw.declare_exclusive(&answers).await;
    let mut consumer = wire.raw.consume(&answers, 10).await;
    let publish = async |exchange: &str, key: &str, golden: &str| {
        let message = Message::golden(golden);
        let properties = message.properties().with_reply_to(answers.as_str().into());
        let sent = wire
            .raw
            .publish_with(exchange, key, &message.body, properties)
            .await;
        assert!(sent.expect("a confirm").take_message().is_none());
    };
    let (queue, control) = (wire.name("divider"), wire.name("lepus.control"));
    publish("", &queue, "rpc.request").await;
    publish("", &queue, "rpc.calls").await;
    gate.entered(3).await;
    publish(&control, "queue.divider", "control.cancel").await;
    gate.left(1).await;
    publish(&control, "queue.divider", "control.cancel.calls").await;
    gate.left(2).await;
    gate.open_for_good();
    // The reply to the first of the two calls, and no other.
    let reply = delivery(&mut consumer).await;
    assert_eq!(reply.data, b"\x91\x94\x02\xc0\xc0\xc4\x01\x54");
    server.stop().await.expect("a drained server");
    assert_eq!((gate.count(), gate.dropped()), (3, 2));
    assert_eq!(wire.raw.count(&answers).await.messages, 0);
    wire.end_with(&["divider"], &["lepus.control"]).await;
}
