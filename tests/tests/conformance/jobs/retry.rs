//! Failed jobs are tried again: on the broker, in the order of their backoff, and never lost
//! between two attempts.

use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{
    Codec, Job, WorkQueue,
    jobs::{Failure, JobError, Retry},
    reject, retry, retry_after,
};
use lepus_tests::jobs::{JobFixture, KINDS, header, meet_a_full_queue, next, policy, queue};
use lepus_tests::proxy::Cut;
use lepus_tests::raw::{durable, table};
use lepus_tests::{Env, Feature, conformance, eventually};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

conformance!(
    attempts_come_after_their_backoff_and_end,
    an_error_says_whether_it_is_worth_another_attempt,
    a_retry_waits_on_the_broker_and_blocks_nobody,
    a_retry_keeps_what_its_producer_said,
    a_job_is_not_acknowledged_before_its_copy_is_confirmed,
    a_copy_that_is_refused_is_made_later,
    a_retry_that_meets_a_full_queue_is_not_lost,
    a_redelivery_that_meets_a_full_queue_stops_nobody,
    a_job_that_failed_on_a_lost_connection_is_there_once,
    panics_and_timeouts_are_failures,
    an_error_of_any_length_travels,
    headers_too_large_to_be_sent_on_end_it,
    a_very_long_backoff_is_one_the_broker_takes,
);

/// In real time, the only test here that measures it.
async fn attempts_come_after_their_backoff_and_end(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").retry(policy(4, 100));
    queue.producer(&fixture.connection).push(&1).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send((job.attempt(), job.redelivered(), Instant::now()))
            .unwrap();
        async move { Err::<(), _>(format!("attempt {} failed", job.attempt())) }
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    let mut before: Option<Instant> = None;
    for (attempt, delay) in [(1, 0), (2, 100), (3, 200), (4, 400)] {
        let (number, redelivered, when) = next(&mut told).await;
        assert_eq!((number, redelivered), (attempt, false));
        if let Some(before) = before {
            let (waited, delay) = (when - before, Duration::from_millis(delay));
            assert!(waited >= delay, "attempt {attempt} came after {waited:?}");
        }
        before = Some(when);
    }
    let letters = queue.dead_letters(&fixture.connection);
    eventually("it was given up", || async {
        letters.count().await.unwrap() == 1
    })
    .await;
    running.stop().await.unwrap();
    assert!(told.try_recv().is_err(), "four attempts and no more");
    let letter = letters.list(10).await.unwrap().pop().unwrap();
    assert_eq!((letter.reason(), letter.attempt()), ("attempts", 4));
    assert_eq!(letter.error(), "attempt 4 failed");
    assert_eq!(letter.first_error(), Some("attempt 1 failed"));
    let stats = fixture.connection.stats();
    assert_eq!((stats.retried, stats.dead_lettered), (3, 1));
    fixture.delete_queues(&["jobs"]).await;
}

/// An error that says nothing of another attempt, one that does, and the ready-made ones.
enum Trouble {
    Plain(&'static str),
    Picky(Retry),
    Wrapped(JobError),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => f.write_str(text),
            Self::Picky(retry) => write!(f, "{retry:?}"),
            Self::Wrapped(error) => error.fmt(f),
        }
    }
}

impl Failure for Trouble {
    fn retry(&self) -> Retry {
        match self {
            // The trait's default, by way of an error that has nothing else.
            Self::Plain(text) => Failure::retry(text),
            Self::Picky(retry) => *retry,
            Self::Wrapped(error) => error.retry(),
        }
    }
}

async fn an_error_says_whether_it_is_worth_another_attempt(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").retry(policy(2, 10));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send((*job.payload(), job.attempt())).unwrap();
        async move {
            let after = Duration::from_millis(10);
            match job.into_payload() {
                0 => Err(Trouble::Plain("plain")),
                1 => Err(Trouble::Picky(Retry::Backoff)),
                2 => Err(Trouble::Picky(Retry::After(after))),
                3 => Err(Trouble::Picky(Retry::Never)),
                4 => Err(Trouble::Wrapped(retry("busy"))),
                5 => Err(Trouble::Wrapped(retry_after(after, "busy"))),
                6 => Err(Trouble::Wrapped(reject("no image"))),
                _ => Ok(()),
            }
        }
    };
    let pool = queue.worker(&fixture.connection).concurrency(8);
    let running = pool.start(handler).await.unwrap();
    let producer = queue.producer(&fixture.connection);
    for outcome in producer.push_all(&[0, 1, 2, 3, 4, 5, 6, 7]).await {
        outcome.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..13 {
        seen.push(next(&mut told).await);
    }
    let letters = queue.dead_letters(&fixture.connection);
    eventually("seven dead letters", || async {
        letters.count().await.unwrap() == 7
    })
    .await;
    running.stop().await.unwrap();
    seen.sort_unstable();
    let (twice, once) = ([0, 1, 2, 4, 5], [3, 6, 7]);
    let mut expected: Vec<_> = (twice.iter().flat_map(|job| [(*job, 1), (*job, 2)]))
        .chain(once.map(|job| (job, 1)))
        .collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    assert!(told.try_recv().is_err());
    for letter in letters.list(10).await.unwrap() {
        let job = *letter.payload().unwrap();
        let (reason, attempts) = match job {
            3 | 6 => ("rejected", 1),
            _ => ("attempts", 2),
        };
        assert_eq!(
            (letter.reason(), letter.attempt()),
            (reason, attempts),
            "job {job}"
        );
        if job == 6 {
            assert_eq!(letter.error(), "no image");
        }
    }
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_retry_waits_on_the_broker_and_blocks_nobody(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<u32>| {
            tell.send((*job.payload(), job.attempt())).unwrap();
            async move {
                match (job.payload(), job.attempt()) {
                    (0, 1) => Err(retry_after(Duration::from_millis(1500), "later")),
                    _ => Ok(()),
                }
            }
        };
        let first = fixture.env.proxied().await;
        let running = queue.worker(&first.1).start(handler.clone()).await.unwrap();
        let producer = queue.producer(&fixture.connection);
        producer.push(&0).await.unwrap();
        assert_eq!(next(&mut told).await, (0, 1));
        for job in 1..5 {
            producer.push(&job).await.unwrap();
            assert_eq!(next(&mut told).await, (job, 1), "it blocks nobody");
        }
        let waiting = format!("{}.retry.1500", fixture.full(name));
        fixture.raw.until_messages(&waiting, 1).await;
        fixture.raw.until_messages(&fixture.full(name), 0).await;
        // No process has to live for it to come back.
        running.stop().await.unwrap();
        first.1.close().await;
        fixture.raw.until_messages(&fixture.full(name), 1).await;
        let running = queue
            .worker(&fixture.connection)
            .start(handler)
            .await
            .unwrap();
        assert_eq!(next(&mut told).await, (0, 2));
        running.stop().await.unwrap();
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_retry_keeps_what_its_producer_said(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs")
        .classic()
        .codec(Codec::Json)
        .max_priority(5)
        .retry(policy(2, 10));
    queue.declare(&fixture.connection).await.unwrap();
    // As any program in any language would push it.
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_priority(4)
        .with_message_id("hare-7".into())
        .with_timestamp(1_700_000_000)
        .with_type("resize".into())
        .with_app_id("python".into())
        .with_correlation_id("c".into())
        .with_headers(table(&[("tenant", AMQPValue::LongString("hare".into()))]));
    let jobs = fixture.full("jobs");
    fixture
        .raw
        .publish_with("", &jobs, b"7", properties.clone())
        .await
        .unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send((job.clone(), lepus::Context::current())).unwrap();
        async { Err::<(), _>("busy") }
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    for attempt in 1..=2 {
        let (job, context) = next(&mut told).await;
        assert_eq!((*job.payload(), job.attempt()), (7, attempt));
        assert_eq!(job.message_id(), Some("hare-7"));
        assert_eq!(
            job.timestamp()
                .map(|seen| seen.duration_since(std::time::UNIX_EPOCH).unwrap()),
            Some(Duration::from_secs(1_700_000_000))
        );
        assert_eq!(job.header("tenant").and_then(|v| v.as_str()), Some("hare"));
        assert_eq!(job.headers().len(), 1, "{:?}", job.headers());
        assert_eq!(context.attempt(), attempt);
        assert_eq!(context.method(), "resize");
        assert_eq!(context.app_id(), Some("python"));
        assert_eq!(context.message_id(), Some("hare-7"));
    }
    let dead = fixture.raw.next(&format!("{jobs}.dead")).await;
    running.stop().await.unwrap();
    let found = &dead.properties;
    assert_eq!(found.priority(), properties.priority());
    assert_eq!(found.delivery_mode(), properties.delivery_mode());
    assert_eq!(found.content_type(), properties.content_type());
    assert_eq!(found.message_id(), properties.message_id());
    assert_eq!(found.timestamp(), properties.timestamp());
    assert_eq!(found.kind(), properties.kind());
    assert_eq!(found.app_id(), properties.app_id());
    assert_eq!(found.correlation_id(), properties.correlation_id());
    assert_eq!(found.expiration(), &None);
    fixture.delete_queues(&["jobs"]).await;
}

/// A queue that takes nothing, as somebody else's topology may have it.
async fn declare_full(fixture: &JobFixture, name: &str) {
    let never = [
        ("x-max-length", AMQPValue::LongLongInt(0)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    let declared = fixture.raw.declare_with(name, durable(), &never).await;
    declared.unwrap();
}

async fn a_job_is_not_acknowledged_before_its_copy_is_confirmed(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    for (name, error) in [
        ("retried", retry_after(Duration::from_millis(1000), "busy")),
        ("buried", reject("no image")),
    ] {
        let queue = WorkQueue::<u32>::new(name).classic().passive();
        let full = fixture.full(name);
        fixture.raw.declare(&full).await;
        declare_full(&fixture, &format!("{full}.dead")).await;
        declare_full(&fixture, &format!("{full}.retry.1000")).await;
        queue.producer(&fixture.connection).push(&1).await.unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<u32>| {
            tell.send(job.attempt()).unwrap();
            let error = error.clone();
            async move { Err::<(), _>(error) }
        };
        let running = queue.worker(&connection).start(handler).await.unwrap();
        assert_eq!(next(&mut told).await, 1);
        let before = (connection.stats().retried, connection.stats().dead_lettered);
        // It could not be moved: it is still the queue's own.
        drop(running);
        fixture.raw.until_messages(&full, 1).await;
        assert_eq!(
            before,
            (connection.stats().retried, connection.stats().dead_lettered)
        );
    }
    drop(proxy);
    fixture.delete_queues(&["retried", "buried"]).await;
}

async fn a_copy_that_is_refused_is_made_later(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").classic().passive();
    let jobs = fixture.full("jobs");
    let dead = format!("{jobs}.dead");
    fixture.raw.declare(&jobs).await;
    let one = [
        ("x-max-length", AMQPValue::LongLongInt(1)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    fixture
        .raw
        .declare_with(&dead, durable(), &one)
        .await
        .unwrap();
    fixture.raw.publish("", &dead, b"in the way").await;
    queue.producer(&fixture.connection).push(&1).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |_: Job<u32>| {
        tell.send(()).unwrap();
        async { Err::<(), _>(reject("no image")) }
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    next(&mut told).await;
    // Its owner makes room. Not by deleting the queue: what is on its way to a queue that goes is
    // confirmed, and gone with it.
    assert_eq!(fixture.raw.next(&dead).await.data, b"in the way");
    let letter = fixture.raw.next(&dead).await;
    assert!(!letter.redelivered);
    running.stop().await.unwrap();
    fixture.raw.until_messages(&jobs, 0).await;
    assert!(told.try_recv().is_err(), "its handler ran once");
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_retry_that_meets_a_full_queue_is_not_lost(env: Env) {
    if env.has(Feature::QuorumQueues) {
        return env.leave_out("three minutes on RabbitMQ: jobs::node has it set to less");
    }
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        meet_a_full_queue(
            &fixture.connection,
            &fixture.raw,
            fixture.env.namespace(),
            name,
            kind,
        )
        .await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_redelivery_that_meets_a_full_queue_stops_nobody(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs").classic().max_length(1);
    let producer = queue.producer(&fixture.connection);
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        let tell = tell.clone();
        async move {
            tell.send((*job.payload(), job.attempt())).unwrap();
            if job.attempt() == 1 && *job.payload() == 1 {
                job.cancelled().wait().await;
            }
        }
    };
    producer.push(&1).await.unwrap();
    let running = queue.worker(&connection).start(handler).await.unwrap();
    assert_eq!(next(&mut told).await, (1, 1));
    producer.push(&2).await.unwrap();
    proxy.cut(Cut::Rst);
    // Job 1 is to be counted on by a copy, and job 2 fills the queue meanwhile.
    let mut seen = vec![next(&mut told).await];
    if seen == [(2, 1)] && fixture.env.has(Feature::QuorumQueues) {
        fixture
            .env
            .leave_out("RabbitMQ offers a refused dead letter again after three minutes");
    } else {
        seen.push(next(&mut told).await);
        seen.sort_unstable();
        assert_eq!(seen, [(1, 2), (2, 1)]);
    }
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_job_that_failed_on_a_lost_connection_is_there_once(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs").retry(policy(9, 10));
    queue.producer(&fixture.connection).push(&1).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |job: Job<u32>| {
            tell.send(job.attempt()).unwrap();
            let gate = gate.clone();
            async move {
                if job.attempt() == 1 {
                    job.cancelled().wait().await;
                    return Err("the connection is gone");
                }
                gate.acquire().await.unwrap().forget();
                Ok(())
            }
        }
    };
    let pool = queue.worker(&connection).concurrency(4);
    let running = pool.start(handler).await.unwrap();
    assert_eq!(next(&mut told).await, 1);
    proxy.cut(Cut::Rst);
    // The broker gives it out again by itself: a copy would be one job more.
    assert_eq!(next(&mut told).await, 2);
    gate.add_permits(4);
    running.stop().await.unwrap();
    assert_eq!(connection.stats().retried, 0);
    assert!(told.try_recv().is_err());
    let waiting = format!("{}.retry.10", fixture.full("jobs"));
    assert!(!fixture.raw.exists(&waiting).await);
    fixture.raw.until_messages(&fixture.full("jobs"), 0).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn panics_and_timeouts_are_failures(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").retry(policy(2, 10));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        let tell = tell.clone();
        async move {
            tell.send((*job.payload(), job.attempt())).unwrap();
            match (job.payload(), job.attempt()) {
                (0, _) => panic!("no bread"),
                (1, _) => std::future::pending().await,
                _ => {}
            }
        }
    };
    let running = queue
        .worker(&fixture.connection)
        .concurrency(2)
        .timeout(Duration::from_millis(100))
        .start(handler)
        .await
        .unwrap();
    let producer = queue.producer(&fixture.connection);
    for outcome in producer.push_all(&[0, 1, 2]).await {
        outcome.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(next(&mut told).await);
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]);
    let letters = queue.dead_letters(&fixture.connection);
    eventually("two dead letters", || async {
        letters.count().await.unwrap() == 2
    })
    .await;
    // The worker lives, and no place is lost.
    producer.push_all(&[3, 4, 5]).await;
    for _ in 0..3 {
        next(&mut told).await;
    }
    running.stop().await.unwrap();
    assert_eq!(fixture.connection.stats().panics, 2);
    for letter in letters.list(10).await.unwrap() {
        let error = match letter.payload().unwrap() {
            0 => "panicked: no bread",
            _ => "stopped after 100ms",
        };
        assert_eq!((letter.error(), letter.attempt()), (error, 2));
    }
    fixture.delete_queues(&["jobs"]).await;
}

async fn an_error_of_any_length_travels(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs").retry(policy(2, 10));
    queue.producer(&connection).push(&1).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send(job.attempt()).unwrap();
        async { Err::<(), _>("ß".repeat(100_000)) }
    };
    let connections = proxy.accepted();
    let running = queue.worker(&connection).start(handler).await.unwrap();
    assert_eq!(next(&mut told).await, 1);
    assert_eq!(next(&mut told).await, 2);
    let letters = queue.dead_letters(&fixture.connection);
    eventually("a dead letter", || async {
        letters.count().await.unwrap() == 1
    })
    .await;
    running.stop().await.unwrap();
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    let error = letter.error();
    assert!(error.starts_with("ßß") && error.ends_with('…'), "{error}");
    assert!(error.len() < 5000, "{} bytes", error.len());
    assert!(
        proxy.accepted() <= connections + 1,
        "no connection was lost"
    );
    fixture.delete_queues(&["jobs"]).await;
}

async fn headers_too_large_to_be_sent_on_end_it(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind).codec(Codec::Json);
        queue.declare(&fixture.connection).await.unwrap();
        // They just fit into a frame, and leave no room for what a retry has to say.
        let note = AMQPValue::LongString("x".repeat(130_900).into());
        let properties = BasicProperties::default()
            .with_message_id("hare-7".into())
            .with_headers(table(&[("note", note)]));
        let full = fixture.full(name);
        let sent = fixture.raw.publish_with("", &full, b"7", properties).await;
        sent.unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<u32>| {
            tell.send((*job.payload(), job.attempt())).unwrap();
            async { Err::<(), _>("busy".repeat(100)) }
        };
        let running = queue.worker(&connection).start(handler).await.unwrap();
        assert_eq!(next(&mut told).await, (7, 1));
        let connections = proxy.accepted();
        let letter = fixture.raw.next(&format!("{full}.dead")).await;
        assert_eq!(letter.data, b"7");
        assert_eq!(header(&letter.properties, "reason"), "rejected");
        let error = header(&letter.properties, "error");
        assert!(error.contains("headers"), "{error}");
        let id = letter.properties.message_id().as_ref().unwrap();
        assert_eq!(id.as_str(), "hare-7");
        running.stop().await.unwrap();
        assert!(
            proxy.accepted() <= connections + 1,
            "no connection was lost"
        );
        assert!(told.try_recv().is_err());
        fixture.raw.until_messages(&full, 0).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_very_long_backoff_is_one_the_broker_takes(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").classic();
    queue.producer(&fixture.connection).push(&1).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |_: Job<u32>| {
        tell.send(()).unwrap();
        async { Err::<(), _>(retry_after(Duration::MAX, "never again")) }
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    next(&mut told).await;
    let waiting = format!("{}.retry.{}", fixture.full("jobs"), u32::MAX);
    eventually("it waits", || async {
        let counts = fixture.raw.try_count(&waiting).await;
        counts.is_ok_and(|counts| counts.messages == 1)
    })
    .await;
    running.stop().await.unwrap();
    fixture.raw.delete(&waiting).await;
    fixture.delete_queues(&["jobs"]).await;
}
