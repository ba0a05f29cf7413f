//! Channels that the broker refuses, that both sides close at once, that are given up half-way: each
//! costs nothing but itself.

use lapin::ExchangeKind;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lepus::{Connection, Fanout, Job, Outcome, RetryPolicy, Topic, WorkQueue};
use lepus_tests::jobs::JobFixture;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, serve};
use lepus_tests::proxy::{Proxy, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

conformance!(
    a_refused_channel_gives_its_number_back,
    a_consumer_that_was_refused_for_long_consumes_in_the_end,
    a_dropped_look_at_dead_letters_costs_nobody_anything,
    both_sides_may_close_a_channel_at_once,
    a_getter_that_is_refused_and_dropped_costs_nobody_anything,
    messages_that_cannot_leave_do_not_pile_up,
    one_bad_call_costs_the_others_nothing,
);

conformance!(one_thread busy: a_busy_subscriber_keeps_no_more_than_its_buffer);

const LONG: Duration = Duration::from_secs(40);
const SHORT: Duration = Duration::from_millis(300);
/// `queue.declare`, class and method.
const DECLARE: [u8; 4] = [0, 50, 0, 10];

async fn few_channels(env: &Env, proxy: &Proxy) -> Connection {
    let uri = format!("{}?channel_max=20", proxy.uri());
    let builder = env.builder_at(&uri);
    let builder = builder.backoff(Duration::from_millis(1), Duration::from_millis(5));
    builder.open().await.unwrap()
}

async fn a_refused_channel_gives_its_number_back(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let connection = few_channels(&env, &proxy).await;
    let topic = Topic::<String>::new("refused").passive();
    let publisher = topic.publisher(&connection);
    for _ in 0..100 {
        let error = publisher.publish("a.b", "x").await.unwrap_err();
        assert_eq!(error.amqp_code(), Some(404), "{error}");
    }
    // Others are not told of it.
    let counted = WorkQueue::<u64>::new("counted");
    counted.producer(&connection).push(&1).await.unwrap();
    for _ in 0..100 {
        assert_eq!(counted.dead_letters(&connection).count().await.unwrap(), 0);
    }
    let raw = Raw::open(&env.uri).await;
    let name = env.name("refused");
    raw.declare_exchange(&name, ExchangeKind::Topic).await;
    publisher.publish("a.b", "x").await.unwrap();
    assert_eq!(proxy.accepted(), 2, "the same two connections all the time");
    raw.delete_exchange(&name).await;
    raw.close().await;
    sweep(env, &["counted"]).await;
}

async fn sweep(env: Env, queues: &[&str]) {
    JobFixture::open(env).await.delete_queues(queues).await;
}

async fn a_consumer_that_was_refused_for_long_consumes_in_the_end(env: Env) {
    let proxy = Proxy::start(&env.uri).await;
    let tap = proxy.tap();
    let connection = few_channels(&env, &proxy).await;
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let _server = serve(&connection, &subject).start().await.unwrap();
    let raw = Raw::open(&env.uri).await;
    // In its place comes one that its server does not declare so, for longer than there are channels.
    let other = QueueDeclareOptions {
        durable: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    eventually("the queue is another one", || async {
        raw.delete(&queue).await;
        let channel = raw.connection.create_channel().await.unwrap();
        let declared = channel.queue_declare(queue.as_str().into(), other, FieldTable::default());
        declared.await
    })
    .await;
    eventually("more refusals than channels", || async {
        let sent: Vec<u8> = (0..2).flat_map(|link| tap.bytes(link, Way::Up)).collect();
        let declarations = sent.windows(4).filter(|bytes| *bytes == DECLARE).count();
        if declarations > 45 {
            Ok(())
        } else {
            Err(declarations)
        }
    })
    .await;
    raw.delete(&queue).await;
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    eventually("it is served again", || async {
        probe.echo("hi".into()).timeout(SHORT).await
    })
    .await;
    assert_eq!(proxy.accepted(), 1, "the same connection all the time");
    raw.close().await;
}

/// A stranger on the connection would be told of it: a handler on it runs once.
async fn a_dropped_look_at_dead_letters_costs_nobody_anything(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let queue = WorkQueue::<u64>::new("looked-at").retry(RetryPolicy::never());
    for n in 0..50 {
        queue.producer(&fixture.serving).push(&n).await.unwrap();
    }
    let worker = queue.worker(&fixture.serving);
    let worker = worker
        .start(async |_: Job<u64>| Err::<(), _>("no"))
        .await
        .unwrap();
    let letters = queue.dead_letters(&fixture.serving);
    eventually("all are dead", || async {
        match letters.count().await {
            Ok(50) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    worker.stop().await.unwrap();
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let links = proxy.accepted();
    for micros in (0..60).map(|n| n * 150) {
        let limit = Duration::from_micros(micros);
        drop(timeout(limit, letters.list(50)).await);
        drop(timeout(limit, letters.replay_where(|_| false)).await);
    }
    eventually("every letter is there", || async {
        match letters.list(60).await {
            Ok(listed) if listed.len() == 50 => Ok(()),
            other => Err(format!("{:?}", other.map(|listed| listed.len()))),
        }
    })
    .await;
    fixture.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    assert_eq!(fixture.subject.ids(), [1]);
    assert_eq!(proxy.accepted(), links, "the same connections all the time");
    sweep(env, &["looked-at"]).await;
}

async fn both_sides_may_close_a_channel_at_once(env: Env) {
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    let raw = Raw::open(&env.uri).await;
    fixture.is_well(&env).await;
    let links = proxy.accepted();
    for round in 0..30 {
        let name = format!("news-{round}");
        let news = Fanout::<String>::new(&name);
        let publisher = news.publisher(&fixture.calling).unconfirmed();
        publisher.publish("first").await.unwrap();
        raw.delete_exchange(&env.name(&name)).await;
        // The broker closes the channel over the next one, and we close it too.
        drop(publisher.publish("next").await);
        drop(publisher);
        fixture.is_well(&env).await;
    }
    assert_eq!(
        proxy.accepted(),
        links,
        "the same fixture.calling all the time"
    );
    raw.close().await;
}

async fn a_getter_that_is_refused_and_dropped_costs_nobody_anything(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    let links = proxy.accepted();
    let missing = WorkQueue::<u64>::new("missing").passive();
    for _ in 0..30 {
        let error = missing
            .getter(&fixture.serving)
            .next()
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.amqp_code(), Some(404), "{error}");
    }
    fixture.subject.gate.open_for_good();
    assert_eq!(call.await.unwrap(), 1);
    assert_eq!(fixture.subject.ids(), [1]);
    assert_eq!(proxy.accepted(), links, "the same connections all the time");
}

/// Calls that time out while the link takes nothing: most have never been handed over.
async fn messages_that_cannot_leave_do_not_pile_up(env: Env) {
    const EACH: usize = 1 << 20;
    let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
    fixture.is_well(&env).await;
    proxy.stall_both();
    let mut calls = JoinSet::new();
    for _ in 0..80 {
        let call = fixture.probe.echo("x".repeat(EACH)).timeout(SHORT);
        calls.spawn(call.into_future());
    }
    let mut handed_over = 0;
    while let Some(ended) = calls.join_next().await {
        let error = ended.unwrap().unwrap_err();
        let outcome = error.outcome();
        handed_over += usize::from(outcome != Some(Outcome::NotSent));
    }
    // The write buffer and both sockets take some of them.
    assert!(handed_over < 40, "{handed_over} of 80");
    proxy.resume();
    fixture.is_well(&env).await;
}

/// The broker closes the channel over one request among many: the ones before it are answered, and
/// the ones after it are sent again.
async fn one_bad_call_costs_the_others_nothing(env: Env) {
    for coalesced in [false, true] {
        let (proxy, fixture) = RpcFixture::called_by_proxy(&env).await;
        fixture.is_well(&env).await;
        let probe = match coalesced {
            false => fixture.probe.clone(),
            true => ProbeClient::builder(&fixture.calling).coalesce(64).build(),
        };
        let links = proxy.accepted();
        let mut calls = JoinSet::new();
        for n in 0..200 {
            let call = probe.echo(n.to_string()).timeout(LONG);
            let call = if n == 100 { call.header("CC", 1) } else { call };
            calls.spawn(async move { (n, call.await) });
        }
        while let Some(ended) = calls.join_next().await {
            match ended.unwrap() {
                (100, answer) => {
                    let error = answer.unwrap_err();
                    let error = error.rpc().unwrap();
                    assert_eq!(error.amqp_code(), Some(406), "{error}");
                    assert_eq!(error.outcome(), Some(Outcome::Rejected), "{error}");
                }
                (n, answer) => assert_eq!(answer.unwrap(), n.to_string()),
            }
        }
        assert_eq!(proxy.accepted(), links, "the same connection all the time");
    }
}

/// The only thread of the subscriber's runtime is held all the time: the oldest events are dropped as
/// they are read, and not when somebody gets to look at them.
async fn a_busy_subscriber_keeps_no_more_than_its_buffer(env: Env) {
    const EVENTS: u64 = 400;
    const BUFFER: u64 = 16;
    let connection = env.connect().await;
    let news = Fanout::<String>::new("news");
    let mut events = news.subscribe(&connection);
    events = events.buffer(BUFFER as usize);
    let mut events = events.stream().await.unwrap();
    let (builder, other) = (env.builder(), news.clone());
    let publishing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let connection = builder.open().await.unwrap();
            let publisher = other.publisher(&connection);
            for n in 0..EVENTS {
                publisher.publish(&n.to_string()).await.unwrap();
            }
            connection.close().await;
        });
    });
    publishing.join().unwrap();
    eventually::on_this_thread("all events but a buffer dropped", || {
        match connection.stats().lagged_events {
            dropped if dropped == EVENTS - BUFFER => Ok(()),
            other => Err(other),
        }
    });
    for n in EVENTS - BUFFER..EVENTS {
        let event = loop {
            if let Some(Ok(event)) = events.next().await {
                break event;
            }
        };
        assert_eq!(*event.payload(), n.to_string());
    }
    Raw::open(&env.uri)
        .await
        .delete_exchange(&env.name("news"))
        .await;
}
