//! The judge on trial: what one writes by hand on lapin, wrong in the usual ways, over the same
//! faults. Each must be found out.

use crate::book::{Book, End, Fate};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::{BasicProperties, Confirmation};
use lepus_tests::eventually;
use lepus_tests::proxy::{Cut, Proxy};
use lepus_tests::raw::{Raw, delivery};
use lepus_tests::{Env, conformance};
use std::time::Duration;

conformance!(variants:
    acknowledged_after_it_is_done_is_kept,
    acknowledged_before_it_is_done_is_lost,
    acknowledged_in_another_generation_is_lost,
    confirms_taken_as_they_come_are_found_out,
);

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq)]
enum Acknowledge {
    First,
    Last,
}

async fn acknowledged_after_it_is_done_is_kept(env: Env) {
    assert_eq!(work_by_hand(env, Acknowledge::Last).await, [""; 0]);
}

async fn acknowledged_before_it_is_done_is_lost(env: Env) {
    let found = work_by_hand(env, Acknowledge::First).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("4: job 1"), "{found:?}");
}

/// A worker whose link is cut while it works on a job.
async fn work_by_hand(env: Env, acknowledge: Acknowledge) -> Vec<String> {
    let (proxy, raw) = (Proxy::start(&env.uri).await, Raw::open(&env.uri).await);
    let (queue, book) = (env.name("jobs"), Book::default());
    raw.declare(&queue).await;
    book.push(1, Fate::Done, SECOND);
    raw.publish("", &queue, b"1").await;
    book.pushed(1, End::Done);
    let worker = Raw::open(proxy.uri()).await;
    let mut jobs = worker.consume(&queue, 1).await;
    let job = delivery(&mut jobs).await;
    book.job_run(1, job.redelivered, 1);
    if acknowledge == Acknowledge::First {
        settle(&worker, job.delivery_tag).await;
        // It is there when what was written after it is answered.
        assert!(worker.exists(&queue).await);
    }
    proxy.cut(Cut::Rst);
    eventually("the worker has lost its link", || async {
        !worker.connection.status().connected()
    })
    .await;
    // Another one does what is left; there is nothing left when the broker has no consumer any
    // more and still has no message.
    eventually("the broker has seen it", || async {
        raw.count(&queue).await.consumers == 0
    })
    .await;
    if acknowledge == Acknowledge::Last {
        let again = raw.next(&queue).await;
        book.job_run(1, again.redelivered, 1);
        book.job_done(1);
    }
    assert!(raw.get(&queue).await.is_none());
    book.violations()
}

/// A worker whose handler outlives its channel, and acknowledges by its old tag on the next one.
async fn acknowledged_in_another_generation_is_lost(env: Env) {
    let (proxy, raw) = (Proxy::start(&env.uri).await, Raw::open(&env.uri).await);
    let (queue, book) = (env.name("jobs"), Book::default());
    raw.declare(&queue).await;
    for job in 1..=3_u8 {
        book.push(job.into(), Fate::Done, SECOND);
        raw.publish("", &queue, &[job]).await;
        book.pushed(job.into(), End::Done);
    }
    let work = |job: &Delivery| {
        let id = u64::from(job.data[0]);
        book.job_run(id, job.redelivered, 1);
        id
    };
    let before = Raw::open(proxy.uri()).await;
    let mut jobs = before.consume(&queue, 2).await;
    let first = delivery(&mut jobs).await;
    book.job_done(work(&first));
    settle(&before, first.delivery_tag).await;
    let second = delivery(&mut jobs).await;
    let third = delivery(&mut jobs).await;
    let (done_late, in_hand) = (work(&second), work(&third));
    assert_eq!((done_late, in_hand, second.delivery_tag), (2, 3, 2));
    assert!(before.exists(&queue).await, "the first is acknowledged");
    proxy.cut(Cut::Rst);
    // Both come again, in their order and with tags from 1.
    eventually("both are back", || async {
        raw.count(&queue).await.messages == 2
    })
    .await;
    let after = Raw::open(proxy.uri()).await;
    let mut jobs = after.consume(&queue, 2).await;
    let again = [delivery(&mut jobs).await, delivery(&mut jobs).await];
    assert_eq!(again.each_ref().map(work), [2, 3]);
    // The old handler is done with 2, whose tag was that of 3 by now.
    book.job_done(done_late);
    settle(&after, second.delivery_tag).await;
    assert!(after.exists(&queue).await);
    proxy.cut(Cut::Rst);
    eventually("the broker has seen it", || async {
        raw.count(&queue).await.messages == 1
    })
    .await;
    let left = raw.next(&queue).await;
    book.job_done(work(&left.delivery));
    let found = book.violations();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("4: job 3"), "{found:?}");
}

async fn settle(worker: &Raw, tag: u64) {
    let options = BasicAckOptions::default();
    let acknowledged = worker.channel.basic_ack(tag, options);
    acknowledged.await.expect("written");
}

/// A publisher that believes the confirm which each publish gives it.
async fn confirms_taken_as_they_come_are_found_out(env: Env) {
    let raw = Raw::open(&env.uri).await;
    let (queue, nowhere) = (env.name("there"), env.name("not-there"));
    raw.declare(&queue).await;
    let mut wrong = Vec::new();
    for round in 0..20 {
        let book = Book::default();
        let mut confirms = Vec::new();
        for id in 0..1_000_u64 {
            let (key, fate) = if id % 3 == 0 {
                (&nowhere, Fate::Nowhere)
            } else {
                (&queue, Fate::Kept)
            };
            book.push(id, fate, 60 * SECOND);
            let options = BasicPublishOptions {
                mandatory: true,
                ..Default::default()
            };
            let properties = BasicProperties::default();
            let body = id.to_be_bytes();
            let (exchange, key) = ("".into(), key.as_str().into());
            let published = raw
                .channel
                .basic_publish(exchange, key, options, &body, properties);
            confirms.push((id, published.await.expect("written")));
        }
        for (id, confirm) in confirms {
            let end = match confirm.await.expect("a confirm") {
                Confirmation::Ack(None) => End::Done,
                _ => End::NotDone,
            };
            book.pushed(id, end);
        }
        while let Some(message) = raw.get(&queue).await {
            let id = message.data.as_slice().try_into().expect("eight bytes");
            book.job_kept(u64::from_be_bytes(id));
        }
        wrong = book.violations();
        if !wrong.is_empty() {
            println!(
                "{}: {} of 1000 told wrong in round {round}",
                env.server.product,
                wrong.len()
            );
            break;
        }
    }
    let is_about_confirms = |text: &String| text.starts_with("12:") || text.starts_with("5:");
    assert!(!wrong.is_empty(), "the broker confirmed each by itself");
    assert!(wrong.iter().all(is_about_confirms), "{wrong:?}");
}
