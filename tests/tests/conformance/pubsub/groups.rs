//! Groups and singletons: durable queues whose members share the events.

use super::{clear, within};
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{
    Codec, Connection, Event, RetryPolicy, Topic,
    amqp::Value,
    events::{GroupEvent, GroupSubscription, Kind, Missed},
};
use lepus_tests::raw::{Raw, table};
use lepus_tests::{Env, conformance, eventually};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

conformance!(
    a_group_keeps_events_while_it_is_away,
    members_share_the_events,
    a_failed_event_is_tried_again_as_it_came,
    a_held_event_that_is_dropped_is_tried_again,
    a_requeued_event_comes_again_and_is_an_attempt,
    what_cannot_be_helped_ends_in_the_dead_letters,
    events_come_in_order_and_untouched_ones_go_back,
    a_full_group_refuses_its_publisher,
    a_cut_member_gets_its_events_again,
    a_deleted_group_queue_is_a_gap,
    a_handler_of_a_group_retries,
    a_group_is_not_fooled_by_a_senders_headers,
    a_singleton_takes_over,
);

async fn held<K: Kind, T: DeserializeOwned + Debug>(
    member: &mut GroupSubscription<K, T>,
) -> GroupEvent<T> {
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

async fn a_group_keeps_events_while_it_is_away(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("kept").transient();
    let member = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .shared("audit")
            .retry(quick_retry(3))
    };
    member().stream().await.unwrap().close().await.unwrap();
    let publisher = topic.publisher(&connection).mandatory().persistent();
    for n in 0..5 {
        publisher.publish("a.key", &n).await.unwrap();
    }
    let mut events = member().prefetch(3).stream().await.unwrap();
    for n in 0..5 {
        let held = held(&mut events).await;
        assert_eq!(
            (*held.payload(), held.key(), held.attempt()),
            (n, "a.key", 1)
        );
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
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("shared").transient();
    let member = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .shared("crew")
            .classic()
    };
    let (mut one, mut two) = (
        member().stream().await.unwrap(),
        member().stream().await.unwrap(),
    );
    let mut others = topic
        .subscribe(&connection)
        .bind("#")
        .shared("watch")
        .classic()
        .stream()
        .await
        .unwrap();
    let publisher = topic.publisher(&connection);
    for n in 0..20 {
        publisher.publish("a", &n).await.unwrap();
    }
    // One each at a time: a member that holds its event gets no other.
    let busy = held(&mut one).await;
    let mut seen = vec![*busy.payload()];
    for _ in 0..19 {
        seen.push(held(&mut two).await.ack().into_payload());
    }
    busy.ack();
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<u32>>());
    // And another group hears all of them too.
    for n in 0..20 {
        assert_eq!(held(&mut others).await.ack().into_payload(), n);
    }
    for member in [one, two, others] {
        member.close().await.unwrap();
    }
    clear(&env, "shared", &["crew", "watch"]).await;
}

async fn a_failed_event_is_tried_again_as_it_came(env: Env) {
    let connection = env.connect().await;
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
        let mut events = subscribe.stream().await.unwrap();
        let publish = topic.publisher(&connection).publish("a.b", "note");
        publish
            .header("tenant", "hare")
            .message_id("m")
            .await
            .unwrap();
        for attempt in 1..=3 {
            let held = held(&mut events).await;
            assert_eq!((held.attempt(), held.payload().as_str()), (attempt, "note"));
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
    let connection = env.connect().await;
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
        let mut events = subscribe.stream().await.unwrap();
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
        assert_eq!((letter.reason(), letter.attempt()), ("attempts", 2));
        assert_eq!(letter.first_error(), Some("busy 1"));
        let queue = format!("fooled.{group}");
        assert_eq!(letter.source_queue(), queue);
        assert_eq!(letter.exchange(), env.name("fooled"), "{group}");
        assert_eq!(letter.key(), "a.b", "{group}");
        assert!(!letter.all_headers().contains_key("source-user-id"));
        events.close().await.unwrap();
    }
    raw.close().await;
    clear(&env, "fooled", &["classic", "quorum"]).await;
}

async fn a_held_event_that_is_dropped_is_tried_again(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<String>::new("dropped").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    let mut events = subscribe.retry(quick_retry(3)).stream().await.unwrap();
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

async fn a_requeued_event_comes_again_and_is_an_attempt(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<String>::new("requeued").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    let dead = subscribe.dead_letters();
    let mut events = subscribe.retry(quick_retry(2)).stream().await.unwrap();
    let publisher = topic.publisher(&connection);
    publisher.publish("a", "event").await.unwrap();
    let first = held(&mut events).await;
    assert!(!first.redelivered());
    assert_eq!(first.requeue().into_payload(), "event");
    let again = held(&mut events).await;
    assert_eq!((again.attempt(), again.payload().as_str()), (2, "event"));
    again.requeue();
    eventually("its attempts are spent", || async {
        dead.count().await.is_ok_and(|count| count == 1)
    })
    .await;
    let letters = dead.list(1).await.unwrap();
    assert_eq!(letters[0].reason(), "abandoned");
    events.close().await.unwrap();
    clear(&env, "requeued", &["group"]).await;
}

async fn what_cannot_be_helped_ends_in_the_dead_letters(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("hopeless").transient().codec(Codec::Json);
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    let dead = subscribe.dead_letters();
    let mut events = subscribe.stream().await.unwrap();
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
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("ordered").transient();
    let member = || {
        topic
            .subscribe(&connection)
            .bind("#")
            .shared("group")
            .classic()
    };
    let mut events = member().prefetch(50).stream().await.unwrap();
    let publisher = topic.publisher(&connection);
    for n in 0..200 {
        publisher.publish("a", &n).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(held(&mut events).await.ack().into_payload(), n);
    }
    // One in hand, others waiting here: they go back, and it is waited for.
    let last = held(&mut events).await;
    let closing = tokio::spawn(events.close());
    assert_eq!(last.ack().into_payload(), 100);
    within("closed", closing).await.unwrap().unwrap();
    let raw = Raw::open(&env.uri).await;
    raw.until_messages(&env.name("ordered.group"), 99).await;
    let mut events = member().prefetch(50).stream().await.unwrap();
    let mut seen = Vec::new();
    for _ in 101..200 {
        seen.push(held(&mut events).await.ack().into_payload());
    }
    seen.sort_unstable();
    assert_eq!(seen, (101..200).collect::<Vec<u32>>());
    events.close().await.unwrap();
    clear(&env, "ordered", &["group"]).await;
}

async fn a_full_group_refuses_its_publisher(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("full").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("#")
        .shared("group")
        .classic();
    subscribe
        .max_length(3)
        .stream()
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
    let (proxy, far) = env.proxied().await;
    let near = env.connect().await;
    let topic = Topic::<u32>::new("cut").transient();
    let subscribe = topic
        .subscribe(&far)
        .bind("#")
        .shared("group")
        .retry(quick_retry(5));
    let mut events = subscribe.prefetch(2).stream().await.unwrap();
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
        seen.push(held(&mut events).await.ack().into_payload());
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3], "each once, and no gap");
    events.close().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    assert_eq!(raw.count(&env.name("cut.group")).await.messages, 0);
    clear(&env, "cut", &["group"]).await;
}

async fn a_deleted_group_queue_is_a_gap(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<u32>::new("deleted").transient();
    let subscribe = topic
        .subscribe(&connection)
        .bind("a")
        .shared("group")
        .classic();
    let mut events = subscribe.stream().await.unwrap();
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
    let connection = env.connect().await;
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
            .send((*event.payload(), event.attempt(), event.key().to_owned()))
            .unwrap();
        async move {
            assert!(*event.payload() != 2, "a panic is a failure");
            match (*event.payload(), event.attempt()) {
                (1, 1..=2) => Err(lepus::retry("busy")),
                (3, _) => Err(lepus::reject("never")),
                _ => Ok(()),
            }
        }
    };
    let running = subscribe.concurrency(2).start(handler).await.unwrap();
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
    let (proxy, far) = env.proxied().await;
    let near = env.connect().await;
    let topic = Topic::<u32>::new("single").transient();
    let member = |connection: &Connection| {
        let subscribe = topic.subscribe(connection).bind("#").singleton("leader");
        subscribe.prefetch(5).stream()
    };
    let mut active = member(&far).await.unwrap();
    let mut standby = member(&near).await.unwrap();
    let publisher = topic.publisher(&near);
    for n in 0..10 {
        publisher.publish("a", &n).await.unwrap();
    }
    for n in 0..10 {
        assert_eq!(held(&mut active).await.ack().into_payload(), n, "in order");
    }
    publisher.publish("a", &10).await.unwrap();
    let unsettled = held(&mut active).await;
    assert_eq!(*unsettled.payload(), 10);
    // The acknowledgements have left, and are with the broker when what is asked after them on
    // their connection is answered.
    eventually("one that is not acknowledged", || async {
        far.stats().unsettled == 1
    })
    .await;
    let waiting = member(&far).await.unwrap();
    proxy.down().await;
    let taken = held(&mut standby).await;
    assert_eq!((*taken.payload(), taken.redelivered()), (10, true));
    taken.ack();
    publisher.publish("a", &11).await.unwrap();
    assert_eq!(held(&mut standby).await.ack().into_payload(), 11);
    drop((unsettled, active, waiting));

    // Shared and singleton are two kinds of queue.
    let shared = topic
        .subscribe(&near)
        .bind("#")
        .shared("leader")
        .stream()
        .await;
    let error = shared.unwrap_err();
    assert!(
        error.is_mismatch() && error.to_string().contains("x-single-active-consumer"),
        "{error}"
    );
    standby.close().await.unwrap();
    clear(&env, "single", &["leader"]).await;
}
