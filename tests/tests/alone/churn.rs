//! Channels that come and go by the thousand: refused, closed from both sides, given up half-way,
//! cut with their connection. Numbers, memory, threads and descriptors stay as they are.
//!
//! `LEPUS_CHURN` sets how many channels (default 4000, more than a connection has numbers).

use futures_util::FutureExt;
use lepus::{Connection, Error, Fanout, WorkQueue};
use lepus_tests::env::{On, run_within, turn};
use lepus_tests::proxy::{Cut, Proxy};
use lepus_tests::{Env, eventually};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// For a number of channels that is asked for.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);
/// As many are open at a time.
const AT_ONCE: usize = 16;
/// Channels between two cuts of the connections.
const CUT_EVERY: usize = 1000;
/// In bytes. An allocator keeps some of what was in use at once.
const MEMORY: usize = 32 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let _turn = turn().await;
    run_within(LIMIT, On::Embedded, "churn::embedded", churn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq() {
    let _turn = turn().await;
    run_within(LIMIT, On::RabbitMq, "churn::rabbitmq", churn).await;
}

/// The resources that the process has.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory: usize,
}

fn held() -> Held {
    let entries = |path: &str| std::fs::read_dir(path).expect("Linux").count();
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let resident = pages.split(' ').nth(1).expect("a second number");
    let resident: usize = resident.parse().expect("a number");
    Held {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        memory: resident * rustix::param::page_size(),
    }
}

/// One channel, in one of the ways in which channels end.
async fn come_and_go(connection: Connection, number: usize) {
    let outcome: Result<(), Error> = match number % 6 {
        // Refused by the broker.
        0 => {
            let missing = Fanout::<u64>::new("missing").passive();
            missing.publisher(&connection).publish(&1).await
        }
        1 => {
            let missing = WorkQueue::<u64>::new("missing").passive();
            missing.getter(&connection).next().await.map(drop)
        }
        // Closed by the broker over a message, and by us at the same time.
        2 => {
            let missing = Fanout::<u64>::new("missing").passive();
            let publisher = missing.publisher(&connection).unconfirmed();
            publisher.publish(&1).await
        }
        // Closed by us.
        3 => {
            let counted = WorkQueue::<u64>::new("counted");
            counted.dead_letters(&connection).count().await.map(drop)
        }
        // Given up half-way.
        4 => {
            let counted = WorkQueue::<u64>::new("counted");
            let letters = counted.dead_letters(&connection);
            let looking = letters.count();
            let limit = Duration::from_micros((number as u64 * 37) % 4000);
            drop(timeout(limit, looking).await);
            Ok(())
        }
        _ => {
            let counted = WorkQueue::<u64>::new("counted");
            let getter = counted.getter(&connection);
            drop(getter.next().now_or_never());
            Ok(())
        }
    };
    if let Err(error) = outcome {
        let is_lost = error.is_disconnected() || error.is_unconfirmed();
        let is_expected = error.amqp_code() == Some(404) || is_lost;
        assert!(is_expected, "{number}: {error} ({error:?})");
    }
}

async fn rounds(connection: &Connection, proxy: &Proxy, count: usize) {
    let mut open = JoinSet::new();
    for number in 0..count {
        if open.len() >= AT_ONCE {
            open.join_next().await.expect("one").expect("no panic");
        }
        if number % CUT_EVERY == CUT_EVERY / 2 {
            let how = if number % (2 * CUT_EVERY) < CUT_EVERY {
                Cut::Rst
            } else {
                Cut::Fin
            };
            proxy.cut(how);
        }
        open.spawn(come_and_go(connection.clone(), number));
    }
    while let Some(ended) = open.join_next().await {
        ended.expect("no panic");
    }
}

async fn churn(env: Env) {
    let count = std::env::var("LEPUS_CHURN").map(|text| text.parse().expect("a number"));
    let count = count.unwrap_or(4000);
    let proxy = Proxy::start(&env.uri).await;
    let builder = env.builder_at(proxy.uri());
    let builder = builder.backoff(Duration::from_millis(1), Duration::from_millis(20));
    let connection = builder.open().await.unwrap();
    for name in ["counted", "counted.dead"] {
        env.name(name);
    }
    let counted = WorkQueue::<u64>::new("counted");
    counted.producer(&connection).push(&1).await.unwrap();
    rounds(&connection, &proxy, count / 4).await;
    let at_rest = || async {
        match connection.stats().channels {
            // The producer's may be kept.
            0..=2 => Ok(()),
            other => Err(format!("{other} channels are open")),
        }
    };
    eventually("all are closed", at_rest).await;
    let before = held();
    rounds(&connection, &proxy, count).await;
    eventually("all are closed", at_rest).await;
    eventually("the process has what it had before", || async {
        let now = held();
        let is_flat = now.descriptors <= before.descriptors
            && now.threads <= before.threads
            && now.memory <= before.memory + MEMORY;
        if is_flat {
            Ok(())
        } else {
            Err(format!("{now:?}, before {before:?}"))
        }
    })
    .await;
    counted.producer(&connection).push(&2).await.unwrap();
    connection.close().await;
}
