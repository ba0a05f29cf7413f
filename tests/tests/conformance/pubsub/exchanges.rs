//! Exchanges of every kind, their bindings and their publishers.

use super::{event, passing, within};
use lepus::{
    Codec, Connection, Direct, Fanout, Headers, Topic,
    amqp::{Table, Value},
    events::{ByPattern, Kind, Match, Pattern, RoutingKey, Subscription},
};
use lepus_tests::proxy::Way;
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

conformance!(
    a_fanout_reaches_everyone,
    a_direct_exchange_goes_by_the_key,
    a_topic_routes_as_the_pattern_says,
    headers_match_all_or_any,
    an_event_carries_its_facts,
    peers_see_plain_amqp,
    mistakes_are_told_before_anything_happens,
    a_mismatch_names_exchange_argument_and_both_values,
    a_passive_exchange_has_to_be_there,
    nobody_listened_is_an_answer,
    what_nobody_takes_goes_to_the_alternate,
    exchanges_are_bound_to_exchanges,
    unconfirmed_events_arrive,
    more_publishes_than_places_all_end,
    many_events_are_published_at_once,
    an_exchange_that_was_deleted_is_declared_again,
);

/// The payloads up to this last one.
async fn up_to<K: Kind>(events: &mut Subscription<K, String>, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let payload = event(events).await.into_payload();
        if payload == last {
            return seen;
        }
        seen.push(payload);
    }
}

async fn a_fanout_reaches_everyone(env: Env) {
    let connection = env.connect().await;
    let logs: Fanout<String> = passing("logs");
    let mut one = logs.subscribe(&connection).stream().await.unwrap();
    let mut two = logs.subscribe(&connection).stream().await.unwrap();
    let publisher = logs.publisher(&connection);
    publisher.publish("first").await.unwrap();
    publisher.publish("second").key("a.key").await.unwrap();
    for events in [&mut one, &mut two] {
        let first = event(events).await;
        assert_eq!((first.payload().as_str(), first.key()), ("first", ""));
        let second = event(events).await;
        assert_eq!(
            (second.payload().as_str(), second.key()),
            ("second", "a.key")
        );
    }
}

async fn a_direct_exchange_goes_by_the_key(env: Env) {
    let connection = env.connect().await;
    let logs: Direct<String> = passing("direct_logs");
    let subscribe = logs.subscribe(&connection);
    let mut some = subscribe
        .bind("error")
        .bind("warning")
        .bind("end")
        .stream()
        .await
        .unwrap();
    let publisher = logs.publisher(&connection);
    for key in ["info", "error", "errors", "", "error.disk", "warning"] {
        publisher.publish(key, key).await.unwrap();
    }
    let literal = RoutingKey::literal("#").unwrap();
    publisher
        .publish(literal, "no wildcard here")
        .await
        .unwrap();
    publisher.publish("end", "end").await.unwrap();
    assert_eq!(up_to(&mut some, "end").await, ["error", "warning"]);
}

/// Every pattern with every key, a few hundred pairs, decided by the broker and by `Pattern`.
async fn a_topic_routes_as_the_pattern_says(env: Env) {
    let mut random = Random::new();
    let seed = random.0;
    let (mut patterns, mut keys) = (BTreeSet::new(), BTreeSet::new());
    while patterns.len() < 24 {
        let pattern = random.words(&["a", "b", "*", "#"], 5);
        // RabbitMQ 4.3 takes no more in one.
        if pattern.matches('#').count() <= 2 {
            patterns.insert(pattern);
        }
    }
    while keys.len() < 24 {
        keys.insert(random.words(&["a", "b", "cc"], 5));
    }
    let connection = env.connect().await;
    let topic: Topic<String> = passing("topic");
    let end = RoutingKey::literal("the end").unwrap();
    let mut subscriptions = Vec::new();
    for pattern in &patterns {
        let subscribe = topic.subscribe(&connection).bind(pattern).bind("the end");
        subscriptions.push((
            Pattern::parse(pattern).unwrap(),
            subscribe.stream().await.unwrap(),
        ));
    }
    let publisher = topic.publisher(&connection).mandatory();
    for key in &keys {
        let taken = patterns
            .iter()
            .any(|pattern| Pattern::parse(pattern).unwrap().matches(key));
        match publisher.publish(key, key).await {
            Ok(()) => assert!(taken, "{key:?} was taken, of {patterns:?}, seed {seed}"),
            Err(error) => assert!(
                error.is_unroutable() && !taken,
                "{key:?}: {error}, seed {seed}"
            ),
        }
    }
    publisher.publish(end, "the end").await.unwrap();
    for (pattern, mut events) in subscriptions {
        let broker: BTreeSet<String> = up_to(&mut events, "the end").await.into_iter().collect();
        let ours: BTreeSet<String> = keys
            .iter()
            .filter(|key| pattern.matches(key))
            .cloned()
            .collect();
        assert_eq!(broker, ours, "pattern {pattern}, seed {seed}");
    }
}

/// A generator whose seed a failure can name.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(u64::from(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .subsec_nanos(),
        ))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn words(&mut self, of: &[&str], most: usize) -> String {
        let count = self.below(most + 1);
        let words: Vec<&str> = (0..count).map(|_| of[self.below(of.len())]).collect();
        words.join(".")
    }
}

async fn headers_match_all_or_any(env: Env) {
    let connection = env.connect().await;
    let logs: Headers<String> = passing("headers_logs");
    let subscribe = |conditions: Match| {
        let end = Match::all().header("end", true);
        logs.subscribe(&connection)
            .bind(conditions)
            .bind(end)
            .stream()
    };
    let all = Match::all().header("format", "pdf").header("pages", 3);
    let mut all = subscribe(all).await.unwrap();
    let any = Match::any().header("format", "pdf").header("pages", 3);
    let mut any = subscribe(any).await.unwrap();
    let mut present = subscribe(Match::all().present("format")).await.unwrap();
    let mut with_x = subscribe(Match::all().header("x-tenant", "hare"))
        .await
        .unwrap();

    let publisher = logs.publisher(&connection);
    let publish = |text: &str, headers: &[(&str, Value)]| {
        let table = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        publisher.publish(text).headers(table.collect())
    };
    let (pdf, three) = (Value::from("pdf"), Value::from(3));
    publish("both", &[("format", pdf.clone()), ("pages", three.clone())])
        .await
        .unwrap();
    publish("pdf", &[("format", pdf.clone()), ("pages", 4.into())])
        .await
        .unwrap();
    publish("three", &[("pages", three.clone())]).await.unwrap();
    publish("text", &[("pages", "3".into())]).await.unwrap();
    publish(
        "zip",
        &[("format", "zip".into()), ("x-tenant", "hare".into())],
    )
    .await
    .unwrap();
    publish("none", &[]).await.unwrap();
    publish("end", &[("end", true.into())]).await.unwrap();
    assert_eq!(up_to(&mut all, "end").await, ["both"]);
    assert_eq!(up_to(&mut any, "end").await, ["both", "pdf", "three"]);
    assert_eq!(up_to(&mut present, "end").await, ["both", "pdf", "zip"]);
    assert_eq!(up_to(&mut with_x, "end").await, ["zip"]);
}

async fn an_event_carries_its_facts(env: Env) {
    let connection = Connection::builder(&env.uri)
        .namespace(env.namespace())
        .name("teller");
    let connection = connection.open().await.unwrap();
    let topic = passing::<ByPattern, u64>("facts")
        .codec(Codec::Json)
        .event_type("number");
    let mut events = topic
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let before = SystemTime::now();
    let publish = topic.publisher(&connection).publish("a.number", &7);
    publish
        .header("tenant", "hare")
        .message_id("m-1")
        .await
        .unwrap();
    let event = event(&mut events).await;
    assert_eq!(*event.payload(), 7);
    assert_eq!(event.key(), "a.number");
    assert_eq!(event.exchange(), env.name("facts"));
    assert_eq!(event.event_type(), Some("number"));
    assert_eq!(event.header("tenant"), Some(&Value::from("hare")));
    assert_eq!(event.headers().len(), 1);
    assert_eq!(event.message_id(), Some("m-1"));
    assert_eq!(event.app_id(), Some("teller"));
    assert_eq!((event.redelivered(), event.attempt()), (false, 1));
    let seen = event.timestamp().expect("a timestamp");
    // It is told in whole seconds.
    let between = before - Duration::from_secs(1)..=SystemTime::now();
    assert!(between.contains(&seen), "{seen:?} is not in {between:?}");
}

async fn peers_see_plain_amqp(env: Env) {
    let connection = env.connect().await;
    let (raw, queue) = (Raw::open(&env.uri).await, env.name("box"));
    let topic: Topic<String> = passing("plain").codec(Codec::Text);
    topic.declare(&connection).await.unwrap();
    raw.declare(&queue).await;
    raw.bind(&queue, &env.name("plain"), "kern.*", &[]).await;

    let publisher = topic.publisher(&connection);
    publisher.publish("kern.info", "hello").await.unwrap();
    let seen = raw.next(&queue).await;
    assert_eq!(
        (&seen.data[..], seen.routing_key.as_str()),
        (&b"hello"[..], "kern.info")
    );
    let properties = &seen.properties;
    assert_eq!(
        properties.content_type().as_ref().map(|t| t.as_str()),
        Some("text/plain")
    );
    assert_eq!(*properties.delivery_mode(), None, "transient unless asked");
    assert!(properties.headers().is_none() && properties.kind().is_none());
    publisher
        .publish("kern.info", "kept")
        .persistent()
        .await
        .unwrap();
    assert_eq!(*raw.next(&queue).await.properties.delivery_mode(), Some(2));

    // And the other way round: no property at all.
    let mut events = topic
        .subscribe(&connection)
        .bind("kern.*")
        .stream()
        .await
        .unwrap();
    raw.publish(&env.name("plain"), "kern.critical", b"from elsewhere")
        .await;
    let event = event(&mut events).await;
    assert_eq!(
        (event.payload().as_str(), event.key()),
        ("from elsewhere", "kern.critical")
    );
    assert_eq!((event.timestamp(), event.app_id()), (None, None));
    raw.delete(&queue).await;
}

async fn mistakes_are_told_before_anything_happens(env: Env) {
    let connection = env.connect().await;
    let topic: Topic<String> = passing("topic");
    let publisher = topic.publisher(&connection);
    let error = publisher.publish("kern..info", "x").await.unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("word 2 of `kern..info` is empty"),
        "{error}"
    );
    assert!(!error.may_have_executed());

    let error = topic
        .subscribe(&connection)
        .bind("kern.crit*")
        .stream()
        .await
        .unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("`crit*`"),
        "{error}"
    );
    let error = topic.subscribe(&connection).stream().await.unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("without a binding"),
        "{error}"
    );
    let nothing = Headers::<String>::new("headers")
        .subscribe(&connection)
        .bind(Match::any());
    assert!(nothing.stream().await.unwrap_err().is_invalid());
    let nameless = topic
        .subscribe(&connection)
        .bind("#")
        .shared("")
        .stream()
        .await;
    assert!(nameless.unwrap_err().is_invalid());
    let nameless = Fanout::<String>::new("")
        .publisher(&connection)
        .publish("x")
        .await;
    assert!(nameless.unwrap_err().is_invalid());

    let inner: Fanout<String> = passing("inner").internal();
    let error = inner.publisher(&connection).publish("x").await.unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("internal"),
        "{error}"
    );
    let unconfirmed = publisher
        .clone()
        .unconfirmed()
        .publish("kern.info", "x")
        .mandatory();
    assert!(unconfirmed.await.unwrap_err().is_invalid());
}

async fn a_mismatch_names_exchange_argument_and_both_values(env: Env) {
    let connection = env.connect().await;
    let there = Fanout::<String>::new("logs").transient().auto_delete();
    let _there = there.subscribe(&connection).stream().await.unwrap();

    let durable = Fanout::<String>::new("logs").auto_delete();
    let error = durable
        .publisher(&connection)
        .publish("x")
        .await
        .unwrap_err();
    assert!(error.is_mismatch(), "{error:?}");
    let text = error.to_string();
    let name = env.name("logs");
    assert!(text.contains(&format!("exchange `{name}`")), "{text}");
    assert!(
        text.contains("`durable` = false, declared here with true"),
        "{text}"
    );

    let topic = Topic::<String>::new("logs").transient().auto_delete();
    let error = topic
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap_err();
    assert!(error.is_mismatch(), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("`type` = fanout, declared here with topic"),
        "{error}"
    );
}

async fn a_passive_exchange_has_to_be_there(env: Env) {
    let connection = env.connect().await;
    let passive = Topic::<String>::new("there").passive();
    let error = passive
        .publisher(&connection)
        .publish("a", "x")
        .await
        .unwrap_err();
    assert_eq!(error.amqp_code(), Some(404), "{error}");
    let there: Topic<String> = passing("there");
    let _there = there
        .subscribe(&connection)
        .bind("#")
        .stream()
        .await
        .unwrap();
    let mut events = passive
        .subscribe(&connection)
        .bind("a")
        .stream()
        .await
        .unwrap();
    passive
        .publisher(&connection)
        .publish("a", "x")
        .await
        .unwrap();
    assert_eq!(event(&mut events).await.into_payload(), "x");
}

async fn nobody_listened_is_an_answer(env: Env) {
    let connection = env.connect().await;
    let topic: Topic<String> = passing("topic");
    let mut events = topic
        .subscribe(&connection)
        .bind("heard")
        .stream()
        .await
        .unwrap();
    let publisher = topic.publisher(&connection);
    // Many at once: each is told its own fate.
    let publishes = (0..200).map(|n| {
        let key = if n % 3 == 0 { "unheard" } else { "heard" };
        let publish = publisher.publish(key, &n.to_string()).mandatory();
        async move { (n % 3 == 0, publish.await) }
    });
    for (unheard, fate) in futures_util::future::join_all(publishes).await {
        match fate {
            Ok(()) => assert!(!unheard),
            Err(error) => {
                assert!(unheard && error.is_unroutable(), "{error}");
                let text = error.to_string();
                let what = "event `unheard` to exchange `topic`: the broker has no queue for it";
                assert!(text.starts_with(what), "{text}");
            }
        }
    }
    publisher.publish("unheard", "not mandatory").await.unwrap();
    publisher.publish("heard", "end").await.unwrap();
    assert_eq!(up_to(&mut events, "end").await.len(), 133);
}

async fn what_nobody_takes_goes_to_the_alternate(env: Env) {
    let connection = env.connect().await;
    let lost: Fanout<String> = passing("lost");
    let topic = passing::<ByPattern, String>("topic").alternate(&lost);
    let _heard = topic
        .subscribe(&connection)
        .bind("heard")
        .stream()
        .await
        .unwrap();
    let mut unheard = lost.subscribe(&connection).stream().await.unwrap();
    let publisher = topic.publisher(&connection).mandatory();
    publisher.publish("heard", "one").await.unwrap();
    publisher.publish("unheard", "two").await.unwrap();
    let event = event(&mut unheard).await;
    assert_eq!((event.payload().as_str(), event.key()), ("two", "unheard"));
}

async fn exchanges_are_bound_to_exchanges(env: Env) {
    let connection = env.connect().await;
    let all: Topic<String> = passing("all");
    let kernel: Fanout<String> = passing("kernel").internal().bound_to(&all, "kern.#");
    let urgent: Direct<String> = passing("urgent").bound_to(&kernel, ());
    let mut kernels = kernel.subscribe(&connection).stream().await.unwrap();
    let mut criticals = urgent
        .subscribe(&connection)
        .bind("kern.critical")
        .stream()
        .await
        .unwrap();
    let publisher = all.publisher(&connection);
    for key in ["kern.info", "mail.critical", "kern.critical"] {
        publisher.publish(key, key).await.unwrap();
    }
    assert_eq!(event(&mut kernels).await.into_payload(), "kern.info");
    assert_eq!(event(&mut kernels).await.into_payload(), "kern.critical");
    assert_eq!(event(&mut criticals).await.key(), "kern.critical");
}

async fn unconfirmed_events_arrive(env: Env) {
    let connection = env.connect().await;
    let fanout: Fanout<u32> = passing("fast");
    let subscribe = fanout.subscribe(&connection).buffer(5000);
    let mut events = subscribe.stream().await.unwrap();
    let publisher = fanout.publisher(&connection).unconfirmed();
    for n in 0..2000 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..2000 {
        assert_eq!(event(&mut events).await.into_payload(), n);
    }
}

async fn more_publishes_than_places_all_end(env: Env) {
    let connection = env.connect().await;
    let fanout: Fanout<u32> = passing("busy");
    let mut events = fanout
        .subscribe(&connection)
        .buffer(5000)
        .stream()
        .await
        .unwrap();
    for publisher in [
        fanout.publisher(&connection).max_in_flight(4),
        fanout.publisher(&connection).unconfirmed().max_in_flight(4),
    ] {
        let publishes = (0..500).map(|n| publisher.publish(&n).into_future());
        for fate in futures_util::future::join_all(publishes).await {
            fate.unwrap();
        }
    }
    let mut seen = Vec::new();
    for _ in 0..1000 {
        seen.push(event(&mut events).await.into_payload());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).map(|n| n / 2).collect::<Vec<u32>>());

    // Without a place there is no publish: it ends at its deadline, and was not sent.
    let (proxy, far) = env.proxied().await;
    let publisher = fanout.publisher(&far).max_in_flight(1);
    publisher.publish(&0).await.unwrap();
    proxy.stall(Way::Down);
    let limit = Duration::from_millis(400);
    let holder = tokio::spawn(publisher.publish(&1).timeout(3 * limit).into_future());
    while event(&mut events).await.into_payload() != 1 {}
    let error = publisher.publish(&2).timeout(limit).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    let error = holder.await.unwrap().unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    proxy.resume();
    publisher.publish(&3).await.unwrap();
    assert_eq!(event(&mut events).await.into_payload(), 3);
}

/// One result for each, and an event that cannot be published is no matter to the others.
async fn many_events_are_published_at_once(env: Env) {
    let connection = env.connect().await;
    let topic: Topic<u32> = passing("many");
    let mut events = topic
        .subscribe(&connection)
        .bind("a")
        .buffer(3000)
        .stream()
        .await
        .unwrap();
    let publisher = topic.publisher(&connection).mandatory().max_in_flight(50);
    let numbers: Vec<u32> = (0..2000).collect();
    let keyed = numbers.iter().map(|n| match n {
        7 => ("..", n),
        8 => ("unheard", n),
        _ => ("a", n),
    });
    let results = within("all", publisher.publish_all(keyed)).await;
    assert_eq!(results.len(), numbers.len());
    for (n, result) in results.iter().enumerate() {
        match (n, result) {
            (7, Err(error)) => assert!(error.is_invalid(), "{error}"),
            (8, Err(error)) => assert!(error.is_unroutable(), "{error}"),
            (n, result) => assert!(result.is_ok() && n != 7 && n != 8, "{n}: {result:?}"),
        }
    }
    for n in numbers.iter().filter(|n| **n != 7 && **n != 8) {
        assert_eq!(event(&mut events).await.payload(), n);
    }

    let fanout: Fanout<String> = passing("many-all");
    let mut events = fanout.subscribe(&connection).stream().await.unwrap();
    let results = fanout.publisher(&connection).publish_all(["x", "y"]).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(event(&mut events).await.payload(), "x");
    assert_eq!(event(&mut events).await.payload(), "y");

    let headers: Headers<String> = passing("many-headers");
    let pdf = Match::all().header("format", "pdf");
    let mut events = headers
        .subscribe(&connection)
        .bind(&pdf)
        .stream()
        .await
        .unwrap();
    let with = |format: &str| Table::from([("format".to_owned(), Value::from(format))]);
    let both = [(with("txt"), "x"), (with("pdf"), "y")];
    let results = headers.publisher(&connection).publish_all(both).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(event(&mut events).await.payload(), "y");
}

async fn an_exchange_that_was_deleted_is_declared_again(env: Env) {
    let connection = env.connect().await;
    let fanout: Fanout<String> = passing("brief");
    let publisher = fanout.publisher(&connection);
    let quick = publisher.clone().unconfirmed();
    for round in ["first", "second", "third"] {
        let mut events = fanout.subscribe(&connection).stream().await.unwrap();
        publisher.publish(round).await.unwrap();
        assert_eq!(event(&mut events).await.into_payload(), round);
        // Unsubscribed, the exchange goes, and with it the publisher's channels die.
        events.close().await.unwrap();
        let raw = Raw::open(&env.uri).await;
        eventually("the exchange is gone", || async {
            let channel = raw.connection.create_channel().await.unwrap();
            let options = lapin::options::ExchangeDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let (name, kind) = (
                env.name("brief").as_str().into(),
                lapin::ExchangeKind::Fanout,
            );
            channel
                .exchange_declare(name, kind, options, Default::default())
                .await
                .is_err()
        })
        .await;
        publisher.publish("to nobody").await.unwrap();
        quick.publish("to nobody").await.unwrap();
        let mut events = fanout.subscribe(&connection).stream().await.unwrap();
        publisher.publish("end").await.unwrap();
        assert_eq!(event(&mut events).await.into_payload(), "end");
    }
}
