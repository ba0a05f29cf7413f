//! Figures by method: of services, tasks, work queues and subscriptions.

use futures_util::future::join_all;
use lapin::BasicProperties;
use lepus::amqp::MethodStats;
use lepus::jobs::TaskPool;
use lepus::middleware::{Next, from_fn};
use lepus::observe::HandlerKind;
use lepus::rpc::Request;
use lepus::{Code, Connection, Fanout, Job, Topic, WorkQueue, reject, retry};
use lepus_tests::jobs::{JobFixture, policy};
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, is_settled, serve_concurrently};
use lepus_tests::proxy::Cut;
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

conformance!(
    requests_are_counted_by_method_and_outcome,
    each_call_of_a_shared_message_is_counted,
    a_dropped_handler_is_counted_as_cancelled,
    the_time_in_the_queue_is_that_which_the_message_tells,
    a_client_that_stamps_makes_the_time_in_the_queue_known,
    jobs_and_tasks_are_counted_by_queue_and_task,
    events_are_counted_by_queue_or_exchange,
);

const SHORT: Duration = Duration::from_millis(200);

/// The figures of one method.
fn stats(connection: &Connection, service: &str, method: &str) -> MethodStats {
    let all = connection.stats_by_method();
    let found = all
        .iter()
        .find(|stats| stats.service == service && stats.method == method);
    found
        .unwrap_or_else(|| panic!("no {service}/{method} in {all:?}"))
        .clone()
}

/// Waits until this many have ended: a reply is sent before its request is counted.
async fn ended(connection: &Connection, service: &str, method: &str, count: u64) -> MethodStats {
    eventually(&format!("{count} of {service}/{method}"), || async {
        let stats = stats(connection, service, method);
        if stats.duration.count() == count && stats.in_flight == 0 {
            Ok(stats)
        } else {
            Err(format!("{stats:?}"))
        }
    })
    .await
}

async fn requests_are_counted_by_method_and_outcome(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let (serving, probe) = (&fixture.serving, &fixture.probe);
    let names: Vec<_> = serving.stats_by_method();
    let names: Vec<_> = names.iter().map(|stats| stats.method.as_str()).collect();
    assert_eq!(names[..2], ["echo", "divide"]);
    assert!(!names.contains(&"_OTHER"), "{names:?}");

    for text in ["a", "b", "c"] {
        probe.echo(text.into()).await.unwrap();
    }
    assert!(probe.divide(1, 0).await.is_err());
    assert!(probe.panic("ouch".into()).await.is_err());
    let stopped = probe.hold_idempotent(1).timeout(SHORT).await;
    assert!(stopped.unwrap_err().is_timeout());
    let raw = Raw::open(&env.uri).await;
    for (method, body) in [("no_such", &b"{}"[..]), ("echo", b"\xc1")] {
        let properties = BasicProperties::default().with_type(method.into());
        let sent = raw.publish_with("", &fixture.queue, body, properties);
        sent.await.unwrap();
    }
    is_settled(&env, &fixture.queue).await;

    let echo = ended(serving, "probe", "echo", 4).await;
    assert_eq!((echo.kind, echo.requests), (HandlerKind::Request, 4));
    assert_eq!(echo.statuses, [(Code::InvalidArgument, 1)]);
    assert_eq!(echo.last_error, Some("invalid_argument"));
    assert!(echo.duration.sum > Duration::ZERO, "{echo:?}");
    let divide = ended(serving, "probe", "divide", 1).await;
    assert_eq!((divide.own_errors, divide.statuses.len()), (1, 0));
    assert_eq!(divide.last_error, Some("application"));
    let panic = ended(serving, "probe", "panic", 1).await;
    assert_eq!((panic.panics, panic.last_error), (1, Some("internal")));
    let held = ended(serving, "probe", "hold_idempotent", 1).await;
    assert_eq!((held.stopped, held.cancelled), (1, 0));
    assert!(held.duration.sum >= SHORT / 2, "{held:?}");
    let other = ended(serving, "probe", "_OTHER", 1).await;
    assert_eq!(other.statuses, [(Code::Unimplemented, 1)]);
    let large = stats(serving, "probe", "large");
    assert_eq!((large.requests, large.last_error), (0, None));
    // The client serves nothing.
    assert_eq!(fixture.calling.stats_by_method(), []);
    raw.close().await;
}

async fn each_call_of_a_shared_message_is_counted(env: Env) {
    let (serving, calling) = (env.connect().await, env.connect().await);
    let subject = Arc::new(Subject::default());
    env.name("probe");
    let server = serve_concurrently(&serving, &subject, 8).start().await;
    let server = server.unwrap();
    let probe = ProbeClient::builder(&calling).coalesce(64).build();
    probe.echo("first".into()).await.unwrap();
    let calls = (0..100).map(|number| probe.echo(number.to_string()).into_future());
    for reply in join_all(calls).await {
        reply.unwrap();
    }
    let echo = ended(&serving, "probe", "echo", 101).await;
    assert_eq!((echo.requests, echo.last_error), (101, None));
    server.stop().await.unwrap();
}

async fn a_dropped_handler_is_counted_as_cancelled(env: Env) {
    let (proxy, fixture) = RpcFixture::served_by_proxy(&env).await;
    let held = fixture.probe.hold_idempotent(1).send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    assert_eq!(
        stats(&fixture.serving, "probe", "hold_idempotent").in_flight,
        1
    );
    // The handler is dropped with its connection, and the request is delivered again.
    proxy.cut(Cut::Rst);
    fixture.subject.gate.entered(2).await;
    fixture.subject.gate.open_for_good();
    held.await.unwrap();
    let held = ended(&fixture.serving, "probe", "hold_idempotent", 2).await;
    assert_eq!((held.requests, held.cancelled, held.redelivered), (2, 1, 1));
}

async fn the_time_in_the_queue_is_that_which_the_message_tells(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap().as_millis()).unwrap();
    let echo = |sent: Option<i64>| {
        let call = fixture.probe.echo("x".into());
        match sent {
            Some(millis) => call.header("timestamp_in_ms", millis),
            None => call,
        }
    };
    // None, three seconds ago, and by a clock that is an hour ahead.
    for sent in [None, Some(now - 3000), Some(now + 3_600_000)] {
        echo(sent).await.unwrap();
    }
    let echo = ended(&fixture.serving, "probe", "echo", 3).await;
    let wait = echo.queue_wait;
    assert_eq!((wait.count(), wait.buckets[0]), (2, 1), "{wait:?}");
    assert!(wait.sum >= Duration::from_secs(3), "{wait:?}");
}

async fn a_client_that_stamps_makes_the_time_in_the_queue_known(env: Env) {
    let fixture = RpcFixture::start(&env).await;
    let stamping = || ProbeClient::builder(&fixture.calling).stamp();
    let probe = stamping().build();
    let passing = from_fn(async |request: Request, next: Next| next.run(request).await);
    let layered = stamping().layer(passing).build();
    let shared = stamping().coalesce(16).build();
    for probe in [&probe, &layered, &shared] {
        probe.echo("x".into()).await.unwrap();
    }
    // The first reply has told that the server accepts batches.
    let calls = (0..8).map(|_| shared.echo("x".into()).into_future());
    for reply in join_all(calls).await {
        reply.unwrap();
    }
    // Its own time, an hour ago, is left as it is.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let hour_ago = i64::try_from(now.unwrap().as_millis()).unwrap() - 3_600_000;
    let own = probe.echo("x".into()).header("timestamp_in_ms", hour_ago);
    own.await.unwrap();
    let wait = ended(&fixture.serving, "probe", "echo", 12)
        .await
        .queue_wait;
    assert_eq!(wait.count(), 12, "{wait:?}");
    let hour = Duration::from_secs(3600);
    assert!(wait.sum >= hour && wait.sum < hour * 2, "{wait:?}");
}

#[lepus::tasks]
trait Pictures {
    async fn resize(&self, width: u32) -> Result<(), String>;
    async fn sweep(&self);
}

struct Painter;

impl Pictures for Painter {
    async fn resize(&self, width: u32) -> Result<(), String> {
        if width > 0 {
            Ok(())
        } else {
            Err("nothing is left".to_owned())
        }
    }
    async fn sweep(&self) {}
}

async fn jobs_and_tasks_are_counted_by_queue_and_task(env: Env) {
    let fixture = JobFixture::open(env).await;
    let connection = &fixture.connection;
    let queue = WorkQueue::<u32>::new("numbers").retry(policy(2, 10));
    let handler = async |job: Job<u32>| match job.payload() {
        0 => Err(retry("busy")),
        1 => Err(reject("no good")),
        2 => panic!("ouch"),
        _ => Ok(()),
    };
    let pool = queue.worker(connection).concurrency(4);
    let worker = pool.start(handler).await.unwrap();
    let pushed = queue.producer(connection).push_all(&[0, 1, 2, 3, 4]).await;
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    // The first and the third have two attempts.
    let numbers = ended(connection, "numbers", "", 7).await;
    assert_eq!((numbers.kind, numbers.requests), (HandlerKind::Job, 7));
    assert_eq!((numbers.own_errors, numbers.panics), (3, 2));
    let wait = numbers.queue_wait;
    assert_eq!(wait.count(), 5, "the first attempts alone: {wait:?}");
    eventually("all are dead letters or done", || async {
        let stats = stats(connection, "numbers", "");
        if (stats.retried, stats.dead_lettered) == (2, 3) {
            Ok(())
        } else {
            Err(format!("{stats:?}"))
        }
    })
    .await;

    let tasks = TaskPool::new(connection, PicturesWorker::new(Painter)).retry(policy(1, 10));
    let tasks = tasks.start().await.unwrap();
    let pictures = PicturesProducer::new(connection);
    pictures.resize(7).await.unwrap();
    pictures.resize(0).await.unwrap();
    pictures.sweep().await.unwrap();
    let resize = ended(connection, "pictures", "resize", 2).await;
    assert_eq!((resize.requests, resize.own_errors), (2, 1));
    ended(connection, "pictures", "sweep", 1).await;
    eventually("the failed task is a dead letter", || async {
        stats(connection, "pictures", "resize").dead_lettered == 1
    })
    .await;
    for running in [worker, tasks] {
        running.stop().await.unwrap();
    }
    fixture.delete_queues(&["numbers", "pictures"]).await;
}

async fn events_are_counted_by_queue_or_exchange(env: Env) {
    let fixture = JobFixture::open(env).await;
    let connection = &fixture.connection;
    let news = Fanout::<u32>::new("news");
    let broadcast = news.subscribe(connection).start(async |_| {}).await;
    let logs = Topic::<u32>::new("logs");
    let group = logs.subscribe(connection).bind("#").shared("audit");
    let group = group.start(async |_| Err::<(), _>("no")).await;
    news.publisher(connection).publish(&1).await.unwrap();
    logs.publisher(connection).publish("a", &1).await.unwrap();
    let news = ended(connection, "news", "", 1).await;
    assert_eq!((news.kind, news.own_errors), (HandlerKind::Event, 0));
    let all = connection.stats_by_method();
    let audit = all.iter().find(|stats| stats.service.contains("audit"));
    let audit = audit.unwrap_or_else(|| panic!("{all:?}")).service.clone();
    eventually("the event of the group has failed", || async {
        let stats = stats(connection, &audit, "");
        stats.own_errors > 0 && stats.kind == HandlerKind::Event
    })
    .await;
    for running in [broadcast, group] {
        running.unwrap().stop().await.unwrap();
    }
    fixture.delete_queues(&[&audit]).await;
}
