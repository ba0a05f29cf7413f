//! Pushing jobs: every push ends, in its own outcome and no other's.

use futures_util::future::join_all;
use lapin::types::AMQPValue;
use lepus::{
    Codec, Connection, Job, Outcome, WorkQueue,
    amqp::{Table, Value},
    jobs::Producer,
};
use lepus_tests::deadline::TEST_LIMIT;
use lepus_tests::frames::CHANNEL_OPEN;
use lepus_tests::jobs::{JobFixture, KINDS, next, queue, recorder};
use lepus_tests::proxy::{Cut, Proxy, Way};
use lepus_tests::raw::{Raw, durable};
use lepus_tests::{Env, conformance, eventually};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

conformance!(
    a_push_returns_after_the_confirm_and_not_before,
    each_failure_is_an_error_of_its_own,
    a_push_waits_for_a_connection_within_its_time,
    every_outcome_is_told_to_the_right_push,
    lost_confirms_are_told_to_the_right_pushes,
    many_pushes_do_not_wait_for_each_others_confirm,
    many_pushes_end_together_where_nobody_takes_them,
    many_pushes_arrive_in_their_order,
    unconfirmed_pushes_are_bounded,
    pushes_that_find_no_queue_make_it_once,
    a_channel_that_is_refused_for_long_is_replaced,
    a_delayed_job_comes_no_earlier,
    the_higher_priority_comes_first,
    what_a_producer_says_of_a_job_arrives,
    headers_that_fit_no_frame_harm_nobody,
);

async fn a_push_returns_after_the_confirm_and_not_before(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let producer = queue::<u32>(name, kind).producer(&connection);
        producer.push(&0).await.unwrap();
        proxy.stall(Way::Down);
        let push = producer.push(&1).into_future();
        let pushing = tokio::spawn(push);
        fixture.raw.until_messages(&fixture.full(name), 2).await;
        assert!(!pushing.is_finished(), "stored, and nobody has said so");
        proxy.resume();
        pushing.await.unwrap().unwrap();
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn each_failure_is_an_error_of_its_own(env: Env) {
    let fixture = JobFixture::open(env).await;
    let missing = WorkQueue::<u32>::new("missing").passive();
    let error = missing.producer(&fixture.connection).push(&1).await;
    let error = error.unwrap_err();
    assert!(error.is_unroutable() && !error.may_have_executed());
    assert_eq!(error.outcome(), Some(Outcome::Unroutable));
    assert!(error.to_string().contains("missing"), "{error}");

    let full = WorkQueue::<u32>::new("full").classic().max_length(1);
    let producer = full.producer(&fixture.connection);
    producer.push(&1).await.unwrap();
    let error = producer.push(&2).await.unwrap_err();
    assert!(error.is_rejected() && !error.may_have_executed());
    assert_eq!(error.outcome(), Some(Outcome::Rejected));
    fixture.raw.next(&fixture.full("full")).await;
    producer.push(&3).await.unwrap();

    let (proxy, connection) = fixture.env.proxied().await;
    let producer = WorkQueue::<u32>::new("jobs").producer(&connection);
    producer.push(&1).await.unwrap();
    proxy.stall(Way::Down);
    let pushing = tokio::spawn(producer.push(&2).into_future());
    fixture.raw.until_messages(&fixture.full("jobs"), 2).await;
    proxy.cut(Cut::Rst);
    let error = pushing.await.unwrap().unwrap_err();
    assert!(error.is_unconfirmed() && error.may_have_executed());
    assert!(!error.is_disconnected() && !error.is_timeout());
    assert_eq!(error.outcome(), Some(Outcome::SentNoReply));
    proxy.resume();

    // Sent, and no answer in time: nobody knows.
    producer.push(&3).await.unwrap();
    proxy.stall_both();
    let short = producer.clone().timeout(Duration::from_millis(200));
    let error = short.push(&4).await.unwrap_err();
    assert!(error.is_timeout() && error.may_have_executed());
    proxy.resume();

    let small = Connection::builder(&fixture.env.uri)
        .namespace(fixture.env.namespace())
        .max_message_size(100)
        .open()
        .await
        .unwrap();
    let bytes = WorkQueue::bytes("bytes").producer(&small);
    bytes.push(&vec![0; 100]).await.unwrap();
    let error = bytes.push(&vec![0; 101]).await.unwrap_err();
    assert!(error.is_too_large() && error.outcome() == Some(Outcome::NotSent));
    assert!(error.to_string().contains("101"), "{error}");

    let keys = WorkQueue::<BTreeMap<Vec<u8>, u8>>::new("json").codec(Codec::Json);
    let keyed = BTreeMap::from([(vec![1], 1)]);
    let error = keys.producer(&fixture.connection).push(&keyed).await;
    assert!(error.unwrap_err().is_encode());

    let error = producer.push(&1).header("attempt", 7).await.unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains("attempt"),
        "{error}"
    );
    let years = Duration::from_secs(400 * 86_400);
    assert!(
        producer
            .push(&1)
            .delay(years)
            .await
            .unwrap_err()
            .is_invalid()
    );
    let id = "x".repeat(256);
    assert!(
        producer
            .push(&1)
            .message_id(&id)
            .await
            .unwrap_err()
            .is_invalid()
    );
    // Neither of them cost the channel anything.
    producer.push(&5).await.unwrap();

    connection.close().await;
    let error = producer.push(&1).await.unwrap_err();
    assert!(error.is_closed() && !error.may_have_executed());
    fixture.delete_queues(&["full", "jobs", "bytes"]).await;
}

async fn a_push_waits_for_a_connection_within_its_time(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let producer = WorkQueue::<u32>::new("jobs").producer(&connection);
    producer.push(&1).await.unwrap();
    proxy.down().await;
    let mut state = connection.state();
    let lost = state.wait_for(|state| !state.is_connected());
    tokio::time::timeout(Duration::from_secs(10), lost)
        .await
        .expect("the loss is seen")
        .unwrap();
    let short = producer.clone().timeout(Duration::from_millis(100));
    let error = short.push(&2).await.unwrap_err();
    assert!(error.is_timeout() && !error.may_have_executed(), "{error}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));
    let pushing = tokio::spawn(producer.push(&3).into_future());
    proxy.up().await;
    pushing.await.unwrap().unwrap();
    fixture.raw.until_messages(&fixture.full("jobs"), 2).await;
    fixture.delete_queues(&["jobs"]).await;
}

/// The end of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Stored,
    Unroutable,
    Rejected,
}

impl Fate {
    /// Spread without a pattern that a channel could get right by chance.
    fn of(id: u32) -> Fate {
        match id.wrapping_mul(2_654_435_761).rotate_left(7) % 3 {
            0 => Fate::Stored,
            1 => Fate::Unroutable,
            _ => Fate::Rejected,
        }
    }

    /// Pushes on the one channel of the one producer: to the queue itself, to a delay queue that
    /// is missing, or to one that is always full.
    async fn push(self, producer: &Producer<u32>, id: u32) -> Result<(), lepus::Error> {
        let push = producer.push(&id);
        match self {
            Fate::Stored => push.await,
            Fate::Unroutable => push.delay(Duration::from_millis(30)).await,
            Fate::Rejected => push.delay(Duration::from_millis(20)).await,
        }
    }

    fn told(outcome: &Result<(), lepus::Error>) -> Option<Fate> {
        match outcome {
            Ok(()) => Some(Fate::Stored),
            Err(error) if error.is_unroutable() => Some(Fate::Unroutable),
            Err(error) if error.is_rejected() => Some(Fate::Rejected),
            Err(_) => None,
        }
    }
}

async fn every_outcome_is_told_to_the_right_push(env: Env) {
    const TASKS: u32 = 24;
    const EACH: u32 = 200;
    let fixture = JobFixture::open(env).await;
    let jobs = fixture.full("jobs");
    fixture.raw.declare(&jobs).await;
    let never = [
        ("x-max-length", AMQPValue::LongLongInt(0)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    let full = format!("{jobs}.retry.20");
    fixture
        .raw
        .declare_with(&full, durable(), &never)
        .await
        .unwrap();
    let producer = WorkQueue::<u32>::new("jobs")
        .codec(Codec::Text)
        .passive()
        .producer(&fixture.connection);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let producer = producer.clone();
        tasks.spawn(async move {
            let mut wrong = Vec::new();
            for some in 0..EACH / 20 {
                let ids = (0..20).map(|n| task * EACH + some * 20 + n);
                let producer = &producer;
                let push = async |id| (id, Fate::of(id).push(producer, id).await);
                let pushes = ids.map(push);
                wrong.extend(
                    join_all(pushes)
                        .await
                        .into_iter()
                        .filter(|(id, outcome)| Fate::told(outcome) != Some(Fate::of(*id))),
                );
            }
            wrong
        });
    }
    let wrong: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(
        wrong.is_empty(),
        "{} of {} wrong: {:?}",
        wrong.len(),
        TASKS * EACH,
        wrong.first()
    );
    // Every one that was told to be stored is there, once, and nothing else.
    let mut there = drain(&fixture.raw, &jobs).await;
    there.sort_unstable();
    let stored: Vec<u32> = (0..TASKS * EACH)
        .filter(|id| Fate::of(*id) == Fate::Stored)
        .collect();
    assert!(stored.len() > 1000 && there == stored, "{}", there.len());
    assert_eq!(fixture.raw.count(&full).await.messages, 0);
    fixture.delete_queues(&["jobs"]).await;
}

async fn drain(raw: &Raw, queue: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(message) = raw.get(queue).await {
        let text = std::str::from_utf8(&message.data).expect("text");
        ids.push(text.parse().expect("a number"));
    }
    ids
}

async fn lost_confirms_are_told_to_the_right_pushes(env: Env) {
    const PUSHES: u32 = 1500;
    const CUTS: usize = 5;
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs").codec(Codec::Text);
    queue.declare(&fixture.connection).await.unwrap();
    let producer = queue.producer(&connection);
    let ended = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..12 {
        let (producer, ended) = (producer.clone(), ended.clone());
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            for id in (task..PUSHES).step_by(12) {
                outcomes.push((id, producer.push(&id).await));
                ended.fetch_add(1, Ordering::SeqCst);
            }
            outcomes
        });
    }
    for cut in 0..CUTS {
        let enough = PUSHES as usize * (cut + 1) / (CUTS + 1);
        eventually("some pushes more", || async {
            ended.load(Ordering::SeqCst) >= enough
        })
        .await;
        proxy.cut(if cut % 2 == 0 { Cut::Rst } else { Cut::Fin });
    }
    let outcomes: HashMap<_, _> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(outcomes.len(), PUSHES as usize, "every push ends");
    let ids = drain(&fixture.raw, &fixture.full("jobs")).await;
    let there: HashSet<u32> = ids.iter().copied().collect();
    assert_eq!(there.len(), ids.len(), "no push is made twice");
    for (id, outcome) in &outcomes {
        match outcome {
            Ok(()) => assert!(there.contains(id), "{id} was confirmed"),
            Err(error) => {
                assert!(
                    error.is_unconfirmed() || error.is_disconnected(),
                    "{error:?}"
                );
                let may = error.may_have_executed();
                assert!(may || !there.contains(id), "{id} was not sent: {error}");
            }
        }
    }
    let lost = outcomes.values().filter(|outcome| outcome.is_err()).count();
    assert!(
        lost <= 12 * CUTS,
        "{lost} lost, with 12 under way at a time"
    );
    fixture.delete_queues(&["jobs"]).await;
}

async fn many_pushes_do_not_wait_for_each_others_confirm(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::bytes("jobs");
    queue.declare(&fixture.connection).await.unwrap();
    let producer = queue.producer(&connection);
    producer.push(&vec![0]).await.unwrap();
    proxy.stall(Way::Down);
    let mut jobs = vec![vec![1]; 2000];
    jobs[7] = vec![0; 17 << 20];
    let pushing = tokio::spawn(async move { producer.push_all(&jobs).await });
    // As many as may be unconfirmed at a time, while not one confirm comes.
    fixture
        .raw
        .until_messages(&fixture.full("jobs"), 1 + 1024)
        .await;
    assert!(!pushing.is_finished());
    proxy.resume();
    let outcomes = pushing.await.unwrap();
    assert_eq!(outcomes.len(), 2000);
    for (at, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(()) => assert_ne!(at, 7),
            Err(error) => assert!(at == 7 && error.is_too_large(), "{at}: {error}"),
        }
    }
    fixture
        .raw
        .until_messages(&fixture.full("jobs"), 2000)
        .await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn many_pushes_end_together_where_nobody_takes_them(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let limit = Duration::from_millis(500);
    let producer = WorkQueue::new("jobs").producer(&connection).timeout(limit);
    proxy.down().await;
    // One wait for the connection, and one that they share: a wait each takes longer than a test
    // may.
    let jobs = [7; 500];
    assert!(limit * 500 > TEST_LIMIT);
    let outcomes = producer.push_all(&jobs).await;
    assert_eq!(outcomes.len(), jobs.len());
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(error.is_timeout() && error.outcome() == Some(Outcome::NotSent));
    }
    fixture.delete_queues(&["jobs"]).await;
}

async fn many_pushes_arrive_in_their_order(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    queue.declare(&fixture.connection).await.unwrap();
    let jobs: Vec<u32> = (0..3000).collect();
    for outcome in queue.producer(&fixture.connection).push_all(&jobs).await {
        outcome.unwrap();
    }
    let (sender, mut told) = mpsc::unbounded_channel();
    let pool = queue
        .worker(&fixture.connection)
        .start(move |job: Job<u32>| {
            sender.send(job.into_payload()).expect("a listener");
            async {}
        });
    let running = pool.await.unwrap();
    for job in jobs {
        assert_eq!(told.recv().await, Some(job));
    }
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn unconfirmed_pushes_are_bounded(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs");
    queue.declare(&fixture.connection).await.unwrap();
    let producer = queue.producer(&connection).max_in_flight(3);
    producer.push(&0).await.unwrap();
    proxy.stall(Way::Down);
    let pushing = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.push_all(&[1; 10]).await })
    };
    let jobs = fixture.full("jobs");
    fixture.raw.until_messages(&jobs, 4).await;
    let limit = Duration::from_millis(100);
    let limited = producer.push(&2).timeout(limit).await;
    for pushed in [limited, producer.timeout(limit).push(&2).await] {
        let error = pushed.unwrap_err();
        assert!(error.is_timeout() && error.outcome() == Some(Outcome::NotSent));
    }
    assert_eq!(
        fixture.raw.count(&jobs).await.messages,
        4,
        "and not one more"
    );
    proxy.resume();
    assert!(pushing.await.unwrap().iter().all(Result::is_ok));
    fixture.raw.until_messages(&jobs, 11).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn pushes_that_find_no_queue_make_it_once(env: Env) {
    let fixture = JobFixture::open(env).await;
    let separator = if fixture.env.uri.contains('?') {
        '&'
    } else {
        '?'
    };
    let uri = format!("{}{separator}channel_max=8", fixture.env.uri);
    let connection = fixture.env.connect_at(&uri).await;
    let producer = WorkQueue::<u32>::new("jobs").producer(&connection);
    let jobs: Vec<u32> = (0..500).collect();
    for outcome in producer.push_all(&jobs).await {
        outcome.unwrap();
    }
    fixture.raw.until_messages(&fixture.full("jobs"), 500).await;
    fixture.delete_queues(&["jobs"]).await;
}

/// The channel that a broker opened while a quorum queue had lost its leader may be refused for as
/// long as the old leader is away, though there is a new one.
async fn a_channel_that_is_refused_for_long_is_replaced(env: Env) {
    let fixture = JobFixture::open(env).await;
    let proxy = Proxy::start(&fixture.env.uri).await;
    let tap = proxy.tap();
    let connection = fixture.env.connect_at(proxy.uri()).await;
    let channels = || {
        let frames = (1..=proxy.accepted()).flat_map(|link| tap.frames(link, Way::Up));
        let opened = frames.filter(|frame| frame.method() == Some(CHANNEL_OPEN));
        opened.count()
    };
    let full = WorkQueue::<u32>::new("full").classic().max_length(1);
    let producer = full.producer(&connection);
    producer.push(&1).await.unwrap();
    let (at_first, held) = (channels(), connection.stats().channels);
    eventually("another channel", || async {
        let error = producer.push(&2).await.expect_err("there is no room");
        assert!(error.is_rejected(), "{error}");
        channels() > at_first
    })
    .await;
    // Nothing changes for those who push, and no channel is left behind.
    fixture.raw.next(&fixture.full("full")).await;
    producer.push(&3).await.unwrap();
    eventually("the old one is gone", || async {
        connection.stats().channels == held
    })
    .await;
    fixture.delete_queues(&["full"]).await;
}

async fn a_delayed_job_comes_no_earlier(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u64>(name, kind);
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<u64>| {
            tell.send((*job.payload(), job.attempt(), Instant::now()))
                .unwrap();
            async {}
        };
        let running = queue
            .worker(&fixture.connection)
            .start(handler)
            .await
            .unwrap();
        let producer = queue.producer(&fixture.connection);
        let begin = Instant::now();
        for millis in [400, 150] {
            let push = producer.push(&millis);
            push.delay(Duration::from_millis(millis)).await.unwrap();
        }
        producer.push(&0).delay(Duration::ZERO).await.unwrap();
        for expected in [0, 150, 400] {
            let (millis, attempt, when) = next(&mut told).await;
            assert_eq!((millis, attempt), (expected, 1));
            let waited = when - begin;
            assert!(waited >= Duration::from_millis(millis), "{waited:?}");
        }
        running.stop().await.unwrap();
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn the_higher_priority_comes_first(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u8>::new("jobs").classic().max_priority(5);
    let producer = queue.producer(&fixture.connection);
    producer.push(&0).await.unwrap();
    for priority in [1, 5, 3, 5] {
        producer.push(&priority).priority(priority).await.unwrap();
    }
    let (handler, mut told) = recorder::<u8>();
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    for priority in [5, 5, 3, 1, 0] {
        assert_eq!(next(&mut told).await, priority);
    }
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn what_a_producer_says_of_a_job_arrives(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    let producer = queue.producer(&fixture.connection);
    let nested = Table::from([("deep".to_owned(), Value::from(true))]);
    let headers = [
        ("text", Value::from("größer")),
        ("int", Value::from(-7)),
        ("float", Value::Float(0.5)),
        ("bytes", Value::Bytes(vec![0, 255])),
        ("time", Value::Timestamp(1_700_000_000)),
        ("list", Value::List(vec![Value::from(1), Value::Null])),
        ("table", Value::Table(nested)),
    ];
    let mut push = producer.push(&1).message_id("hare-7");
    for (name, value) in headers.clone() {
        push = push.header(name, value);
    }
    push.await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send(job).unwrap();
        async {}
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    let job = next(&mut told).await;
    assert_eq!(job.message_id(), Some("hare-7"));
    for (name, value) in headers {
        assert_eq!(job.header(name), Some(&value), "{name}");
    }
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn headers_that_fit_no_frame_harm_nobody(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let producer = WorkQueue::<u32>::new("jobs").producer(&connection);
    producer.push(&1).await.unwrap();
    let connections = proxy.accepted();
    let text = "x".repeat(200_000);
    let error = producer.push(&2).header("note", text).await.unwrap_err();
    assert!(error.is_too_large(), "{error:?}");
    assert_eq!(error.outcome(), Some(Outcome::NotSent));
    producer
        .push(&3)
        .header("note", "x".repeat(20_000))
        .await
        .unwrap();
    assert_eq!(proxy.accepted(), connections, "the connection lives on");
    fixture.raw.until_messages(&fixture.full("jobs"), 2).await;
    fixture.delete_queues(&["jobs"]).await;
}
