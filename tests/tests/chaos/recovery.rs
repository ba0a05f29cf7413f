//! Lapin's own recovery on trial, which Lepus leaves off: the same faults, and the judge finds it
//! out. What Lepus does with them stands beside it.

use crate::book::{Book, End, Fate};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use lepus::WorkQueue;
use lepus_tests::chaos_peers::CAP;
use lepus_tests::proxy::{Cut, Mode, Proxy, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::time::Duration;

conformance!(recovery:
    lepus_gets_past_a_silent_handshake,
    lapins_recovery_ends_at_a_silent_handshake,
    lapins_recovery_outlives_its_connection,
);

const SECOND: Duration = Duration::from_secs(1);
/// The longest time that a push may take.
const LIMIT: Duration = SECOND;
/// After the last fault all is well again by then: the longest backoff, and a busy machine.
const WELL: Duration = Duration::from_secs(6);

/// A link with lapin's recovery: the connection, and a channel that confirms.
async fn recovering(uri: &str) -> (Connection, Channel) {
    let properties = ConnectionProperties::default()
        .configure_backoff(|backoff| {
            let quick = backoff.with_min_delay(Duration::from_millis(20));
            quick.with_max_delay(CAP).with_max_times(1_000)
        })
        .enable_auto_recover();
    let connection = Connection::connect(uri, properties).await;
    let connection = connection.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.expect("confirms");
    (connection, channel)
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(queue.into(), "".into(), options, table);
    consumer.await.expect("a consumer")
}

/// One for the producer and one for the worker: each is seen to try again.
async fn two_proxies(env: &Env) -> [Proxy; 2] {
    [Proxy::start(&env.uri).await, Proxy::start(&env.uri).await]
}

/// The broker's answer to a push, once there is one.
struct Told(BoxFuture<'static, End>);

/// A producer waits for its confirm and a worker for jobs, when their link is lost; whoever takes
/// the next one says nothing. A moment later the broker is well.
async fn past_a_silent_handshake(
    proxies: [&Proxy; 2],
    raw: &Raw,
    stored: &str,
    worked: &str,
    push: impl AsyncFnOnce() -> Told,
) -> Vec<String> {
    let book = Book::default();
    assert_eq!(raw.count(worked).await.consumers, 1);
    for proxy in proxies {
        proxy.stall(Way::Down);
    }
    book.push(1, Fate::Kept, LIMIT);
    let told = push().await;
    raw.until_messages(stored, 1).await;
    book.job_kept(1);
    for proxy in proxies {
        proxy.set(Mode::AcceptSilent).await;
        let before = proxy.accepted();
        proxy.cut(Cut::Rst);
        eventually("it tries again", || async { proxy.accepted() > before }).await;
        // Not before: the confirm that is held could get through ahead of the cut.
        proxy.resume();
    }
    for proxy in proxies {
        proxy.up().await;
    }
    if let Ok(end) = tokio::time::timeout(WELL, told.0).await {
        book.pushed(1, end);
    }
    let back = tokio::time::timeout(WELL, async {
        while raw.count(worked).await.consumers != 1 {
            // Between two looks. With lapin's recovery, which is on trial here, there is nothing to wait for.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    if back.await.is_err() {
        book.complain(format!("14: {worked} has no consumer"));
    }
    book.violations()
}

async fn lepus_gets_past_a_silent_handshake(env: Env) {
    let (proxies, raw) = (two_proxies(&env).await, Raw::open(&env.uri).await);
    let (stored, worked) = (env.name("stored"), env.name("worked"));
    for queue in ["stored.dead", "worked.dead"] {
        env.name(queue);
    }
    let open = |proxy: &Proxy| {
        let builder = env.builder_at(proxy.uri()).connect_timeout(SECOND / 2);
        builder.backoff(Duration::from_millis(20), CAP).open()
    };
    let (producing, working) = (
        open(&proxies[0]).await.unwrap(),
        open(&proxies[1]).await.unwrap(),
    );
    let queue = |name| WorkQueue::<u32>::new(name).classic();
    let producer = queue("stored").producer(&producing).timeout(LIMIT);
    // The first push declares the queue, which takes an answer.
    producer.push(&0).await.unwrap();
    raw.next(&stored).await;
    let pool = queue("worked").worker(&working);
    let nothing = |_| async { Ok::<(), lepus::jobs::JobError>(()) };
    let running = pool.start(nothing).await.unwrap();
    let push = async || -> Told {
        let pushing = tokio::spawn(async move { producer.push(&1).await });
        let told = pushing.map(|pushed| match pushed.expect("no panic") {
            Ok(()) => End::Done,
            Err(error) if error.may_have_executed() => End::Unknown,
            Err(_) => End::NotDone,
        });
        Told(told.boxed())
    };
    let found = past_a_silent_handshake(proxies.each_ref(), &raw, &stored, &worked, push).await;
    assert_eq!(found, [""; 0]);
    running.stop().await.unwrap();
}

async fn lapins_recovery_ends_at_a_silent_handshake(env: Env) {
    let (proxies, raw) = (two_proxies(&env).await, Raw::open(&env.uri).await);
    let (stored, worked) = (env.name("stored"), env.name("worked"));
    raw.declare(&stored).await;
    raw.declare(&worked).await;
    let (_producing, publisher) = recovering(proxies[0].uri()).await;
    let (_working, worker) = recovering(proxies[1].uri()).await;
    let _consumer = consume(&worker, &worked).await;
    let push = async || -> Told {
        let (exchange, key) = ("".into(), stored.as_str().into());
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let published = publisher.basic_publish(exchange, key, options, b"1", properties);
        let confirm = published.await.expect("written");
        let told = confirm.map(|confirm| match confirm {
            Ok(_) => End::Done,
            Err(_) => End::Unknown,
        });
        Told(told.boxed())
    };
    let found = past_a_silent_handshake(proxies.each_ref(), &raw, &stored, &worked, push).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("14:"), "{found:?}");
    let never_told = "1: the push of job 1 has not ended";
    assert_eq!(found[1], never_told, "{found:?}");
}

/// Dropped while it is away, it comes back with nobody behind it, and takes the jobs.
async fn lapins_recovery_outlives_its_connection(env: Env) {
    let (proxy, raw) = (Proxy::start(&env.uri).await, Raw::open(&env.uri).await);
    let (queue, book) = (env.name("jobs"), Book::default());
    raw.declare(&queue).await;
    let (connection, channel) = recovering(proxy.uri()).await;
    let consumer = consume(&channel, &queue).await;
    proxy.down().await;
    eventually("it is away", || async { !connection.status().connected() }).await;
    drop((consumer, channel, connection));
    proxy.up().await;
    eventually("an orphan", || async {
        raw.count(&queue).await.consumers == 1
    })
    .await;
    book.complain("14: a consumer, and nobody consumes".into());
    book.push(1, Fate::Done, LIMIT);
    raw.publish("", &queue, b"1").await;
    book.pushed(1, End::Done);
    // Whoever works on the queue meanwhile finds nothing.
    raw.until_messages(&queue, 0).await;
    assert!(raw.get(&queue).await.is_none());
    let found = book.violations();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].starts_with("4: job 1"), "{found:?}");
}
