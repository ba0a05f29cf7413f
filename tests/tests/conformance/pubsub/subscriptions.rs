//! Broadcast subscriptions: their buffers, their gaps, their bindings, their end.

use super::{clear, event, item, passing, within};
use lepus::{
    Codec, Event, Fanout, Topic,
    events::{ByPattern, GroupSubscription, Missed, Mode, Overflow, Subscription},
};
use lepus_tests::proxy::Cut;
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::{Arc, Mutex};
use std::time::Duration;

conformance!(
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
    an_exchange_that_was_deleted_is_bound_to_again,
);

async fn a_slow_reader_is_told_what_it_lost(env: Env) {
    let connection = env.connect().await;
    let fanout: Fanout<u32> = passing("busy");
    let mut slow = fanout
        .subscribe(&connection)
        .buffer(10)
        .stream()
        .await
        .unwrap();
    let mut quick = fanout
        .subscribe(&connection)
        .buffer(1000)
        .stream()
        .await
        .unwrap();
    let publisher = fanout.publisher(&connection);
    for n in 0..100 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(event(&mut quick).await.into_payload(), n);
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
        assert_eq!(event(&mut slow).await.into_payload(), n);
    }
    publisher.publish(&100).await.unwrap();
    assert_eq!(event(&mut slow).await.into_payload(), 100);
}

async fn a_slow_reader_makes_the_broker_hold(env: Env) {
    let connection = env.connect().await;
    let fanout: Fanout<u32> = passing("patient");
    let subscribe = fanout
        .subscribe(&connection)
        .buffer(5)
        .overflow(Overflow::Hold);
    let mut events = subscribe.stream().await.unwrap();
    let publisher = fanout.publisher(&connection);
    for n in 0..300 {
        publisher.publish(&n).await.unwrap();
    }
    for n in 0..300 {
        assert_eq!(event(&mut events).await.into_payload(), n);
    }
    assert_eq!(connection.stats().lagged_events, 0);
    // Unread ones keep nobody waiting at the end.
    publisher.publish(&300).await.unwrap();
    within("closed", events.close()).await.unwrap();
}

async fn the_brokers_backlog_is_bounded(env: Env) {
    let connection = env.connect().await;
    let fanout: Fanout<u32> = passing("bounded");
    let subscribe = fanout
        .subscribe(&connection)
        .buffer(5)
        .overflow(Overflow::Hold);
    let mut events = subscribe.drop_oldest_over(10).stream().await.unwrap();
    let publisher = fanout.publisher(&connection);
    for n in 0..100 {
        publisher.publish(&n).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&99) {
        seen.push(event(&mut events).await.into_payload());
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
    let (proxy, far) = env.proxied().await;
    let near = env.connect().await;
    let topic = Topic::<String>::new("gap").transient();
    let mut events = topic
        .subscribe(&far)
        .bind("a")
        .bind("c")
        .stream()
        .await
        .unwrap();
    events.bind("b").await.unwrap();
    events.unbind("c").await.unwrap();
    let publisher = topic.publisher(&near).mandatory();
    publisher.publish("a", "before").await.unwrap();
    assert_eq!(event(&mut events).await.into_payload(), "before");
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
            ["unread", "lost"].contains(&early.payload().as_str()),
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
            Ok(event) if event.payload() == "end" => break,
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
    let (proxy, far) = env.proxied().await;
    let near = env.connect().await;
    let before: Fanout<String> = passing("changing");
    let mut events = before.subscribe(&far).stream().await.unwrap();
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
    assert_eq!(event(&mut events).await.into_payload(), "here again");
}

async fn bindings_change_while_events_flow(env: Env) {
    let connection = env.connect().await;
    let topic: Topic<u32> = passing("flow");
    let subscribe = topic.subscribe(&connection).bind("always").bind("kern.*");
    let mut events = subscribe.buffer(100_000).stream().await.unwrap();
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
            "always" if *event.payload() == count => break,
            "always" => always += 1,
            "mail" => mail += 1,
            "kern.info" => last_kern = event.into_payload(),
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
    let connection = env.connect().await;
    let topic: Topic<u64> = passing("numbers").codec(Codec::Json);
    let mut events = topic
        .subscribe(&connection)
        .bind("n.#")
        .stream()
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
    assert_eq!(event(&mut events).await.into_payload(), 7);
    let Err(Missed::Undecodable(xml)) = item(&mut events).await else {
        panic!("decoded");
    };
    assert_eq!(xml.content_type(), Some("application/xml"));
    assert!(xml.reason().contains("application/xml"), "{}", xml.reason());
    assert_eq!(event(&mut events).await.into_payload(), 8);
    assert_eq!(connection.stats().malformed, 2);
}

async fn a_dropped_subscription_leaves_nothing(env: Env) {
    let (connection, near) = (env.connect().await, env.connect().await);
    let topic = Topic::<String>::new("leaving").transient();
    let publisher = topic.publisher(&near).mandatory();
    let unheard = || async {
        let fate = publisher.publish("a", "x").await;
        fate.is_err_and(|error| error.is_unroutable())
    };
    let events = topic
        .subscribe(&connection)
        .bind("a")
        .stream()
        .await
        .unwrap();
    publisher.publish("a", "x").await.unwrap();
    drop(events);
    eventually("the queue is gone", unheard).await;
    let events = topic
        .subscribe(&connection)
        .bind("a")
        .stream()
        .await
        .unwrap();
    publisher.publish("a", "x").await.unwrap();
    events.close().await.unwrap();
    assert!(unheard().await, "closed means gone");
    let running = topic
        .subscribe(&connection)
        .bind("a")
        .start(async |_| ())
        .await
        .unwrap();
    publisher.publish("a", "x").await.unwrap();
    drop(running);
    eventually("the queue is gone", unheard).await;
    clear(&env, "leaving", &[]).await;
}

async fn a_handler_sees_every_event(env: Env) {
    let (proxy, far) = env.proxied().await;
    let near = env.connect().await;
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
                seen.lock().unwrap().push(*event.payload());
                match event.into_payload() {
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
    let working = tokio::spawn(subscribe.run(handler, shutdown));
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
    let connection = env.connect().await;
    let topic: Topic<String> = passing("rebound");
    let subscribe = topic.subscribe(&connection).unbound();
    let bindings = subscribe.bindings();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |event: Event<String>| {
        let sender = sender.clone();
        async move {
            sender
                .send(event.into_payload())
                .map_err(|_| "nobody".to_owned())
        }
    };
    let running = subscribe.concurrency(4).start(handler).await.unwrap();
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
    let (connection, near) = (env.connect().await, env.connect().await);
    let fanout: Fanout<String> = passing("ending");
    let mut events = fanout.subscribe(&connection).stream().await.unwrap();
    fanout.publisher(&near).publish("last").await.unwrap();
    assert_eq!(event(&mut events).await.into_payload(), "last");
    connection.close().await;
    assert!(within("the end", events.next()).await.is_none());
    let publish = fanout.publisher(&connection).publish("late").await;
    assert!(publish.unwrap_err().is_closed());
    let subscribe = within("an answer", fanout.subscribe(&connection).stream()).await;
    assert!(subscribe.unwrap_err().is_closed());
}

/// The deletion of an exchange takes its bindings away, and no subscriber is told.
async fn an_exchange_that_was_deleted_is_bound_to_again(env: Env) {
    let near = env.connect().await;
    let connection = env.builder().heartbeat(Duration::from_secs(1));
    let connection = connection.open().await.unwrap();
    let topic = Topic::<u32>::new("returning").transient();
    let subscribe = || topic.subscribe(&connection).bind("a").bind("b");
    let mut dropping = subscribe().stream().await.unwrap();
    let holding = subscribe().overflow(Overflow::Hold).stream();
    let mut holding = holding.await.unwrap();
    let group = subscribe().shared("group").classic();
    let mut group: GroupSubscription<ByPattern, u32> = group.stream().await.unwrap();
    group.unbind("b").await.unwrap();

    // A publisher declares it again, before a subscriber notices that it is gone.
    let raw = Raw::open(&env.uri).await;
    raw.delete_exchange(&env.name("returning")).await;
    topic.declare(&near).await.unwrap();
    let publisher = topic.publisher(&near);
    receive_again(&mut dropping, || publisher.publish("a", &1)).await;
    receive_again(&mut holding, || publisher.publish("b", &1)).await;
    receive_again(&mut group, || publisher.publish("a", &1)).await;
    let unbound = group.bindings().list().len();
    assert_eq!(unbound, 1, "what was unbound stays so");

    // Nobody does: the first subscriber that notices declares it, and reports a gap.
    raw.delete_exchange(&env.name("returning")).await;
    tokio::select! {
        () = until_gap(&mut dropping) => {}
        () = until_gap(&mut holding) => {}
        () = until_gap(&mut group) => {}
    }
    receive_again(&mut dropping, || publisher.publish("b", &2)).await;
    receive_again(&mut holding, || publisher.publish("b", &2)).await;
    receive_again(&mut group, || publisher.publish("a", &2)).await;
    group.close().await.unwrap();
    clear(&env, "returning", &["group"]).await;
}

/// Publishes until an event is received.
async fn receive_again<M: Mode>(
    events: &mut Subscription<ByPattern, u32, M>,
    publish: impl Fn() -> lepus::events::Publish,
) {
    let receiving = async {
        loop {
            publish().await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(200), events.next()).await;
            match next {
                Err(_) | Ok(Some(Err(Missed::Gap(_)))) => {}
                Ok(Some(Ok(_))) => return,
                Ok(Some(Err(missed))) => panic!("{missed}"),
                Ok(None) => panic!("the stream has ended"),
            }
        }
    };
    within("an event", receiving).await;
}

/// Reads until the report of a gap.
async fn until_gap<M: Mode>(events: &mut Subscription<ByPattern, u32, M>) {
    let reading = async {
        loop {
            match events.next().await {
                Some(Ok(_)) => {}
                Some(Err(Missed::Gap(_))) => return,
                Some(Err(missed)) => panic!("{missed}"),
                None => panic!("the stream has ended"),
            }
        }
    };
    within("a gap", reading).await;
}
