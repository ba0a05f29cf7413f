//! Publish/subscribe on each broker: every kind of exchange, every mode of subscription, and what
//! happens when something breaks.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{
    ByPattern, Codec, Connection, Direct, Event, EventExchange, Fanout, GroupSubscription, Headers,
    Held, Kind, Match, Missed, Overflow, Pattern, RetryPolicy, RoutingKey, Subscription, Topic,
    Unknown, Value,
};
use lepus_tests::proxy::{Cut, Proxy, Way};
use lepus_tests::raw::{Raw, table};
use lepus_tests::{Env, conformance, eventually};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
    an_exchange_that_was_deleted_is_declared_again,
);
conformance!(subscriptions:
    a_slow_reader_is_told_what_it_lost,
    a_slow_reader_makes_the_broker_hold,
    the_brokers_backlog_is_bounded,
    a_cut_connection_leaves_a_gap_and_goes_on,
    an_exchange_that_became_another_is_told,
    bindings_change_while_events_flow,
    what_does_not_decode_is_an_item,
    a_dropped_subscription_leaves_nothing,
    a_handler_sees_every_event,
    a_handler_is_bound_anew_while_it_runs,
    a_closed_connection_ends_the_stream,
);
conformance!(types:
    an_enum_says_its_type_in_the_payload,
    separate_types_are_told_apart,
    unknown_types_are_surfaced_on_request,
    variants_and_separate_types_speak_with_each_other,
);
conformance!(groups:
    a_group_keeps_events_while_it_is_away,
    members_share_the_events,
    a_failed_event_is_tried_again_as_it_came,
    a_held_event_that_is_dropped_is_tried_again,
    what_cannot_be_helped_ends_in_the_dead_letters,
    events_come_in_order_and_untouched_ones_go_back,
    a_full_group_refuses_its_publisher,
    a_cut_member_gets_its_events_again,
    a_deleted_group_queue_is_a_gap,
    a_handler_of_a_group_retries,
    a_group_is_not_fooled_by_a_senders_headers,
    a_singleton_takes_over,
);

const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(env: &Env) -> Connection {
    at(&env.uri, env).await
}

async fn at(uri: &str, env: &Env) -> Connection {
    let builder = Connection::builder(uri).namespace(env.namespace());
    let quick = builder.backoff(Duration::from_millis(20), Duration::from_millis(100));
    quick.open().await.expect("a connection")
}

/// An exchange that goes with its last subscription, so that no test leaves one.
fn passing<K: Kind, T>(name: &str) -> EventExchange<K, T> {
    EventExchange::new(name).transient().auto_delete()
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

async fn item<K: Kind, T: DeserializeOwned>(
    events: &mut Subscription<K, T>,
) -> Result<Event<T>, Missed> {
    let next = within("an item", events.next()).await;
    next.expect("the stream goes on")
}

async fn event<K: Kind, T: DeserializeOwned + Debug>(events: &mut Subscription<K, T>) -> Event<T> {
    item(events).await.expect("an event")
}

/// The payloads up to this last one.
async fn up_to<K: Kind>(events: &mut Subscription<K, String>, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let payload = event(events).await.payload;
        if payload == last {
            return seen;
        }
        seen.push(payload);
    }
}

async fn held<K: Kind, T: Debug>(member: &mut GroupSubscription<K, T>) -> Held<T> {
    let next = within("an event", member.next()).await;
    next.expect("the stream goes on").expect("an event")
}

fn quick_retry(attempts: u32) -> RetryPolicy {
    let delay = Duration::from_millis(20);
    RetryPolicy::default()
        .attempts(attempts)
        .backoff(delay, delay)
        .jitter(0.0)
}

/// Removes what a group leaves: its queues, and the exchange.
async fn clear(env: &Env, exchange: &str, groups: &[&str]) {
    let raw = Raw::open(&env.uri).await;
    let exchange = env.name(exchange);
    for group in groups {
        for suffix in ["", ".dead", ".retry.20"] {
            raw.delete(&format!("{exchange}.{group}{suffix}")).await;
        }
    }
    let deleted = raw
        .channel
        .exchange_delete(exchange.as_str().into(), Default::default());
    deleted.await.expect("deleted");
    raw.close().await;
}

// Exchanges and publishers.

async fn a_fanout_reaches_everyone(env: Env) {
    let connection = connect(&env).await;
    let logs: Fanout<String> = passing("logs");
    let mut one = logs.subscribe(&connection).start().await.unwrap();
    let mut two = logs.subscribe(&connection).start().await.unwrap();
    let publisher = logs.publisher(&connection);
    publisher.publish("first").await.unwrap();
    publisher.publish("second").key("a.key").await.unwrap();
    for events in [&mut one, &mut two] {
        let first = event(events).await;
        assert_eq!((first.payload.as_str(), first.key()), ("first", ""));
        let second = event(events).await;
        assert_eq!((second.payload.as_str(), second.key()), ("second", "a.key"));
    }
}

async fn a_direct_exchange_goes_by_the_key(env: Env) {
    let connection = connect(&env).await;
    let logs: Direct<String> = passing("direct_logs");
    let subscribe = logs.subscribe(&connection);
    let mut some = subscribe
        .bind("error")
        .bind("warning")
        .bind("end")
        .start()
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
    let connection = connect(&env).await;
    let topic: Topic<String> = passing("topic");
    let end = RoutingKey::literal("the end").unwrap();
    let mut subscriptions = Vec::new();
    for pattern in &patterns {
        let subscribe = topic.subscribe(&connection).bind(pattern).bind("the end");
        subscriptions.push((
            Pattern::parse(pattern).unwrap(),
            subscribe.start().await.unwrap(),
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
    let connection = connect(&env).await;
    let logs: Headers<String> = passing("headers_logs");
    let subscribe = |conditions: Match| {
        let end = Match::all().header("end", true);
        logs.subscribe(&connection)
            .bind(conditions)
            .bind(end)
            .start()
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
        .start()
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
    assert_eq!(event.payload, 7);
    assert_eq!(event.key(), "a.number");
    assert_eq!(event.exchange(), env.name("facts"));
    assert_eq!(event.event_type(), Some("number"));
    assert_eq!(event.header("tenant"), Some(&Value::from("hare")));
    assert_eq!(event.headers().len(), 1);
    assert_eq!(event.message_id(), Some("m-1"));
    assert_eq!(event.publisher(), Some("teller"));
    assert_eq!((event.redelivered(), event.attempt()), (false, 1));
    let seen = event.timestamp().expect("a timestamp");
    // It is told in whole seconds.
    let between = before - Duration::from_secs(1)..=SystemTime::now();
    assert!(between.contains(&seen), "{seen:?} is not in {between:?}");
}

async fn peers_see_plain_amqp(env: Env) {
    let connection = connect(&env).await;
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
        .start()
        .await
        .unwrap();
    raw.publish(&env.name("plain"), "kern.critical", b"from elsewhere")
        .await;
    let event = event(&mut events).await;
    assert_eq!(
        (event.payload.as_str(), event.key()),
        ("from elsewhere", "kern.critical")
    );
    assert_eq!((event.timestamp(), event.publisher()), (None, None));
    raw.delete(&queue).await;
}

async fn mistakes_are_told_before_anything_happens(env: Env) {
    let connection = connect(&env).await;
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
        .start()
        .await
        .unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("`crit*`"),
        "{error}"
    );
    let error = topic.subscribe(&connection).start().await.unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("without a binding"),
        "{error}"
    );
    let nothing = Headers::<String>::new("headers")
        .subscribe(&connection)
        .bind(Match::any());
    assert!(nothing.start().await.unwrap_err().is_invalid());
    let nameless = topic
        .subscribe(&connection)
        .bind("#")
        .shared("")
        .start()
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
    let connection = connect(&env).await;
    let there = Fanout::<String>::new("logs").transient().auto_delete();
    let _there = there.subscribe(&connection).start().await.unwrap();

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
        .start()
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
    let connection = connect(&env).await;
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
        .start()
        .await
        .unwrap();
    let mut events = passive
        .subscribe(&connection)
        .bind("a")
        .start()
        .await
        .unwrap();
    passive
        .publisher(&connection)
        .publish("a", "x")
        .await
        .unwrap();
    assert_eq!(event(&mut events).await.payload, "x");
}

async fn nobody_listened_is_an_answer(env: Env) {
    let connection = connect(&env).await;
    let topic: Topic<String> = passing("topic");
    let mut events = topic
        .subscribe(&connection)
        .bind("heard")
        .start()
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
    let connection = connect(&env).await;
    let lost: Fanout<String> = passing("lost");
    let topic = passing::<ByPattern, String>("topic").alternate(&lost);
    let _heard = topic
        .subscribe(&connection)
        .bind("heard")
        .start()
        .await
        .unwrap();
    let mut unheard = lost.subscribe(&connection).start().await.unwrap();
    let publisher = topic.publisher(&connection).mandatory();
    publisher.publish("heard", "one").await.unwrap();
    publisher.publish("unheard", "two").await.unwrap();
    let event = event(&mut unheard).await;
    assert_eq!((event.payload.as_str(), event.key()), ("two", "unheard"));
}

async fn exchanges_are_bound_to_exchanges(env: Env) {
    let connection = connect(&env).await;
    let all: Topic<String> = passing("all");
    let kernel: Fanout<String> = passing("kernel").internal().bound_to(&all, "kern.#");
    let urgent: Direct<String> = passing("urgent").bound_to(&kernel, ());
    let mut kernels = kernel.subscribe(&connection).start().await.unwrap();
    let mut criticals = urgent
        .subscribe(&connection)
        .bind("kern.critical")
        .start()
        .await
        .unwrap();
    let publisher = all.publisher(&connection);
    for key in ["kern.info", "mail.critical", "kern.critical"] {
        publisher.publish(key, key).await.unwrap();
    }
    assert_eq!(event(&mut kernels).await.payload, "kern.info");
    assert_eq!(event(&mut kernels).await.payload, "kern.critical");
    assert_eq!(event(&mut criticals).await.key(), "kern.critical");
}

async fn unconfirmed_events_arrive(env: Env) {
    let connection = connect(&env).await;
    let fanout: Fanout<u32> = passing("fast");
    let subscribe = fanout.subscribe(&connection).buffer(5000);
    let mut events = subscribe.start().await.unwrap();
    let publisher = fanout.publisher(&connection).unconfirmed();
    for n in 0..2000 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..2000 {
        assert_eq!(event(&mut events).await.payload, n);
    }
}

async fn more_publishes_than_places_all_end(env: Env) {
    let connection = connect(&env).await;
    let fanout: Fanout<u32> = passing("busy");
    let mut events = fanout
        .subscribe(&connection)
        .buffer(5000)
        .start()
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
        seen.push(event(&mut events).await.payload);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).map(|n| n / 2).collect::<Vec<u32>>());

    // Without a place there is no publish: it ends at its deadline, and was not sent.
    let proxy = Proxy::start(&env.uri).await;
    let far = at(proxy.uri(), &env).await;
    let publisher = fanout.publisher(&far).max_in_flight(1);
    publisher.publish(&0).await.unwrap();
    proxy.stall(Way::Down);
    let limit = Duration::from_millis(400);
    let holder = tokio::spawn(publisher.publish(&1).timeout(3 * limit).into_future());
    while event(&mut events).await.payload != 1 {}
    let error = publisher.publish(&2).timeout(limit).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    let error = holder.await.unwrap().unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed(), "{error}");
    proxy.resume();
    publisher.publish(&3).await.unwrap();
    assert_eq!(event(&mut events).await.payload, 3);
}

async fn an_exchange_that_was_deleted_is_declared_again(env: Env) {
    let connection = connect(&env).await;
    let fanout: Fanout<String> = passing("brief");
    let publisher = fanout.publisher(&connection);
    let quick = publisher.clone().unconfirmed();
    for round in ["first", "second", "third"] {
        let mut events = fanout.subscribe(&connection).start().await.unwrap();
        publisher.publish(round).await.unwrap();
        assert_eq!(event(&mut events).await.payload, round);
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
        let mut events = fanout.subscribe(&connection).start().await.unwrap();
        publisher.publish("end").await.unwrap();
        assert_eq!(event(&mut events).await.payload, "end");
    }
}

// Subscriptions.

async fn a_slow_reader_is_told_what_it_lost(env: Env) {
    let connection = connect(&env).await;
    let fanout: Fanout<u32> = passing("busy");
    let mut slow = fanout
        .subscribe(&connection)
        .buffer(10)
        .start()
        .await
        .unwrap();
    let mut quick = fanout
        .subscribe(&connection)
        .buffer(1000)
        .start()
        .await
        .unwrap();
    let publisher = fanout.publisher(&connection);
    for n in 0..100 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(event(&mut quick).await.payload, n);
    }
    eventually("90 dropped", || async {
        connection.stats().lagged_events == 90
    })
    .await;
    let lagged = item(&mut slow).await.unwrap_err();
    assert!(
        matches!(lagged, Missed::Lagged { events: 90 }) && lagged.is_loss(),
        "{lagged}"
    );
    for n in 90..100 {
        assert_eq!(event(&mut slow).await.payload, n);
    }
    publisher.publish(&100).await.unwrap();
    assert_eq!(event(&mut slow).await.payload, 100);
}

async fn a_slow_reader_makes_the_broker_hold(env: Env) {
    let connection = connect(&env).await;
    let fanout: Fanout<u32> = passing("patient");
    let subscribe = fanout
        .subscribe(&connection)
        .buffer(5)
        .overflow(Overflow::Hold);
    let mut events = subscribe.start().await.unwrap();
    let publisher = fanout.publisher(&connection);
    for n in 0..300 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..300 {
        assert_eq!(event(&mut events).await.payload, n);
    }
    assert_eq!(connection.stats().lagged_events, 0);
    // Unread ones keep nobody waiting at the end.
    publisher.publish(&300).await.unwrap();
    within("closed", events.close()).await.unwrap();
}

async fn the_brokers_backlog_is_bounded(env: Env) {
    let connection = connect(&env).await;
    let fanout: Fanout<u32> = passing("bounded");
    let subscribe = fanout
        .subscribe(&connection)
        .buffer(5)
        .overflow(Overflow::Hold);
    let mut events = subscribe.max_length(10).start().await.unwrap();
    let publisher = fanout.publisher(&connection);
    for n in 0..100 {
        publisher.publish(&n).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&99) {
        seen.push(event(&mut events).await.payload);
    }
    // Those that were here, and the last of those that were there.
    let (here, there) = seen.split_at(seen.len() - 10);
    assert!(
        here.len() <= 6 && here.iter().copied().eq(0..here.len() as u32),
        "{seen:?}"
    );
    assert!(there.iter().copied().eq(90..100), "{seen:?}");
}

async fn a_cut_connection_leaves_a_gap_and_goes_on(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let (far, near) = (at(proxy.uri(), &env).await, connect(&env).await);
    let topic = Topic::<String>::new("gap").transient();
    let mut events = topic
        .subscribe(&far)
        .bind("a")
        .bind("c")
        .start()
        .await
        .unwrap();
    events.bind("b").await.unwrap();
    events.unbind("c").await.unwrap();
    let publisher = topic.publisher(&near).mandatory();
    publisher.publish("a", "before").await.unwrap();
    assert_eq!(event(&mut events).await.payload, "before");
    publisher.publish("b", "unread").await.unwrap();

    proxy.down().await;
    eventually("its queue is gone", || async {
        let fate = publisher.publish("a", "lost").await;
        fate.is_err_and(|error| error.is_unroutable())
    })
    .await;
    // Bindings change in the meantime as well.
    events.bind("d").await.unwrap();
    events.unbind("b").await.unwrap();
    proxy.up().await;

    let mut item_ = item(&mut events).await;
    while let Ok(early) = &item_ {
        assert!(
            ["unread", "lost"].contains(&early.payload.as_str()),
            "{early:?}"
        );
        item_ = item(&mut events).await;
    }
    let Err(Missed::Gap(gap)) = item_ else {
        panic!("{item_:?}");
    };
    assert!(
        gap.away() > Duration::ZERO && gap.reason().is_some(),
        "{gap:?}"
    );
    for key in ["c", "b"] {
        assert!(
            publisher
                .publish(key, "unheard")
                .await
                .unwrap_err()
                .is_unroutable()
        );
    }
    for key in ["a", "d"] {
        publisher.publish(key, "after").await.unwrap();
        assert_eq!(event(&mut events).await.key(), key);
    }

    // Again and again, without a reader: one gap is told.
    for _ in 0..3 {
        let accepted = proxy.accepted();
        proxy.cut(Cut::Rst);
        eventually("reconnected", || async { proxy.accepted() > accepted }).await;
        eventually("bound again", || async {
            publisher.publish("a", "flood").await.is_ok()
        })
        .await;
    }
    let mut gaps = 0;
    publisher.publish("a", "end").await.unwrap();
    loop {
        match item(&mut events).await {
            Ok(event) if event.payload == "end" => break,
            Ok(_) => {}
            Err(Missed::Gap(_)) => gaps += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!((1..=3).contains(&gaps), "{gaps}");
    events.close().await.unwrap();
    clear(&env, "gap", &[]).await;
}

async fn an_exchange_that_became_another_is_told(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let (far, near) = (at(proxy.uri(), &env).await, connect(&env).await);
    let before: Fanout<String> = passing("changing");
    let mut events = before.subscribe(&far).start().await.unwrap();
    proxy.down().await;
    // The old one goes with its last queue, and somebody else makes another.
    let after = Topic::<String>::new("changing").transient().auto_delete();
    eventually("another exchange", || async {
        after.declare(&near).await.map_err(|e| e.to_string())
    })
    .await;
    proxy.up().await;
    let interrupted = item(&mut events).await.unwrap_err();
    let Missed::Interrupted(error) = &interrupted else {
        panic!("{interrupted:?}");
    };
    assert!(error.is_mismatch(), "{error:?}");
    clear(&env, "changing", &[]).await;
    let gap = item(&mut events).await.unwrap_err();
    assert!(matches!(gap, Missed::Gap(_)), "{gap:?}");
    before.publisher(&near).publish("here again").await.unwrap();
    assert_eq!(event(&mut events).await.payload, "here again");
}

async fn bindings_change_while_events_flow(env: Env) {
    let connection = connect(&env).await;
    let topic: Topic<u32> = passing("flow");
    let subscribe = topic.subscribe(&connection).bind("always").bind("kern.*");
    let mut events = subscribe.buffer(100_000).start().await.unwrap();
    let (publisher, stop) = (topic.publisher(&connection), Arc::new(Mutex::new(false)));
    let flow = tokio::spawn({
        let (publisher, stop) = (publisher.clone(), Arc::clone(&stop));
        async move {
            let mut n = 0;
            while !*stop.lock().unwrap() {
                publisher.publish("always", &n).await.unwrap();
                publisher.publish("kern.info", &n).await.unwrap();
                n += 1;
            }
            n
        }
    });
    while event(&mut events).await.key() != "kern.info" {}
    events.unbind("kern.*").await.unwrap();
    events.unbind("never.bound").await.unwrap();
    // Unbound, nothing new is routed.
    let refused = publisher.publish("kern.other", &0).mandatory().await;
    assert!(refused.unwrap_err().is_unroutable());
    events.bind("mail.#").await.unwrap();
    events.bind("mail.#").await.unwrap();
    assert_eq!(events.bindings().list().len(), 2);
    publisher.publish("mail", &7).mandatory().await.unwrap();
    *stop.lock().unwrap() = true;
    let count = flow.await.unwrap();
    publisher.publish("always", &count).await.unwrap();

    let (mut always, mut mail, mut last_kern) = (0, 0, 0);
    loop {
        let event = event(&mut events).await;
        match event.key() {
            "always" if event.payload == count => break,
            "always" => always += 1,
            "mail" => mail += 1,
            "kern.info" => last_kern = event.payload,
            other => panic!("{other}"),
        }
    }
    assert_eq!(mail, 1);
    assert!(
        always <= count && last_kern < count,
        "{always} {last_kern} {count}"
    );
}

async fn what_does_not_decode_is_an_item(env: Env) {
    let connection = connect(&env).await;
    let topic: Topic<u64> = passing("numbers").codec(Codec::Json);
    let mut events = topic
        .subscribe(&connection)
        .bind("n.#")
        .start()
        .await
        .unwrap();
    let raw = Raw::open(&env.uri).await;
    let exchange = env.name("numbers");
    raw.publish(&exchange, "n.bad", b"seven").await;
    raw.publish(&exchange, "n.good", b"7").await;
    let properties = lapin::BasicProperties::default().with_content_type("application/xml".into());
    raw.publish_with(&exchange, "n.xml", b"<n>7</n>", properties)
        .await
        .unwrap();
    topic.publisher(&connection).publish("n", &8).await.unwrap();

    let Err(Missed::Undecodable(bad)) = item(&mut events).await else {
        panic!("decoded");
    };
    assert_eq!((&bad.bytes()[..], bad.key()), (&b"seven"[..], "n.bad"));
    assert!(
        bad.reason().starts_with("application/json: expected"),
        "{}",
        bad.reason()
    );
    assert_eq!(event(&mut events).await.payload, 7);
    let Err(Missed::Undecodable(xml)) = item(&mut events).await else {
        panic!("decoded");
    };
    assert_eq!(xml.content_type(), Some("application/xml"));
    assert!(xml.reason().contains("application/xml"), "{}", xml.reason());
    assert_eq!(event(&mut events).await.payload, 8);
    assert_eq!(connection.stats().malformed, 2);
}

async fn a_dropped_subscription_leaves_nothing(env: Env) {
    let (connection, near) = (connect(&env).await, connect(&env).await);
    let topic = Topic::<String>::new("leaving").transient();
    let publisher = topic.publisher(&near).mandatory();
    let unheard = || async {
        let fate = publisher.publish("a", "x").await;
        fate.is_err_and(|error| error.is_unroutable())
    };
    let events = topic
        .subscribe(&connection)
        .bind("a")
        .start()
        .await
        .unwrap();
    publisher.publish("a", "x").await.unwrap();
    drop(events);
    eventually("the queue is gone", unheard).await;
    let events = topic
        .subscribe(&connection)
        .bind("a")
        .start()
        .await
        .unwrap();
    publisher.publish("a", "x").await.unwrap();
    events.close().await.unwrap();
    assert!(unheard().await, "closed means gone");
    let running = topic
        .subscribe(&connection)
        .bind("a")
        .start_each(1, async |_| ())
        .await
        .unwrap();
    publisher.publish("a", "x").await.unwrap();
    drop(running);
    eventually("the queue is gone", unheard).await;
    clear(&env, "leaving", &[]).await;
}

async fn a_handler_sees_every_event(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let (far, near) = (at(proxy.uri(), &env).await, connect(&env).await);
    let topic = Topic::<u32>::new("handled")
        .transient()
        .event_type("number");
    let (seen, told) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(Mutex::new(Vec::new())),
    );
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let handler = {
        let seen = Arc::clone(&seen);
        move |event: Event<u32>| {
            let seen = Arc::clone(&seen);
            async move {
                let context = lepus::Context::current();
                assert_eq!(context.method(), "number");
                seen.lock().unwrap().push(event.payload);
                match event.payload {
                    2 => panic!("a handler's panic is its own"),
                    3 => Err("refused".to_owned()),
                    _ => Ok(()),
                }
            }
        }
    };
    let subscribe = topic.subscribe(&far).bind("#").on_missed({
        let told = Arc::clone(&told);
        move |missed| told.lock().unwrap().push(missed.to_string())
    });
    let shutdown = async move {
        let _ = stopped.await;
    };
    let working = tokio::spawn(subscribe.for_each(1, handler, shutdown));
    let publisher = topic.publisher(&near).mandatory();
    eventually("it listens", || async {
        publisher.publish("a", &0).await.is_ok()
    })
    .await;
    for n in 1..=5 {
        publisher.publish("a", &n).await.unwrap();
    }
    let raw = Raw::open(&env.uri).await;
    let number = lapin::BasicProperties::default().with_type("number".into());
    raw.publish_with(&env.name("handled"), "a", b"\xc1", number)
        .await
        .unwrap();
    eventually("all are handled, in order", || async {
        let seen = seen.lock().unwrap().clone();
        if seen == [0, 1, 2, 3, 4, 5] {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    eventually("the broken one is told", || async {
        let told = told.lock().unwrap().clone();
        told.len() == 1 && told[0].starts_with("an event does not decode")
    })
    .await;
    assert_eq!(far.stats().panics, 1);

    proxy.cut(Cut::Fin);
    eventually("the gap is told", || async {
        told.lock()
            .unwrap()
            .iter()
            .any(|text| text.starts_with("events may have been missed"))
    })
    .await;
    publisher.publish("a", &6).await.unwrap();
    eventually("it goes on", || async { seen.lock().unwrap().contains(&6) }).await;
    stop.send(()).unwrap();
    within("drained", working).await.unwrap().unwrap();
    assert!(
        publisher
            .publish("a", &7)
            .await
            .unwrap_err()
            .is_unroutable()
    );
    clear(&env, "handled", &[]).await;
}

async fn a_handler_is_bound_anew_while_it_runs(env: Env) {
    let connection = connect(&env).await;
    let topic: Topic<String> = passing("rebound");
    let subscribe = topic.subscribe(&connection).unbound();
    let bindings = subscribe.bindings();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |event: Event<String>| {
        let sender = sender.clone();
        async move { sender.send(event.payload).map_err(|_| "nobody".to_owned()) }
    };
    let running = subscribe.start_each(4, handler).await.unwrap();
    let publisher = topic.publisher(&connection).mandatory();
    assert!(
        publisher
            .publish("a", "early")
            .await
            .unwrap_err()
            .is_unroutable()
    );
    bindings.bind("a").await.unwrap();
    publisher.publish("a", "bound").await.unwrap();
    assert_eq!(
        within("an event", seen.recv()).await.as_deref(),
        Some("bound")
    );
    bindings.unbind("a").await.unwrap();
    // The exchange would go with its last binding.
    let mistake = bindings.bind("a..b").await.unwrap_err();
    assert!(mistake.is_invalid(), "{mistake}");
    running.stop().await.unwrap();
}

async fn a_closed_connection_ends_the_stream(env: Env) {
    let (connection, near) = (connect(&env).await, connect(&env).await);
    let fanout: Fanout<String> = passing("ending");
    let mut events = fanout.subscribe(&connection).start().await.unwrap();
    fanout.publisher(&near).publish("last").await.unwrap();
    assert_eq!(event(&mut events).await.payload, "last");
    connection.close().await;
    assert!(within("the end", events.next()).await.is_none());
    let publish = fanout.publisher(&connection).publish("late").await;
    assert!(publish.unwrap_err().is_closed());
    let subscribe = within("an answer", fanout.subscribe(&connection).start()).await;
    assert!(subscribe.unwrap_err().is_closed());
}

// Several types on one exchange.

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Tagged {
    Placed { id: u64 },
    Paid { id: u64, cents: u64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Placed {
    id: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Paid {
    id: u64,
    cents: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Either {
    #[serde(rename = "order.placed")]
    Placed(Placed),
    #[serde(rename = "order.paid")]
    Paid { id: u64, cents: u64 },
    #[serde(rename = "order.lost")]
    Lost,
}

async fn an_enum_says_its_type_in_the_payload(env: Env) {
    let connection = connect(&env).await;
    for codec in [Codec::Json, Codec::MsgPack] {
        let orders: Topic<Tagged> = passing(&format!("orders.{codec:?}")).codec(codec);
        let mut events = orders
            .subscribe(&connection)
            .bind("#")
            .start()
            .await
            .unwrap();
        let publisher = orders.publisher(&connection);
        let all = [Tagged::Placed { id: 1 }, Tagged::Paid { id: 1, cents: 250 }];
        for order in &all {
            publisher.publish("order", order).await.unwrap();
        }
        for order in all {
            let event = event(&mut events).await;
            assert_eq!((event.event_type(), &event.payload), (None, &order));
        }
    }
}

async fn separate_types_are_told_apart(env: Env) {
    let connection = connect(&env).await;
    let placed = passing::<ByPattern, Placed>("orders").event_type("order.placed");
    let paid = placed.carrying::<Paid>().event_type("order.paid");
    let mut placings = placed
        .subscribe(&connection)
        .bind("#")
        .start()
        .await
        .unwrap();
    let mut payments = paid.subscribe(&connection).bind("#").start().await.unwrap();
    let (placing, paying) = (placed.publisher(&connection), paid.publisher(&connection));
    for id in 0..5 {
        placing.publish("order", &Placed { id }).await.unwrap();
        paying
            .publish("order", &Paid { id, cents: 250 })
            .await
            .unwrap();
    }
    for id in 0..5 {
        let placed = event(&mut placings).await;
        assert_eq!(
            (placed.event_type(), placed.payload.id),
            (Some("order.placed"), id)
        );
        assert_eq!(event(&mut payments).await.payload, Paid { id, cents: 250 });
    }
    eventually("the others are counted", || async {
        connection.stats().skipped_events >= 9
    })
    .await;
    assert_eq!(payments.skipped(), 5);
}

async fn unknown_types_are_surfaced_on_request(env: Env) {
    let connection = connect(&env).await;
    let paid = passing::<ByPattern, Paid>("orders").event_type("order.paid");
    let subscribe = paid
        .subscribe(&connection)
        .bind("#")
        .unknown(Unknown::Surface);
    let mut events = subscribe.start().await.unwrap();
    let placed = paid.carrying::<Placed>().event_type("order.placed");
    placed
        .publisher(&connection)
        .publish("order", &Placed { id: 7 })
        .await
        .unwrap();
    paid.publisher(&connection)
        .publish("order", &Paid { id: 7, cents: 1 })
        .await
        .unwrap();
    let Err(Missed::UnknownType(other)) = item(&mut events).await else {
        panic!("known");
    };
    assert_eq!(other.event_type(), Some("order.placed"));
    assert_eq!(
        Codec::MsgPack.decode::<Placed>(other.bytes()).unwrap(),
        Placed { id: 7 }
    );
    assert_eq!(event(&mut events).await.payload, Paid { id: 7, cents: 1 });
}

async fn variants_and_separate_types_speak_with_each_other(env: Env) {
    let connection = connect(&env).await;
    let either = passing::<ByPattern, Either>("orders").types_by_variant();
    let paid = either.carrying::<Paid>().event_type("order.paid");
    let other = either.carrying::<String>().event_type("order.burnt");
    let mut all = either
        .subscribe(&connection)
        .bind("#")
        .start()
        .await
        .unwrap();
    let mut payments = paid.subscribe(&connection).bind("#").start().await.unwrap();
    let sent = [
        Either::Placed(Placed { id: 7 }),
        Either::Paid { id: 7, cents: 250 },
        Either::Lost,
    ];
    let publisher = either.publisher(&connection);
    for event in &sent {
        publisher.publish("order", event).await.unwrap();
    }
    other
        .publisher(&connection)
        .publish("order", "ashes")
        .await
        .unwrap();
    paid.publisher(&connection)
        .publish("order", &Paid { id: 8, cents: 1 })
        .await
        .unwrap();

    let types = ["order.placed", "order.paid", "order.lost"];
    for (expected, kind) in sent.into_iter().zip(types) {
        let event = event(&mut all).await;
        assert_eq!(
            (event.event_type(), &event.payload),
            (Some(kind), &expected)
        );
    }
    assert_eq!(
        event(&mut all).await.payload,
        Either::Paid { id: 8, cents: 1 }
    );
    assert_eq!(all.skipped(), 1);
    assert_eq!(
        event(&mut payments).await.payload,
        Paid { id: 7, cents: 250 }
    );
    assert_eq!(event(&mut payments).await.payload, Paid { id: 8, cents: 1 });
}

// Groups.

async fn a_group_keeps_events_while_it_is_away(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("kept").transient();
    let member = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .shared("audit")
            .retry(quick_retry(3))
    };
    member().start().await.unwrap().close().await.unwrap();
    let publisher = topic.publisher(&connection).mandatory().persistent();
    for n in 0..5 {
        publisher.publish("a.key", &n).await.unwrap();
    }
    let mut events = member().prefetch(3).start().await.unwrap();
    for n in 0..5 {
        let held = held(&mut events).await;
        assert_eq!((held.payload, held.key(), held.attempt()), (n, "a.key", 1));
        assert_eq!(held.exchange(), env.name("kept"));
        held.ack();
    }
    events.close().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    let queue = env.name("kept.audit");
    raw.until_messages(&queue, 0).await;
    clear(&env, "kept", &["audit"]).await;
}

async fn members_share_the_events(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("shared").transient();
    let member = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .shared("crew")
            .classic()
    };
    let (mut one, mut two) = (
        member().start().await.unwrap(),
        member().start().await.unwrap(),
    );
    let mut others = topic
        .subscribe(&connection)
        .bind("#")
        .shared("watch")
        .classic()
        .start()
        .await
        .unwrap();
    let publisher = topic.publisher(&connection);
    for n in 0..20 {
        publisher.publish("a", &n).await.unwrap();
    }
    // One each at a time: a member that holds its event gets no other.
    let busy = held(&mut one).await;
    let mut seen = vec![busy.payload];
    for _ in 0..19 {
        seen.push(held(&mut two).await.ack().payload);
    }
    busy.ack();
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<u32>>());
    // And another group hears all of them too.
    for n in 0..20 {
        assert_eq!(held(&mut others).await.ack().payload, n);
    }
    for member in [one, two, others] {
        member.close().await.unwrap();
    }
    clear(&env, "shared", &["crew", "watch"]).await;
}

async fn a_failed_event_is_tried_again_as_it_came(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<String>::new("retried")
        .transient()
        .event_type("note");
    for (group, quorum) in [("classic", false), ("quorum", true)] {
        let mut subscribe = topic
            .subscribe(&connection)
            .bind("a.*")
            .shared(group)
            .retry(quick_retry(3));
        if !quorum {
            subscribe = subscribe.classic();
        }
        let dead = subscribe.dead_letters();
        let mut events = subscribe.start().await.unwrap();
        let publish = topic.publisher(&connection).publish("a.b", "note");
        publish
            .header("tenant", "hare")
            .message_id("m")
            .await
            .unwrap();
        for attempt in 1..=3 {
            let held = held(&mut events).await;
            assert_eq!((held.attempt(), held.payload.as_str()), (attempt, "note"));
            assert_eq!(
                (held.key(), held.exchange()),
                ("a.b", env.name("retried").as_str())
            );
            assert_eq!(
                (held.event_type(), held.message_id()),
                (Some("note"), Some("m"))
            );
            assert_eq!(held.header("tenant"), Some(&Value::from("hare")));
            assert_eq!(held.headers().len(), 1, "{:?}", held.headers());
            held.retry(format!("busy {attempt}"));
        }
        eventually("given up", || async {
            dead.count().await.is_ok_and(|count| count == 1)
        })
        .await;
        let letters = dead.list(10).await.unwrap();
        assert_eq!(
            (letters[0].reason(), letters[0].error()),
            ("attempts", "busy 3")
        );
        // Put back, it is the event that it was.
        assert_eq!(dead.replay().await.unwrap(), 1);
        let again = held(&mut events).await;
        assert_eq!((again.attempt(), again.key()), (1, "a.b"));
        again.ack();
        events.close().await.unwrap();
    }
    clear(&env, "retried", &["classic", "quorum"]).await;
}

/// Another program may send what it likes.
async fn a_group_is_not_fooled_by_a_senders_headers(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<String>::new("fooled")
        .transient()
        .codec(Codec::Text);
    let raw = Raw::open(&env.uri).await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = AMQPValue::LongLongInt(99);
    let headers = table(&[
        ("attempt", number.clone()),
        ("attempts", number.clone()),
        ("error", text("made up")),
        ("first-error", text("made up")),
        ("reason", text("abandoned")),
        ("failed-at", AMQPValue::Timestamp(1)),
        ("source-queue", text("elsewhere")),
        ("source-exchange", text("bank")),
        ("source-routing-key", text("account.opened")),
        ("source-user-id", text("director")),
        ("x-delivery-count", number),
        ("tenant", text("hare")),
    ]);
    for group in ["classic", "quorum"] {
        let mut subscribe = topic
            .subscribe(&connection)
            .bind("a.*")
            .shared(group)
            .retry(quick_retry(2));
        if group == "classic" {
            subscribe = subscribe.classic();
        }
        let dead = subscribe.dead_letters();
        let mut events = subscribe.start().await.unwrap();
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_headers(headers.clone());
        let exchange = env.name("fooled");
        let published = raw.publish_with(&exchange, "a.b", b"note", properties);
        published.await.unwrap();
        for attempt in 1..=2 {
            let held = held(&mut events).await;
            assert_eq!(held.attempt(), attempt, "{group}");
            assert_eq!(held.exchange(), env.name("fooled"), "{group}");
            assert_eq!(held.key(), "a.b", "{group}");
            let seen: Vec<_> = held.headers().keys().collect();
            assert_eq!(seen, ["tenant"], "{group}");
            held.retry(format!("busy {attempt}"));
        }
        eventually("given up", || async {
            dead.count().await.is_ok_and(|count| count == 1)
        })
        .await;
        let letter = dead.list(1).await.unwrap().pop().unwrap();
        assert_eq!((letter.reason(), letter.attempts()), ("attempts", 2));
        assert_eq!(letter.first_error(), Some("busy 1"));
        let queue = format!("fooled.{group}");
        assert_eq!(letter.source_queue(), queue);
        assert!(!letter.headers().contains_key("source-user-id"));
        events.close().await.unwrap();
    }
    raw.close().await;
    clear(&env, "fooled", &["classic", "quorum"]).await;
}

async fn a_held_event_that_is_dropped_is_tried_again(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<String>::new("dropped").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    let mut events = subscribe.retry(quick_retry(3)).start().await.unwrap();
    topic
        .publisher(&connection)
        .publish("a", "event")
        .await
        .unwrap();
    drop(held(&mut events).await);
    let again = held(&mut events).await;
    assert_eq!(again.attempt(), 2);
    again.ack();
    events.close().await.unwrap();
    clear(&env, "dropped", &["group"]).await;
}

async fn what_cannot_be_helped_ends_in_the_dead_letters(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("hopeless").transient().codec(Codec::Json);
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    let dead = subscribe.dead_letters();
    let mut events = subscribe.start().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    raw.publish(&env.name("hopeless"), "bad", b"seven").await;
    let publisher = topic.publisher(&connection);
    publisher.publish("good", &7).await.unwrap();
    publisher.publish("end", &8).await.unwrap();

    let missed = within("an item", events.next()).await.unwrap().unwrap_err();
    let Missed::Undecodable(bad) = missed else {
        panic!("{missed}");
    };
    assert_eq!((bad.key(), &bad.bytes()[..]), ("bad", &b"seven"[..]));
    held(&mut events).await.reject("unwanted");
    held(&mut events).await.ack();
    eventually("two letters", || async {
        dead.count().await.is_ok_and(|count| count == 2)
    })
    .await;
    let letters = dead.list(10).await.unwrap();
    assert!(
        letters[0].error().starts_with("an event does not decode"),
        "{}",
        letters[0].error()
    );
    assert_eq!(
        (letters[1].reason(), letters[1].error()),
        ("rejected", "unwanted")
    );
    events.close().await.unwrap();
    clear(&env, "hopeless", &["group"]).await;
}

async fn events_come_in_order_and_untouched_ones_go_back(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("ordered").transient();
    let member = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .shared("group")
            .classic()
    };
    let mut events = member().prefetch(50).start().await.unwrap();
    let publisher = topic.publisher(&connection);
    for n in 0..200 {
        publisher.publish("a", &n).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(held(&mut events).await.ack().payload, n);
    }
    // One in hand, others waiting here: they go back, and it is waited for.
    let last = held(&mut events).await;
    let closing = tokio::spawn(events.close());
    assert_eq!(last.ack().payload, 100);
    within("closed", closing).await.unwrap().unwrap();
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("ordered.group"), 99).await;
    let mut events = member().prefetch(50).start().await.unwrap();
    let mut seen = Vec::new();
    for _ in 101..200 {
        seen.push(held(&mut events).await.ack().payload);
    }
    seen.sort_unstable();
    assert_eq!(seen, (101..200).collect::<Vec<u32>>());
    events.close().await.unwrap();
    clear(&env, "ordered", &["group"]).await;
}

async fn a_full_group_refuses_its_publisher(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("full").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    subscribe
        .max_length(3)
        .start()
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let publisher = topic.publisher(&connection);
    for n in 0..3 {
        publisher.publish("a", &n).await.unwrap();
    }
    let error = publisher.publish("a", &3).await.unwrap_err();
    assert!(error.is_rejected(), "{error}");
    clear(&env, "full", &["group"]).await;
}

async fn a_cut_member_gets_its_events_again(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let (far, near) = (at(proxy.uri(), &env).await, connect(&env).await);
    let topic = Topic::<u32>::new("cut").transient();
    let subscribe = topic
        .subscribe(&far)
        .bind("#")
        .shared("group")
        .retry(quick_retry(5));
    let mut events = subscribe.prefetch(2).start().await.unwrap();
    let publisher = topic.publisher(&near);
    for n in 0..3 {
        publisher.publish("a", &n).await.unwrap();
    }
    let first = held(&mut events).await;
    proxy.down().await;
    publisher.publish("a", &3).await.unwrap();
    within("it is told", first.cancelled().wait()).await;
    // What is said of it now comes too late.
    first.retry("too late");
    proxy.up().await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(held(&mut events).await.ack().payload);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3], "each once, and no gap");
    events.close().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    assert_eq!(raw.count(&env.name("cut.group")).await.messages, 0);
    clear(&env, "cut", &["group"]).await;
}

async fn a_deleted_group_queue_is_a_gap(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("deleted").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("a")
        .shared("group")
        .classic();
    let mut events = subscribe.start().await.unwrap();
    events.bindings().bind("b").await.unwrap();
    let raw = Raw::open(&env.uri).await;
    raw.delete(&env.name("deleted.group")).await;
    let missed = within("word of it", events.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&missed, Missed::Gap(gap) if gap.reason().is_none()),
        "{missed}"
    );
    let publisher = topic.publisher(&connection).mandatory();
    for key in ["a", "b"] {
        publisher.publish(key, &7).await.unwrap();
        assert_eq!(held(&mut events).await.ack().key(), key);
    }
    events.close().await.unwrap();
    clear(&env, "deleted", &["group"]).await;
}

async fn a_handler_of_a_group_retries(env: Env) {
    let connection = connect(&env).await;
    let topic = Topic::<u32>::new("worked").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .retry(quick_retry(3));
    let dead = subscribe.dead_letters();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |event: Event<u32>| {
        sender
            .send((event.payload, event.attempt(), event.key().to_owned()))
            .unwrap();
        async move {
            assert!(event.payload != 2, "a panic is a failure");
            match (event.payload, event.attempt()) {
                (1, 1..=2) => Err(lepus::retry("busy")),
                (3, _) => Err(lepus::reject("never")),
                _ => Ok(()),
            }
        }
    };
    let running = subscribe.start_each(2, handler).await.unwrap();
    let publisher = topic.publisher(&connection);
    for n in 0..4 {
        publisher.publish("a.b", &n).await.unwrap();
    }
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(within("a call", seen.recv()).await.unwrap());
    }
    all.sort();
    let key = || "a.b".to_owned();
    let expected = [
        (0, 1),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (2, 2),
        (2, 3),
        (3, 1),
    ];
    assert_eq!(all, expected.map(|(n, attempt)| (n, attempt, key())));
    eventually("two letters", || async {
        dead.count().await.is_ok_and(|count| count == 2)
    })
    .await;
    running.stop().await.unwrap();
    assert!(seen.try_recv().is_err());
    clear(&env, "worked", &["group"]).await;
}

async fn a_singleton_takes_over(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let (far, near) = (at(proxy.uri(), &env).await, connect(&env).await);
    let topic = Topic::<u32>::new("single").transient();
    let member = |connection: &Connection| {
        let subscribe = topic.subscribe(connection).bind("#").singleton("leader");
        subscribe.prefetch(5).start()
    };
    let mut active = member(&far).await.unwrap();
    let mut standby = member(&near).await.unwrap();
    let publisher = topic.publisher(&near);
    for n in 0..10 {
        publisher.publish("a", &n).await.unwrap();
    }
    for n in 0..10 {
        assert_eq!(held(&mut active).await.ack().payload, n, "in order");
    }
    publisher.publish("a", &10).await.unwrap();
    let unsettled = held(&mut active).await;
    assert_eq!(unsettled.payload, 10);
    // The acknowledgements have left, and are with the broker when what is asked after them on
    // their connection is answered.
    eventually("one that is not acknowledged", || async {
        far.stats().unsettled == 1
    })
    .await;
    let waiting = member(&far).await.unwrap();
    proxy.down().await;
    let taken = held(&mut standby).await;
    assert_eq!((taken.payload, taken.redelivered()), (10, true));
    taken.ack();
    publisher.publish("a", &11).await.unwrap();
    assert_eq!(held(&mut standby).await.ack().payload, 11);
    drop((unsettled, active, waiting));

    // Shared and singleton are two kinds of queue.
    let shared = topic
        .subscribe(&near)
        .bind("#")
        .shared("leader")
        .start()
        .await;
    let error = shared.unwrap_err();
    assert!(
        error.is_mismatch() && error.to_string().contains("x-single-active-consumer"),
        "{error}"
    );
    standby.close().await.unwrap();
    clear(&env, "single", &["leader"]).await;
}
