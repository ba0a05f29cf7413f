//! Work queues and their workers: what is declared, how many jobs are in hand, and who is told
//! when that ends.

use lapin::options::QueueDeclareOptions;
use lapin::types::AMQPValue;
use lepus::{Codec, Job, WorkQueue};
use lepus_broker::Broker;
use lepus_tests::jobs::{JobFixture, KINDS, next, queue, recorder};
use lepus_tests::proxy::Cut;
use lepus_tests::raw::durable;
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc};

conformance!(
    a_job_is_pushed_and_done,
    it_is_declared_as_one_topology,
    a_mismatch_names_queue_argument_and_both_values,
    passive_declares_nothing,
    what_makes_no_sense_is_said_before_anything_is_sent,
    concurrency_is_the_prefetch,
    a_busy_worker_gets_no_further_job,
    a_handler_is_told_of_a_lost_connection_and_of_a_shutdown,
    no_more_handlers_run_across_a_reconnect,
    a_deleted_queue_comes_back,
    a_consumer_that_the_broker_forgot_comes_back,
    a_dropped_pool_gives_back_what_it_has,
    a_queue_is_counted_purged_and_deleted,
    a_namespace_is_deleted_with_what_was_declared_in_it,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Resize {
    id: u64,
    sizes: Vec<u32>,
    note: Option<String>,
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn number(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}

async fn a_job_is_pushed_and_done(env: Env) {
    let fixture = JobFixture::open(env).await;
    let order = Resize {
        id: 7,
        sizes: vec![64, 640],
        note: Some("größer".into()),
    };
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let queue = queue::<Resize>(name, kind);
        let before = SystemTime::now();
        queue
            .producer(&fixture.connection)
            .push(&order)
            .header("tenant", "hare")
            .await
            .expect("it is stored");
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<Resize>| {
            tell.send(job).expect("the test listens");
            async {}
        };
        let running = queue
            .worker(&fixture.connection)
            .start(handler)
            .await
            .unwrap();
        let job = next(&mut told).await;
        assert_eq!(job.payload(), &order);
        assert_eq!((job.attempt(), job.redelivered()), (1, false));
        assert_eq!(job.message_id().map(str::len), Some(22), "a fresh one");
        assert_eq!(job.header("tenant").and_then(|v| v.as_str()), Some("hare"));
        assert_eq!(job.headers().len(), 1, "{:?}", job.headers());
        assert_eq!((job.exchange(), job.key()), ("", &*fixture.full(name)));
        assert_eq!(job.content_type(), Some("application/msgpack"));
        assert_eq!(job.bytes(), Codec::MsgPack.encode(&order).unwrap());
        let seen = job.timestamp().expect("its producer says when");
        // It is told in whole seconds.
        let between = before - Duration::from_secs(1)..=SystemTime::now();
        assert!(between.contains(&seen), "{seen:?} is not in {between:?}");
        running.stop().await.unwrap();
        // What was not acknowledged would be back with the channel.
        let raw = lepus_tests::raw::Raw::open(&fixture.env.uri).await;
        assert!(raw.get(&fixture.full(name)).await.is_none());
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn it_is_declared_as_one_topology(env: Env) {
    let fixture = JobFixture::open(env).await;
    WorkQueue::<u32>::new("jobs")
        .max_length(7)
        .message_ttl(Duration::from_secs(60))
        .dead_letter_queue("morgue.dead")
        .declare(&fixture.connection)
        .await
        .unwrap();
    WorkQueue::<u32>::new("ranks")
        .classic()
        .max_priority(5)
        .declare(&fixture.connection)
        .await
        .unwrap();
    WorkQueue::<u32>::new("hello")
        .transient()
        .declare(&fixture.connection)
        .await
        .unwrap();
    // To declare a queue with the same properties is no mismatch.
    let (jobs, morgue) = (fixture.full("jobs"), fixture.full("morgue.dead"));
    let main = [
        ("x-queue-type", long("quorum")),
        ("x-max-length", number(7)),
        ("x-overflow", long("reject-publish")),
        ("x-message-ttl", number(60_000)),
        ("x-dead-letter-exchange", long("")),
        ("x-dead-letter-routing-key", long(&morgue)),
        ("x-dead-letter-strategy", long("at-least-once")),
        ("x-delivery-limit", number(20)),
    ];
    let dead = [
        ("x-queue-type", long("quorum")),
        ("x-delivery-limit", number(1_000_000_000)),
    ];
    let ranks = [("x-max-priority", number(5))];
    let plain = QueueDeclareOptions::default();
    let raw = &fixture.raw;
    for (name, options, arguments) in [
        (jobs.as_str(), durable(), &main[..]),
        (&morgue, durable(), &dead),
        (&fixture.full("ranks"), durable(), &ranks),
        (&fixture.full("ranks.dead"), durable(), &[]),
        (&fixture.full("hello"), plain, &[]),
    ] {
        let declared = raw.declare_with(name, options, arguments).await;
        declared.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    fixture
        .delete_queues(&["jobs", "morgue", "ranks", "hello"])
        .await;
}

async fn a_mismatch_names_queue_argument_and_both_values(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (jobs, dead) = (fixture.full("jobs"), fixture.full("tasks.dead"));
    let arguments = [
        ("x-max-length", number(5)),
        ("x-overflow", long("reject-publish")),
    ];
    let raw = &fixture.raw;
    raw.declare_with(&jobs, durable(), &arguments)
        .await
        .unwrap();
    raw.declare(&dead).await;
    let ours = WorkQueue::<u32>::new("jobs").classic().max_length(7);
    let declared = ours.declare(&fixture.connection).await;
    let started = ours.worker(&fixture.connection).start(|_| async {}).await;
    for error in [declared.unwrap_err(), started.unwrap_err()] {
        assert!(error.is_mismatch() && error.amqp_code() == Some(406));
        let text = error.to_string();
        for word in [&format!("`{jobs}`"), "`x-max-length`", "= 5", "with 7"] {
            assert!(text.contains(word), "no {word} in: {text}");
        }
    }
    // The dead letters' queue is a part of it, and the kind is a property.
    let tasks = WorkQueue::<u32>::new("tasks");
    let text = tasks
        .declare(&fixture.connection)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&dead) && text.contains("`x-queue-type`") && text.contains("quorum"),
        "{text}"
    );
    // Others on the same connection are not concerned.
    let others = WorkQueue::<u32>::new("others").classic();
    others.producer(&fixture.connection).push(&1).await.unwrap();
    fixture.delete_queues(&["jobs", "tasks", "others"]).await;
}

async fn passive_declares_nothing(env: Env) {
    let fixture = JobFixture::open(env).await;
    let jobs = fixture.full("jobs");
    let queue = WorkQueue::<u32>::new("jobs").passive();
    let producer = queue.producer(&fixture.connection);
    let error = queue
        .worker(&fixture.connection)
        .start(|_| async {})
        .await
        .unwrap_err();
    assert_eq!(error.amqp_code(), Some(404), "{error:?}");
    assert!(format!("{error:?}").contains("jobs.dead"), "{error:?}");
    assert!(producer.push(&1).await.unwrap_err().is_unroutable());
    let delayed = producer.push(&1).delay(Duration::from_millis(20)).await;
    assert!(delayed.unwrap_err().is_unroutable());
    for name in [&jobs, &format!("{jobs}.dead"), &format!("{jobs}.retry.20")] {
        assert!(!fixture.raw.exists(name).await, "{name}");
    }

    // Somebody else's queues, with properties of their own.
    let odd = [("x-max-length", number(100))];
    fixture
        .raw
        .declare_with(&jobs, durable(), &odd)
        .await
        .unwrap();
    fixture.raw.declare(&format!("{jobs}.dead")).await;
    queue.declare(&fixture.connection).await.unwrap();
    producer.push(&2).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send(*job.payload()).unwrap();
        async {}
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    assert_eq!(next(&mut told).await, 2);
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn what_makes_no_sense_is_said_before_anything_is_sent(env: Env) {
    let fixture = JobFixture::open(env).await;
    let ranks = WorkQueue::<u32>::new("ranks").max_priority(5);
    let error = ranks.declare(&fixture.connection).await.unwrap_err();
    assert!(
        error.is_invalid() && error.to_string().contains(".classic()"),
        "{error}"
    );
    let pushed = ranks.producer(&fixture.connection).push(&1).await;
    assert!(pushed.unwrap_err().is_invalid());
    // The names of the delay queues have to fit as well, or a retry would have nowhere to wait.
    for length in [0, 239, 256] {
        let queue = WorkQueue::<u32>::new(&"q".repeat(length));
        let started = queue.worker(&fixture.connection).start(|_| async {}).await;
        assert!(started.unwrap_err().is_invalid(), "{length} bytes");
        let pushed = queue.producer(&fixture.connection).push(&1).await;
        assert!(pushed.unwrap_err().is_invalid(), "{length} bytes");
    }
    let almost = "q".repeat(238 - fixture.env.namespace().len());
    let queue = WorkQueue::<u32>::new(&almost);
    let started = queue.worker(&fixture.connection).start(|_| async {}).await;
    assert!(started.unwrap_err().is_invalid(), "the namespace counts");
    fixture.delete_queues(&[]).await;
}

async fn concurrency_is_the_prefetch(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    let producer = queue.producer(&fixture.connection);
    for outcome in producer.push_all(&[0; 10]).await {
        outcome.unwrap();
    }
    let gate = Arc::new(Semaphore::new(0));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let (gate, running, most) = (gate.clone(), running, most.clone());
        move |_: Job<u32>| {
            let (gate, running, most) = (gate.clone(), running.clone(), most.clone());
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tell.send(()).unwrap();
            async move {
                gate.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    let pool = queue.worker(&fixture.connection).concurrency(3);
    let at_work = pool.start(handler).await.unwrap();
    for _ in 0..3 {
        next(&mut told).await;
    }
    fixture.raw.until_messages(&fixture.full("jobs"), 7).await;
    assert!(told.try_recv().is_err(), "three at once");
    assert_eq!(fixture.connection.stats().running, 3);
    gate.add_permits(10);
    for _ in 3..10 {
        next(&mut told).await;
    }
    at_work.stop().await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 3);
    fixture.raw.until_messages(&fixture.full("jobs"), 0).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_busy_worker_gets_no_further_job(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    let producer = queue.producer(&fixture.connection);
    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = |who: &'static str| {
        let (tell, gate) = (tell.clone(), gate.clone());
        move |job: Job<u32>| {
            tell.send((who, *job.payload())).unwrap();
            let gate = gate.clone();
            async move {
                if job.into_payload() == 0 {
                    gate.acquire().await.unwrap().forget();
                }
            }
        }
    };
    let first = queue
        .worker(&fixture.connection)
        .start(worker("first"))
        .await;
    producer.push(&0).await.unwrap();
    assert_eq!(next(&mut told).await, ("first", 0));
    let second = queue
        .worker(&fixture.connection)
        .start(worker("second"))
        .await;
    for job in 1..=5 {
        producer.push(&job).await.unwrap();
    }
    for job in 1..=5 {
        assert_eq!(next(&mut told).await, ("second", job));
    }
    gate.add_permits(1);
    first.unwrap().stop().await.unwrap();
    second.unwrap().stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

#[derive(Debug, PartialEq)]
enum Told {
    Started { attempt: u32 },
    Cancelled,
}

async fn a_handler_is_told_of_a_lost_connection_and_of_a_shutdown(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let (proxy, connection) = fixture.env.proxied().await;
        let queue = queue::<u32>(name, kind);
        queue.producer(&fixture.connection).push(&1).await.unwrap();
        let (tell, mut told) = mpsc::unbounded_channel();
        let handler = move |job: Job<u32>| {
            let tell = tell.clone();
            async move {
                let attempt = job.attempt();
                assert!(!job.cancelled().is_set());
                tell.send(Told::Started { attempt }).unwrap();
                job.cancelled().wait().await;
                assert!(job.cancelled().is_set());
                tell.send(Told::Cancelled).unwrap();
            }
        };
        let running = queue.worker(&connection).start(handler).await.unwrap();
        assert_eq!(next(&mut told).await, Told::Started { attempt: 1 });
        proxy.cut(Cut::Rst);
        assert_eq!(next(&mut told).await, Told::Cancelled);
        // It was done, but nobody could be told: it comes again, and counts as another attempt.
        assert_eq!(next(&mut told).await, Told::Started { attempt: 2 });
        running.stop().await.unwrap();
        assert_eq!(next(&mut told).await, Told::Cancelled);
        fixture.raw.until_messages(&fixture.full(name), 0).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn no_more_handlers_run_across_a_reconnect(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (proxy, connection) = fixture.env.proxied().await;
    let queue = WorkQueue::<u32>::new("jobs");
    queue.producer(&fixture.connection).push(&1).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |_: Job<u32>| {
            tell.send(()).unwrap();
            let gate = gate.clone();
            async move { gate.acquire().await.unwrap().forget() }
        }
    };
    let running = queue.worker(&connection).start(handler).await.unwrap();
    next(&mut told).await;
    let before = proxy.accepted();
    proxy.cut(Cut::Rst);
    let jobs = fixture.full("jobs");
    eventually("the job is with the consumer again", || async {
        let counts = fixture.raw.count(&jobs).await;
        let again = proxy.accepted() > before && counts.consumers == 1 && counts.messages == 0;
        again.then_some(()).ok_or(format!("{counts:?}"))
    })
    .await;
    assert_eq!(connection.stats().running, 1);
    assert!(told.try_recv().is_err(), "the first one is still at it");
    gate.add_permits(2);
    next(&mut told).await;
    running.stop().await.unwrap();
    fixture.raw.until_messages(&jobs, 0).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_deleted_queue_comes_back(env: Env) {
    let fixture = JobFixture::open(env).await;
    let jobs = fixture.full("jobs");
    let queue = WorkQueue::<u32>::new("jobs");
    let producer = queue.producer(&fixture.connection);
    let (handler, mut told) = recorder::<u32>();
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    producer.push(&1).await.unwrap();
    assert_eq!(next(&mut told).await, 1);
    fixture.raw.delete(&jobs).await;
    eventually("it is there and consumed", || async {
        let counts = fixture.raw.try_count(&jobs).await;
        counts.is_ok_and(|counts| counts.consumers == 1)
    })
    .await;
    producer.push(&2).await.unwrap();
    assert_eq!(next(&mut told).await, 2);
    running.stop().await.unwrap();
    // And a producer alone puts it back as well.
    fixture.raw.delete(&jobs).await;
    producer.push(&3).await.unwrap();
    fixture.raw.until_messages(&jobs, 1).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_consumer_that_the_broker_forgot_comes_back(env: Env) {
    let Some(faults) = env.embedded().map(Broker::faults) else {
        env.leave_out("RabbitMQ forgets no consumer on demand");
        return;
    };
    let fixture = JobFixture::open(env).await;
    let jobs = fixture.full("jobs");
    let connection = fixture.env.builder().heartbeat(Duration::from_secs(1));
    let connection = connection.open().await.unwrap();
    let queue = WorkQueue::<u32>::new("jobs");
    let (handler, mut told) = recorder::<u32>();
    let running = queue.worker(&connection).start(handler).await.unwrap();
    let producer = queue.producer(&connection);
    for number in 1..=2 {
        producer.push(&number).await.unwrap();
        assert_eq!(next(&mut told).await, number);
        fixture.raw.until_messages(&jobs, 0).await;
        assert_eq!(faults.forget_consumers("/", &jobs), 1);
        assert_eq!(fixture.raw.count(&jobs).await.consumers, 0);
    }
    producer.push(&3).await.unwrap();
    assert_eq!(next(&mut told).await, 3);
    running.stop().await.unwrap();
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_dropped_pool_gives_back_what_it_has(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    queue.producer(&fixture.connection).push(&1).await.unwrap();
    // A handler may put a job somewhere; its channel must not live on with it.
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let kept = kept.clone();
        move |job: Job<u32>| {
            kept.lock().unwrap().push(job);
            tell.send(()).unwrap();
            std::future::pending::<()>()
        }
    };
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    next(&mut told).await;
    drop(running);
    let job = kept.lock().unwrap().pop().unwrap();
    eventually("its handler's job is told", || async {
        job.cancelled().is_set()
    })
    .await;
    job.cancelled().wait().await;
    fixture.raw.until_messages(&fixture.full("jobs"), 1).await;
    assert_eq!(fixture.raw.count(&fixture.full("jobs")).await.consumers, 0);
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_queue_is_counted_purged_and_deleted(env: Env) {
    let fixture = JobFixture::open(env).await;
    let connection = &fixture.connection;
    for kind in KINDS {
        let queue = queue::<String>(&format!("{kind:?}"), kind);
        let missing = queue.count(connection).await.unwrap_err();
        assert_eq!(missing.amqp_code(), Some(404), "{missing}");
        let producer = queue.producer(connection);
        for _ in 0..3 {
            producer.push(&"now".to_owned()).await.unwrap();
        }
        let later = producer.push(&"later".to_owned());
        later.delay(Duration::from_secs(3000)).await.unwrap();
        eventually("three jobs", || async {
            let counts = queue.count(connection).await.unwrap();
            (counts.messages, counts.consumers) == (3, 0)
        })
        .await;
        assert_eq!(queue.purge(connection).await.unwrap(), 3);
        assert_eq!(queue.count(connection).await.unwrap().messages, 0);
        let running = queue.worker(connection).start(async |_: Job<String>| {});
        let running = running.await.unwrap();
        assert_eq!(queue.count(connection).await.unwrap().consumers, 1);
        running.stop().await.unwrap();

        let refused = queue.clone().passive().delete(connection).await;
        assert!(refused.unwrap_err().is_invalid());
        queue.delete(connection).await.unwrap();
        for name in ["", ".dead", ".retry.3000000"] {
            let name = format!("{}{name}", queue.name());
            let gone = WorkQueue::<String>::new(&name).count(connection).await;
            assert_eq!(gone.unwrap_err().amqp_code(), Some(404), "{name}");
        }
        // Nothing is left to delete, and the next push declares it again.
        queue.delete(connection).await.unwrap();
        producer.push(&"again".to_owned()).await.unwrap();
        queue.delete(connection).await.unwrap();
    }
    fixture.delete_queues(&[]).await;
}

async fn a_namespace_is_deleted_with_what_was_declared_in_it(env: Env) {
    let fixture = JobFixture::open(env).await;
    let connection = &fixture.connection;
    let jobs = WorkQueue::<String>::new("jobs").producer(connection);
    let later = jobs.push(&"later".to_owned());
    later.delay(Duration::from_secs(3000)).await.unwrap();
    let logs = lepus::Fanout::<String>::new("logs");
    let archive = logs.subscribe(connection).shared("archive");
    let running = archive
        .start(async |_: lepus::Event<String>| {})
        .await
        .unwrap();
    running.stop().await.unwrap();
    // A queue of another program, which is only counted here.
    let foreign = fixture.full("foreign");
    fixture.raw.declare(&foreign).await;
    let used = WorkQueue::<String>::new("foreign");
    used.count(connection).await.unwrap();
    connection.delete_namespace().await.unwrap();
    for name in ["jobs", "jobs.dead", "jobs.retry.3000000", "archive"] {
        assert!(!fixture.raw.exists(&fixture.full(name)).await, "{name}");
    }
    assert!(fixture.raw.exists(&foreign).await);
    fixture.raw.delete(&foreign).await;
    connection.delete_namespace().await.unwrap();
    fixture.delete_queues(&[]).await;
}
