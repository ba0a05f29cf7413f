//! Jobs that are given up end in the dead-letter queue, with everything there is to know, and come
//! back from there when somebody says so.

use lapin::BasicProperties;
use lapin::options::BasicRejectOptions;
use lapin::types::{AMQPValue, DecimalValue};
use lepus::{Codec, Job, WorkQueue, amqp::QueueKind, reject};
use lepus_tests::jobs::{
    JobFixture, KINDS, WorkerProcesses, header, next, policy, queue, recorder,
};
use lepus_tests::process::Signal;
use lepus_tests::proxy::{Cut, Proxy};
use lepus_tests::raw::{Raw, delivery, table};
use lepus_tests::{Env, conformance, eventually};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

conformance!(
    what_does_not_decode_is_buried_at_once,
    a_dead_letter_says_everything,
    dead_letters_are_looked_at_and_stay,
    what_was_listed_is_replayed_at_once,
    a_copy_keeps_what_its_message_came_with,
    one_some_or_all_are_replayed,
    letters_are_read_one_at_a_time,
    several_letters_are_replayed_at_once,
    a_replay_is_confirmed_before_anything_is_removed,
    they_are_purged,
    a_job_that_says_no_text_is_taken_and_listed,
    the_brokers_own_dead_letters_are_read_too,
    a_job_whose_connection_is_lost_each_time_is_abandoned,
    a_job_that_takes_its_process_down_is_abandoned,
    a_job_that_others_give_back_is_not_given_out_for_ever,
);

const WORKER: &str = env!("CARGO_BIN_EXE_jobs_worker");

async fn dead(fixture: &JobFixture, queue: &WorkQueue<u32>, count: u32) {
    let letters = queue.dead_letters(&fixture.connection);
    eventually(&format!("{count} dead letters"), || async {
        let there = letters.count().await.unwrap();
        (there == count).then_some(()).ok_or(there.to_string())
    })
    .await;
}

async fn what_does_not_decode_is_buried_at_once(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind).codec(Codec::Json);
        let (handler, mut told) = recorder::<u32>();
        let running = queue
            .worker(&fixture.connection)
            .start(handler)
            .await
            .unwrap();
        let full = fixture.full(name);
        let typed = |content_type: &str| {
            BasicProperties::default()
                .with_content_type(content_type.into())
                .with_message_id("garbage".into())
        };
        let deep = vec![b'['; 100_000];
        for (properties, body, word) in [
            (typed("application/json"), &b"\xff\x00{"[..], "json"),
            (typed("application/json"), b"\"seven\"", "u32"),
            (typed("application/json"), b"", "EOF"),
            (typed("application/json"), &deep, "decode"),
            // It says 4 GiB, and there are none.
            (
                typed("application/msgpack"),
                b"\xdd\xff\xff\xff\xff",
                "decode",
            ),
            (typed("application/xml"), b"<seven/>", "application/xml"),
            (BasicProperties::default(), b"nothing", "decode"),
        ] {
            let sent = fixture.raw.publish_with("", &full, body, properties).await;
            sent.unwrap();
            let letter = fixture.raw.next(&format!("{full}.dead")).await;
            assert_eq!(letter.data, body);
            let said = |name| header(&letter.properties, name);
            assert_eq!(said("reason"), "rejected");
            assert!(said("error").contains(word), "{word}: {}", said("error"));
            assert!(said("attempts").contains("(1)"), "{}", said("attempts"));
        }
        // It did nobody any harm.
        fixture.raw.publish("", &full, b"7").await;
        assert_eq!(next(&mut told).await, 7);
        running.stop().await.unwrap();
        assert!(told.try_recv().is_err());
        fixture.raw.until_messages(&full, 0).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_dead_letter_says_everything(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").retry(policy(2, 10));
    let before = SystemTime::now();
    queue
        .producer(&fixture.connection)
        .push(&7)
        .message_id("hare-7")
        .header("tenant", "hare")
        .await
        .unwrap();
    let handler = |job: Job<u32>| async move { Err::<(), _>(format!("failure {}", job.attempt())) };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    dead(&fixture, &queue, 1).await;
    running.stop().await.unwrap();
    let letters = queue.dead_letters(&fixture.connection);
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    assert_eq!(letter.payload().unwrap(), &7);
    assert_eq!(letter.bytes(), [7]);
    assert_eq!((letter.reason(), letter.attempt()), ("attempts", 2));
    assert_eq!(letter.error(), "failure 2");
    assert_eq!(letter.first_error(), Some("failure 1"));
    assert_eq!(letter.source_queue(), "jobs");
    assert_eq!(letter.message_id(), Some("hare-7"));
    assert_eq!(letter.task(), None);
    let tenant = letter.header("tenant");
    assert_eq!(tenant.and_then(|value| value.as_str()), Some("hare"));
    assert_eq!(letter.headers().len(), 1, "{:?}", letter.headers());
    assert!(letter.all_headers().contains_key("reason"));
    let queue_name = fixture.full("jobs");
    assert_eq!((letter.exchange(), letter.key()), ("", &*queue_name));
    assert_eq!(letter.content_type(), Some("application/msgpack"));
    for time in [letter.failed_at(), letter.timestamp()] {
        let time = time.expect("a time");
        // They are told in whole seconds.
        let between = before - Duration::from_secs(1)..=SystemTime::now();
        assert!(between.contains(&time), "{time:?} is not in {between:?}");
    }
    // The names on the wire are the protocol's.
    let raw = fixture.raw.next(&fixture.full("jobs.dead")).await;
    let headers = raw.properties.headers().clone().unwrap();
    for name in [
        "reason",
        "error",
        "first-error",
        "failed-at",
        "attempts",
        "source-queue",
    ] {
        assert!(headers.inner().contains_key(name), "{name}: {headers:?}");
    }
    fixture.delete_queues(&["jobs"]).await;
}

/// So many dead letters, numbered from 0.
async fn bury(fixture: &JobFixture, queue: &WorkQueue<u32>, count: u32) {
    let producer = queue.producer(&fixture.connection);
    for job in 0..count {
        let push = producer.push(&job).message_id(&format!("job-{job}"));
        push.await.unwrap();
    }
    let handler = |_: Job<u32>| async { Err::<(), _>(reject("no image")) };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    dead(fixture, queue, count).await;
    running.stop().await.unwrap();
}

async fn dead_letters_are_looked_at_and_stay(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        let letters = queue.dead_letters(&fixture.connection);
        assert_eq!(letters.count().await.unwrap(), 0);
        assert!(letters.list(10).await.unwrap().is_empty());
        bury(&fixture, &queue, 5).await;
        for _ in 0..3 {
            dead(&fixture, &queue, 5).await;
            let some: Vec<u32> = (letters.list(3).await.unwrap().iter())
                .map(|letter| *letter.payload().unwrap())
                .collect();
            assert_eq!(some.len(), 3);
            // A quorum queue puts behind the others what was looked at.
            if kind == QueueKind::Classic {
                assert_eq!(some, [0, 1, 2], "the oldest, in their order");
            }
            dead(&fixture, &queue, 5).await;
            assert_eq!(letters.list(usize::MAX).await.unwrap().len(), 5);
        }
        assert_eq!(fixture.raw.count(&fixture.full(name)).await.messages, 0);
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

/// A quorum queue gets them back a moment later, and more than a few one after the other.
async fn what_was_listed_is_replayed_at_once(env: Env) {
    const LETTERS: usize = 100;
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<usize>(name, kind);
        queue.declare(&fixture.connection).await.unwrap();
        let letters = queue.dead_letters(&fixture.connection);
        let full = fixture.full(name);
        let dead = format!("{full}.dead");
        for letter in 0..LETTERS {
            let body = [u8::try_from(letter).unwrap()];
            fixture.raw.publish("", &dead, &body).await;
        }
        for most in [1, LETTERS, 3, LETTERS + 1] {
            let listed = letters.list(most).await.unwrap().len();
            assert_eq!(listed, most.min(LETTERS), "{name}");
        }
        // What is left goes back as well.
        let odd = |letter: &lepus::jobs::DeadLetter<usize>| letter.payload().unwrap() % 2 == 1;
        let replayed = letters.replay_where(odd).await.unwrap();
        assert_eq!(replayed as usize, LETTERS / 2, "{name}");
        let replayed = letters.replay().await.unwrap();
        assert_eq!(replayed as usize, LETTERS / 2, "{name}");
        assert_eq!(letters.count().await.unwrap(), 0, "{name}");
        fixture.raw.until_messages(&full, LETTERS as u32).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_copy_keeps_what_its_message_came_with(env: Env) {
    let fixture = JobFixture::open(env).await;
    let price = AMQPValue::DecimalValue(DecimalValue {
        scale: 2,
        value: 1295,
    });
    let headers = table(&[
        ("byte", AMQPValue::ShortShortInt(-7)),
        ("float", AMQPValue::Float(0.1)),
        ("int", AMQPValue::LongInt(-70_000)),
        ("list", AMQPValue::FieldArray(vec![price.clone()].into())),
        ("long", AMQPValue::LongLongInt(7)),
        ("no text", AMQPValue::LongString(vec![0xFF, 0].into())),
        (
            "nested",
            AMQPValue::FieldTable(table(&[("n", AMQPValue::LongInt(1))])),
        ),
        ("price", price),
        ("text", AMQPValue::LongString("häse".into())),
        ("truth", AMQPValue::Boolean(true)),
    ]);
    // What is without a header of a wide type is what only this is about.
    let sent = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("gzip".into())
        .with_message_id("m".into())
        .with_user_id("guest".into())
        .with_headers(headers.clone());
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind).retry(policy(2, 10));
        queue.declare(&fixture.connection).await.unwrap();
        let full = fixture.full(name);
        let published = fixture.raw.publish_with("", &full, b"7", sent.clone());
        published.await.unwrap();
        let handler = |_: Job<u32>| async { Err::<(), _>("busy") };
        let running = queue
            .worker(&fixture.connection)
            .start(handler)
            .await
            .unwrap();
        dead(&fixture, &queue, 1).await;
        running.stop().await.unwrap();
        let same = |properties: &BasicProperties| {
            assert_eq!(
                properties.content_encoding(),
                sent.content_encoding(),
                "{name}"
            );
            assert_eq!(properties.user_id(), sent.user_id(), "{name}");
            let copied = properties.headers().as_ref().unwrap().inner();
            for (header, value) in headers.inner() {
                assert_eq!(copied.get(header), Some(value), "{name}: {header}");
            }
        };
        let letters = queue.dead_letters(&fixture.connection);
        let letter = letters.list(1).await.unwrap().pop().unwrap();
        let price = letter.headers().get("price");
        assert_eq!(price, Some(&lepus::amqp::Value::Float(12.95)));
        let letter = fixture.raw.next(&format!("{full}.dead")).await;
        assert_eq!(header(&letter.properties, "error"), "busy");
        same(&letter.properties);
        let again = letter.properties.clone();
        let dead = format!("{full}.dead");
        let published = fixture.raw.publish_with("", &dead, b"7", again);
        published.await.unwrap();
        assert_eq!(letters.replay().await.unwrap(), 1);
        let job = fixture.raw.next(&full).await;
        assert_eq!(header(&job.properties, "error"), "");
        same(&job.properties);
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn one_some_or_all_are_replayed(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    bury(&fixture, &queue, 6).await;
    let letters = queue.dead_letters(&fixture.connection);
    assert!(!letters.replay_one("nobody").await.unwrap());
    dead(&fixture, &queue, 6).await;
    assert!(letters.replay_one("job-3").await.unwrap());
    dead(&fixture, &queue, 5).await;
    let even = |letter: &lepus::jobs::DeadLetter<u32>| letter.payload().unwrap().is_multiple_of(2);
    assert_eq!(letters.replay_where(even).await.unwrap(), 3);
    dead(&fixture, &queue, 2).await;
    assert_eq!(letters.replay().await.unwrap(), 2);
    dead(&fixture, &queue, 0).await;
    assert_eq!(letters.replay().await.unwrap(), 0);

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
    let mut seen = Vec::new();
    for _ in 0..6 {
        let job = next(&mut told).await;
        assert_eq!(job.attempt(), 1, "a life of its own");
        let id = format!("job-{}", job.payload());
        assert_eq!(job.message_id(), Some(id.as_str()));
        assert!(job.headers().is_empty(), "{:?}", job.headers());
        seen.push(job.into_payload());
    }
    assert_eq!(seen[0], 3, "the one, then the even ones, then the rest");
    seen[1..4].sort_unstable();
    seen[4..].sort_unstable();
    assert_eq!(seen, [3, 0, 2, 4, 1, 5]);
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn letters_are_read_one_at_a_time(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind);
        bury(&fixture, &queue, 4).await;
        // Their type and the properties of their queues need not be known.
        let any = WorkQueue::<serde::de::IgnoredAny>::new(name).passive();
        let letters = any.dead_letters(&fixture.connection);
        let mut reader = letters.reader().await.unwrap();
        assert!(reader.replay().await.unwrap_err().is_invalid());
        let mut ids = Vec::new();
        while let Some(letter) = reader.next().await.unwrap() {
            assert_eq!(letter.reason(), "rejected");
            ids.push(letter.message_id().unwrap().to_owned());
            // One that comes meanwhile is not read.
            if ids.len() == 1 {
                fixture
                    .raw
                    .publish("", &format!("{}.dead", fixture.full(name)), b"\x09")
                    .await;
            }
            if letter.to_json() == "2" {
                reader.replay().await.unwrap();
                assert!(reader.replay().await.unwrap_err().is_invalid());
            }
        }
        ids.sort();
        assert_eq!(ids, ["job-0", "job-1", "job-2", "job-3"], "{name}");
        assert!(reader.replay().await.unwrap_err().is_invalid());
        reader.close().await;
        dead(&fixture, &queue, 4).await;
        assert_eq!(fixture.raw.next(&fixture.full(name)).await.data, [2]);
        // Without a close, the broker puts them back.
        let mut reader = letters.reader().await.unwrap();
        reader.next().await.unwrap().unwrap();
        drop(reader);
        dead(&fixture, &queue, 4).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn several_letters_are_replayed_at_once(env: Env) {
    const LETTERS: usize = 30;
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u8>(name, kind).max_length(20);
        queue.declare(&fixture.connection).await.unwrap();
        let full = fixture.full(name);
        for letter in 0..LETTERS {
            let body = [u8::try_from(letter).unwrap()];
            fixture
                .raw
                .publish("", &format!("{full}.dead"), &body)
                .await;
        }
        let letters = queue.dead_letters(&fixture.connection);
        let mut reader = letters.reader().await.unwrap();
        let mut replays = Vec::new();
        while reader.next().await.unwrap().is_some() {
            replays.push(tokio::spawn(reader.replay()));
        }
        assert_eq!(replays.len(), LETTERS);
        let mut replayed = 0;
        for replay in replays {
            match replay.await.unwrap() {
                Ok(()) => replayed += 1,
                Err(error) => assert!(error.is_rejected(), "{error}"),
            }
        }
        reader.close().await;
        // A quorum queue lets more in before it refuses.
        let most = if kind == QueueKind::Quorum {
            LETTERS
        } else {
            20
        };
        assert!((20..=most).contains(&replayed), "{name}: {replayed}");
        fixture
            .raw
            .until_messages(&full, u32::try_from(replayed).unwrap())
            .await;
        let left = u32::try_from(LETTERS - replayed).unwrap();
        assert_eq!(letters.count().await.unwrap(), left, "{name}");
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_replay_is_confirmed_before_anything_is_removed(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs").classic().max_length(2);
    let jobs = fixture.full("jobs");
    bury_one_by_one(&fixture, &queue, 4).await;
    let letters = queue.dead_letters(&fixture.connection);
    let error = letters.replay().await.unwrap_err();
    assert!(error.is_rejected(), "{error:?}");
    fixture.raw.until_messages(&jobs, 2).await;
    dead(&fixture, &queue, 2).await;
    fixture.raw.next(&jobs).await;
    assert!(letters.replay_one("job-3").await.unwrap());
    dead(&fixture, &queue, 1).await;
    fixture.delete_queues(&["jobs"]).await;
}

/// A queue that is full with two has to be emptied in between.
async fn bury_one_by_one(fixture: &JobFixture, queue: &WorkQueue<u32>, count: u32) {
    let producer = queue.producer(&fixture.connection);
    let handler = |_: Job<u32>| async { Err::<(), _>(reject("no image")) };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    for job in 0..count {
        let push = producer.push(&job).message_id(&format!("job-{job}"));
        push.await.unwrap();
        dead(fixture, queue, job + 1).await;
    }
    running.stop().await.unwrap();
}

async fn they_are_purged(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    bury(&fixture, &queue, 3).await;
    let letters = queue.dead_letters(&fixture.connection);
    assert_eq!(letters.purge().await.unwrap(), 3);
    assert_eq!(letters.count().await.unwrap(), 0);
    assert_eq!(letters.purge().await.unwrap(), 0);
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_job_that_says_no_text_is_taken_and_listed(env: Env) {
    const TEXT: &str = "no-text!";
    let fixture = JobFixture::open(env).await;
    let queue = queue::<u32>("jobs", QueueKind::Classic).codec(Codec::Json);
    queue.declare(&fixture.connection).await.unwrap();
    let proxy = Proxy::start(&fixture.env.uri).await;
    proxy.garble(TEXT);
    let raw = Raw::open(proxy.uri()).await;
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(TEXT.into());
    for name in ["jobs", "jobs.dead"] {
        let to = fixture.full(name);
        let published = raw.publish_with("", &to, b"7", properties.clone());
        published.await.expect("it is taken");
    }
    let taken = queue.getter(&fixture.connection).next().await.unwrap();
    let taken = taken.expect("a job");
    let replaced = "?".repeat(TEXT.len());
    assert_eq!(taken.message_id(), Some(replaced.as_str()));
    assert_eq!(taken.ack().unwrap(), 7);
    let letters = queue
        .dead_letters(&fixture.connection)
        .list(9)
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(*letters[0].payload().unwrap(), 7);
}

async fn the_brokers_own_dead_letters_are_read_too(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<u32>(name, kind).message_ttl(Duration::from_millis(50));
        let push = queue.producer(&fixture.connection).push(&7);
        push.message_id("late").await.unwrap();
        dead(&fixture, &queue, 1).await;
        let letters = queue.dead_letters(&fixture.connection);
        let letter = letters.list(1).await.unwrap().pop().unwrap();
        assert_eq!((letter.reason(), letter.attempt()), ("expired", 0));
        assert_eq!(letter.source_queue(), fixture.full(name));
        assert_eq!(
            (letter.exchange(), letter.key()),
            ("", &*fixture.full(name))
        );
        assert!(letter.headers().is_empty(), "{:?}", letter.headers());
        assert!(letter.all_headers().contains_key("x-death"));
        assert_eq!((letter.error(), letter.first_error()), ("", None));
        assert!(letter.failed_at().is_some());
        dead(&fixture, &queue, 1).await;
        assert!(letters.replay_one("late").await.unwrap());
        // Replayed as a job without a past, or the broker would drop it as one that goes round.
        dead(&fixture, &queue, 1).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_job_whose_connection_is_lost_each_time_is_abandoned(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let (proxy, connection) = fixture.env.proxied().await;
        let queue = queue::<u32>(name, kind).retry(policy(3, 10));
        queue.producer(&fixture.connection).push(&7).await.unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<u32>| {
            tell.send(job.attempt()).unwrap();
            async move { job.cancelled().wait().await }
        };
        let running = queue.worker(&connection).start(handler).await.unwrap();
        for attempt in 1..=3 {
            assert_eq!(next(&mut told).await, attempt, "{name}");
            proxy.cut(Cut::Rst);
        }
        dead(&fixture, &queue, 1).await;
        running.stop().await.unwrap();
        let letters = queue.dead_letters(&fixture.connection);
        let letter = letters.list(1).await.unwrap().pop().unwrap();
        assert_eq!((letter.reason(), letter.attempt()), ("abandoned", 3));
        assert_eq!(letter.payload().unwrap(), &7);
        assert!(told.try_recv().is_err());
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_job_that_takes_its_process_down_is_abandoned(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let processes = WorkerProcesses::new(WORKER, &fixture.env, name, kind);
        let queue = processes.queue();
        let producer = queue.producer(&fixture.connection);
        producer.push(&"abort".to_owned()).await.unwrap();
        for attempt in 1..=3 {
            let mut worker = processes.start().await;
            let line = worker.line().await;
            assert_eq!(line, format!("aborting, attempt {attempt}"), "{name}");
            assert!(!worker.ended().await.status.success());
        }
        let mut worker = processes.start().await;
        let letters = queue.dead_letters(&fixture.connection);
        eventually("it is given up", || async {
            letters.count().await.unwrap() == 1
        })
        .await;
        producer.push(&"next".to_owned()).await.unwrap();
        assert_eq!(worker.line().await, "done next");
        worker.signal(Signal::TERM);
        assert_eq!(worker.succeeded().await, ["drained"]);
        let letter = letters.list(1).await.unwrap().pop().unwrap();
        assert_eq!((letter.reason(), letter.attempt()), ("abandoned", 3));
        assert!(letter.error().contains("went away"), "{}", letter.error());
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_job_that_others_give_back_is_not_given_out_for_ever(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<u32>("jobs", QueueKind::Quorum);
    queue.producer(&fixture.connection).push(&7).await.unwrap();
    // A worker that is not ours. A reject counts on every RabbitMQ, a nack does not on the latest.
    let mut consumer = fixture.raw.consume(&fixture.full("jobs"), 1).await;
    for _ in 0..21 {
        let delivery = delivery(&mut consumer).await;
        let options = BasicRejectOptions { requeue: true };
        delivery.acker.reject(options).await.unwrap();
    }
    dead(&fixture, &queue, 1).await;
    let letters = queue.dead_letters(&fixture.connection);
    let letter = letters.list(1).await.unwrap().pop().unwrap();
    assert_eq!((letter.reason(), letter.error()), ("delivery_limit", ""));
    fixture.delete_queues(&["jobs"]).await;
}
