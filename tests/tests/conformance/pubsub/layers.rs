//! Layers around subscriptions and publishers.

use super::{clear, within};
use lepus::events::Missed;
use lepus::jobs::{Verdict, VerdictOutcome};
use lepus::middleware::{AccessLog, Auth, Message, Next, Publication, RateLimit, Timeout, from_fn};
use lepus::{Code, Context, Error, Event, RetryPolicy, Status, Topic, reject};
use lepus_tests::{Env, conformance};
use std::time::Duration;
use tokio::sync::mpsc;

conformance!(
    a_layer_sees_the_events_of_a_broadcast_subscription,
    a_layer_sees_the_events_of_a_group,
    layers_of_a_publisher_add_headers_and_answer,
    a_stream_cannot_have_layers,
);

const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, PartialEq)]
struct Seen {
    source: String,
    key: String,
    outcome: String,
}

type Tell<T> = mpsc::UnboundedSender<T>;

async fn tell(tell: Tell<Seen>, message: Message, next: Next<Message>) -> Verdict {
    let (source, key) = (message.source().to_owned(), message.key().to_owned());
    let verdict = next.run(message).await;
    let outcome = match verdict.outcome() {
        VerdictOutcome::Done => "done".to_owned(),
        VerdictOutcome::Failed { error, .. } => format!("failed: {error}"),
        VerdictOutcome::TimedOut => "stopped".to_owned(),
        VerdictOutcome::Panicked(text) => format!("panicked: {text}"),
        other => format!("{other:?}"),
    };
    let seen = Seen {
        source,
        key,
        outcome,
    };
    tell.send(seen).expect("the test listens");
    verdict
}

macro_rules! telling {
    ($tell:expr) => {{
        let sender = $tell.clone();
        from_fn(move |message: Message, next: Next<Message>| tell(sender.clone(), message, next))
    }};
}

struct User(String);

fn auth() -> Auth {
    Auth::new(
        |headers| match headers.get("user").and_then(|user| user.as_str()) {
            Some(user) => Ok(User(user.to_owned())),
            None => Err(Status::new(Code::Unauthenticated, "who are you?")),
        },
    )
}

async fn handle(event: Event<u32>) -> Result<(), lepus::jobs::JobError> {
    let context = Context::current();
    let user = context.get::<User>().map_or("nobody", |user| &user.0);
    assert_eq!(user, "hare");
    match event.payload() {
        1 => Err(reject("one is too few")),
        2 => panic!("two"),
        3 => std::future::pending().await,
        _ => Ok(()),
    }
}

/// Publishes the numbers with these keys, of a user or of nobody.
async fn publish(topic: &Topic<u32>, connection: &lepus::Connection) {
    let publisher = topic.publisher(connection).mandatory();
    for (key, number) in [("fine", 0), ("failed", 1), ("panicked", 2), ("held", 3)] {
        let publish = publisher.publish(key, &number).header("user", "hare");
        publish.await.expect("published");
    }
    publisher.publish("anonymous", &0).await.expect("published");
    let other = Topic::<String>::new(topic.name())
        .transient()
        .publisher(connection);
    let other = other
        .publish("undecodable", "no number")
        .header("user", "hare");
    other.await.expect("published");
}

fn expected(source: &str) -> Vec<Seen> {
    let seen = |key: &str, outcome: &str| Seen {
        source: source.to_owned(),
        key: key.to_owned(),
        outcome: outcome.to_owned(),
    };
    vec![
        seen("fine", "done"),
        seen("failed", "failed: one is too few"),
        seen("panicked", "panicked: two"),
        seen("held", "stopped"),
        seen("anonymous", "failed: unauthenticated: who are you?"),
    ]
}

async fn seen(told: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    within("an event", told.recv())
        .await
        .expect("a handler is left")
}

fn assert_undecodable(seen: &Seen, missed: &Missed) {
    assert_eq!(seen.key, "undecodable");
    assert!(seen.outcome.starts_with("failed: "), "{seen:?}");
    assert!(matches!(missed, Missed::Undecodable(_)), "{missed:?}");
}

async fn a_layer_sees_the_events_of_a_broadcast_subscription(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("seen").transient();
    env.name("seen");
    let (sender, mut told) = mpsc::unbounded_channel();
    let (missing, mut missed) = mpsc::unbounded_channel();
    let subscription = topic.subscribe(&connection).bind("#");
    let running = subscription
        .on_missed(move |event| missing.send(event).expect("the test listens"))
        .layer(auth())
        .layer(Timeout::new(Duration::from_millis(50)))
        .layer(telling!(sender))
        .layer(AccessLog::new())
        .start(handle)
        .await
        .expect("subscribed");
    let panics = connection.stats().panics;
    publish(&topic, &connection).await;
    // Nothing is tried again.
    for event in expected(&env.name("seen")) {
        assert_eq!(seen(&mut told).await, event);
    }
    let last = within("a report", missed.recv()).await.expect("a report");
    assert_undecodable(&seen(&mut told).await, &last);
    running.stop().await.expect("unsubscribed");
    assert!(told.try_recv().is_err());
    assert_eq!(connection.stats().panics - panics, 1);
    clear(&env, "seen", &[]).await;
}

async fn a_layer_sees_the_events_of_a_group(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("grouped").transient();
    let (sender, mut told) = mpsc::unbounded_channel();
    let (missing, mut missed) = mpsc::unbounded_channel();
    let group = topic
        .subscribe(&connection)
        .bind("#")
        .shared("audit")
        .classic();
    let dead_letters = group.dead_letters();
    let running = group
        .retry(RetryPolicy::never())
        .on_missed(move |event| missing.send(event).expect("the test listens"))
        .layer(auth())
        .layer(Timeout::new(Duration::from_millis(50)))
        .layer(telling!(sender))
        .start(handle)
        .await
        .expect("joined");
    publish(&topic, &connection).await;
    for event in expected("grouped.audit") {
        assert_eq!(seen(&mut told).await, event);
    }
    let last = within("a report", missed.recv()).await.expect("a report");
    assert_undecodable(&seen(&mut told).await, &last);
    running.stop().await.expect("left");
    let letters = dead_letters.list(10).await.expect("dead letters");
    let keys: Vec<_> = letters.iter().map(|letter| letter.key()).collect();
    assert_eq!(
        keys,
        ["failed", "panicked", "held", "anonymous", "undecodable"]
    );
    clear(&env, "grouped", &["audit"]).await;
}

async fn layers_of_a_publisher_add_headers_and_answer(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("signed").transient();
    let mut events = topic
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .expect("a stream");
    let signed = from_fn(async |publish: Publication, next: Next<Publication>| {
        if publish.key() == "secret" {
            return Err(Error::from(Status::new(
                Code::PermissionDenied,
                "not yours",
            )));
        }
        let to = format!("{}:{}", publish.destination(), publish.key());
        next.run(publish.with_header("to", to)).await
    });
    let publisher = topic
        .publisher(&connection)
        .layer(signed)
        .layer(AccessLog::new());
    publisher
        .publish("open", &7)
        .header("user", "hare")
        .await
        .expect("published");
    let refused = publisher.publish("secret", &8).await.expect_err("refused");
    assert_eq!(refused.code(), Some(Code::PermissionDenied));
    let many = [("a", &1), ("b", &2), ("secret", &3), ("c", &4)];
    let results = publisher.publish_all(many).await;
    let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, true, false]);
    // Without confirms as well.
    publisher
        .clone()
        .unconfirmed()
        .publish("d", &5)
        .await
        .expect("published");
    for (number, key) in [(7, "open"), (1, "a"), (2, "b"), (4, "c"), (5, "d")] {
        let event = within("an event", events.next())
            .await
            .expect("goes on")
            .expect("an event");
        assert_eq!((*event.payload(), event.key()), (number, key));
        let to = event.header("to").and_then(|to| to.as_str());
        assert_eq!(to, Some(&*format!("signed:{key}")));
    }
    let limited = topic
        .publisher(&connection)
        .layer(RateLimit::new(1, HOUR).reject());
    limited.publish("e", &6).await.expect("published");
    let error = limited.publish("e", &6).await.expect_err("limited");
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    // An event that a layer holds is not sent.
    let hold = from_fn(async |_: Publication, _: Next<Publication>| std::future::pending().await);
    let held = topic.publisher(&connection).layer(hold).publish("f", &7);
    let error = held.timeout(Duration::from_millis(50)).await;
    let error = error.expect_err("held");
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    events.close().await.expect("closed");
    clear(&env, "signed", &[]).await;
}

async fn a_stream_cannot_have_layers(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("streamed").transient();
    let subscription = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .layer(AccessLog::new())
    };
    let error = subscription().stream().await.expect_err("refused");
    assert!(
        error.is_invalid() && error.to_string().contains("layers"),
        "{error}"
    );
    let error = subscription()
        .shared("audit")
        .stream()
        .await
        .expect_err("refused");
    assert!(error.is_invalid(), "{error}");
}
