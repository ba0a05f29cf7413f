//! Questions to instances and their answers, both ways.

use super::fixture::WireFixture;
use super::golden::Message;
use super::send;
use lapin::ExchangeKind;
use lapin::options::QueueDeclareOptions;
use lepus::control::{HealthStatus, ServedKind};
use lepus::{Discovery, Server};
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
);

fn exclusive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    }
}

/// A peer by hand is the instance.
async fn a_question_is_golden_and_the_golden_answers_are_read(env: Env) {
    let wire = WireFixture::new(&env).await;
    let (exchange, queue) = (wire.name("lepus.control"), wire.name("lepus.control.peer"));
    wire.raw
        .declare_exchange(&exchange, ExchangeKind::Direct)
        .await;
    let declared = wire.raw.declare_with(&queue, exclusive(), &[]).await;
    declared.expect("the peer's queue");
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
    wire.raw
        .declare_with(&answers, exclusive(), &[])
        .await
        .expect("a queue");
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
