//! Every public function that takes a `Duration` takes every `Duration`: none panics, none waits
//! for ever by overflow, and none turns one duration into quite another in silence.

use lepus::{
    Connection, Context, Error, Job, RetryPolicy, Server, Topic, WorkQueue, jobs::TaskPool,
    rpc::ClientBuilder,
};
use lepus_tests::probe::{ProbeClient, ProbeServer, Subject};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;

/// From nothing to what no clock can add to its own time.
const EXTREMES: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_micros(500),
    Duration::from_secs(10),
    Duration::from_millis(u32::MAX as u64 + 1),
    Duration::from_millis(u64::MAX),
    Duration::from_secs(i64::MAX as u64),
    Duration::MAX,
];
/// Shorter ones may be over before anything is done.
const ENOUGH: Duration = Duration::from_secs(1);

conformance!(
    connections_take_every_duration,
    calls_take_every_duration,
    pushes_take_every_duration,
    publishes_take_every_duration,
    consumers_take_every_duration,
    delays_take_every_duration,
    times_to_live_take_every_duration,
);

/// It works, where there is time for it at all; else the deadline is what it fails with.
fn in_time<T>(what: &str, limit: Duration, result: Result<T, Error>) {
    match result {
        Ok(_) => {}
        Err(error) if limit < ENOUGH && error.is_timeout() => {}
        Err(error) => panic!("{what} with {limit:?}: {error}"),
    }
}

async fn connections_take_every_duration(env: Env) {
    for limit in EXTREMES {
        let opened = env.builder().connect_timeout(limit).open().await;
        in_time("connect_timeout", limit, opened);

        // A whole number of seconds, rounded up, as long as AMQP can say it.
        let opened = env.builder().heartbeat(limit).open().await;
        let fits = limit > Duration::ZERO && limit <= Duration::from_secs(65_535);
        match opened {
            Ok(_) => assert!(fits, "heartbeat {limit:?}"),
            Err(error) => assert!(!fits && error.is_invalid(), "heartbeat {limit:?}: {error}"),
        }

        for longest in EXTREMES {
            let builder = Connection::builder("amqp://127.0.0.1:1").backoff(limit, longest);
            let away = builder.retry_at_start().open().await.unwrap();
            let probe = ProbeClient::new(&away);
            let error = probe.echo("hi".into()).timeout(Duration::from_millis(20));
            let error = error.await.unwrap_err();
            assert!(
                error.is_timeout(),
                "backoff {limit:?}, {longest:?}: {error}"
            );
            // The supervisor goes on trying.
            let mut state = away.state();
            let state = state.wait_for(|state| state.trouble().is_some()).await;
            assert!(state.is_ok());
        }
    }
}

async fn calls_take_every_duration(env: Env) {
    let connection = env.connect().await;
    env.name("probe");
    let subject = Arc::new(Subject::default());
    subject.gate.open_for_good();
    let server = Server::new(&connection).serve(ProbeServer::from_arc(subject));
    let _server = server.start().await.unwrap();
    for limit in EXTREMES {
        let probe = ProbeClient::new(&connection);
        let called = probe.echo("hi".into()).timeout(limit).await;
        in_time("Call::timeout", limit, called.map_err(rpc));
        let called = probe.note(1).timeout(limit).await;
        in_time("Call::timeout, one-way", limit, called.map_err(rpc));
        let called = ProbeClient::builder(&connection)
            .timeout(limit)
            .build()
            .echo("hi".into())
            .await;
        in_time("ClientBuilder::timeout", limit, called.map_err(rpc));
        let service = ProbeServer::new(Subject::default());
        let local: ProbeClient = ClientBuilder::local(service).timeout(limit).build();
        let called = local.echo("hi".into()).await;
        in_time("ClientBuilder::timeout, local", limit, called.map_err(rpc));
    }
}

fn rpc<E: std::fmt::Debug>(error: lepus::CallError<E>) -> Error {
    match error {
        lepus::CallError::Rpc(error) => error,
        lepus::CallError::Service(error) => panic!("{error:?}"),
    }
}

async fn pushes_take_every_duration(env: Env) {
    let connection = env.connect().await;
    let queue = WorkQueue::<String>::new("durations");
    env.name("durations");
    queue.declare(&connection).await.unwrap();
    for limit in EXTREMES {
        let producer = queue.producer(&connection).timeout(limit);
        let pushed = producer.push(&"job".into()).await;
        in_time("Producer::timeout", limit, pushed);
        let jobs = ["a".to_owned(), "b".to_owned()];
        for pushed in producer.push_all(&jobs).await {
            in_time("Producer::timeout, push_all", limit, pushed);
        }
        // The first push of a connection finds nothing open.
        let fresh = env.connect().await;
        let pushed = queue
            .producer(&fresh)
            .timeout(limit)
            .push(&"job".into())
            .await;
        in_time("Producer::timeout, at first", limit, pushed);
    }
}

async fn publishes_take_every_duration(env: Env) {
    let connection = env.connect().await;
    let topic = Topic::<String>::new("durations").transient().auto_delete();
    let all = topic.subscribe(&connection).bind("#");
    let mut all = all.stream().await.unwrap();
    for limit in EXTREMES {
        for publisher in [
            topic.publisher(&connection),
            topic.publisher(&connection).unconfirmed(),
        ] {
            let published = publisher.clone().timeout(limit).publish("a", "one").await;
            in_time("EventPublisher::timeout", limit, published);
            let published = publisher.publish("a", "two").timeout(limit).await;
            in_time("Publish::timeout", limit, published);
            let published = publisher.publish("a", "three").time_to_live(limit).await;
            published.unwrap_or_else(|error| panic!("time_to_live {limit:?}: {error}"));
        }
    }
    assert!(all.next().await.is_some());
    all.close().await.unwrap();
}

async fn consumers_take_every_duration(env: Env) {
    let connection = env.connect().await;
    let queue = WorkQueue::<String>::new("durations");
    env.name("durations");
    env.name("probe");
    env.name("chores");
    env.name("chores.dead");
    env.name("durations.dead");
    let topic = Topic::<String>::new("durations").transient().auto_delete();
    for limit in EXTREMES {
        let what = format!("{limit:?}");
        // A handler that is stopped at its limit is one attempt of a job.
        let (seen, mut jobs) = tokio::sync::mpsc::unbounded_channel();
        let pool = queue.worker(&connection).timeout(limit).grace(limit);
        let worker = pool.start(move |job: Job<String>| {
            let _ = seen.send((job.attempt(), Context::current().time_left()));
            async {}
        });
        let worker = worker.await.expect(&what);
        queue
            .producer(&connection)
            .push(&"job".into())
            .await
            .unwrap();
        let (_, left) = jobs.recv().await.expect(&what);
        assert!(left.is_some_and(|left| left <= limit), "{what}: {left:?}");
        worker.stop().await.expect(&what);

        let server = Server::new(&connection).serve(ProbeServer::new(Subject::default()));
        let server = server.grace(limit).start().await.expect(&what);
        server.stop().await.expect(&what);

        let tasks = TaskPool::new(&connection, ChoresWorker::new(Idle));
        let tasks = tasks
            .timeout(limit)
            .grace(limit)
            .start()
            .await
            .expect(&what);
        tasks.stop().await.expect(&what);

        let each = topic.subscribe(&connection).bind("#").grace(limit);
        let each = each.start(async |_: lepus::Event<String>| {}).await;
        each.expect(&what).stop().await.expect(&what);
    }
}

#[lepus::tasks]
trait Chores {
    async fn sweep(&self);
}

struct Idle;

impl Chores for Idle {
    async fn sweep(&self) {}
}

async fn delays_take_every_duration(env: Env) {
    let connection = env.connect().await;
    let raw = Raw::open(&env.uri).await;
    for (number, delay) in EXTREMES.into_iter().enumerate() {
        let name = format!("delays-{number}");
        let queue = WorkQueue::<String>::new(&name).retry(
            RetryPolicy::default()
                .attempts(2)
                .backoff(delay, delay)
                .jitter(0.5),
        );
        for what in [
            "",
            ".dead",
            ".retry.1",
            ".retry.5000",
            ".retry.7000",
            ".retry.10000",
            ".retry.3000000000",
            ".retry.4294967295",
        ] {
            env.name(&format!("{name}{what}"));
        }
        let producer = queue.producer(&connection);
        let pushed = producer.push(&"delayed".into()).delay(delay).await;
        let fits = delay <= Duration::from_millis(u32::MAX.into());
        match pushed {
            Ok(()) => assert!(fits, "delay {delay:?}"),
            Err(error) => assert!(!fits && error.is_invalid(), "delay {delay:?}: {error}"),
        }

        // Retried after that: nothing is left in the queue, whatever it is.
        let worker = queue.worker(&connection);
        let worker = worker.start(move |job: Job<String>| async move {
            if job.attempt() > 1 {
                Ok(())
            } else if job.payload() == "after" {
                Err(lepus::retry_after(delay, "again"))
            } else {
                Err(lepus::retry("again"))
            }
        });
        let worker = worker.await.unwrap();
        for job in ["after", "backoff"] {
            producer.push(&job.into()).await.unwrap();
        }
        eventually(&format!("{delay:?}: all were tried"), || async {
            let counts = raw.count(&env.name(&name)).await;
            counts.messages == 0 && connection.stats().unsettled == 0
        })
        .await;
        worker.stop().await.unwrap();
        assert_eq!(queue.dead_letters(&connection).count().await.unwrap(), 0);
    }
}

async fn times_to_live_take_every_duration(env: Env) {
    let connection = env.connect().await;
    for (number, ttl) in EXTREMES.into_iter().enumerate() {
        let name = format!("lives-{number}");
        let queue = WorkQueue::<String>::new(&name).message_ttl(ttl);
        env.name(&name);
        env.name(&format!("{name}.dead"));
        // What the broker does not take, it says.
        match queue.declare(&connection).await {
            Ok(()) => {}
            Err(error) => {
                assert!(ttl > Duration::from_secs(10), "{ttl:?}: {error}");
                assert_eq!(error.amqp_code(), Some(406), "{ttl:?}: {error}");
            }
        }
    }
    // Less than a millisecond is one, and not zero, which would let nothing wait at all.
    env.name("short");
    env.name("short.dead");
    let short = |ttl| WorkQueue::<String>::new("short").message_ttl(ttl);
    let declared = short(Duration::from_millis(1)).declare(&connection).await;
    declared.unwrap();
    let same = short(Duration::from_nanos(1)).declare(&connection).await;
    same.unwrap();
    let other = short(Duration::ZERO)
        .declare(&connection)
        .await
        .unwrap_err();
    assert!(other.to_string().contains("x-message-ttl"), "{other}");
}
