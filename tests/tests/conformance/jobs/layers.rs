//! Layers around workers and producers.

use lepus::jobs::{JobError, Verdict, VerdictOutcome};
use lepus::middleware::{
    AccessLog, Auth, ConcurrencyLimit, Disposition, Message, Next, Publication, RateLimit, Timeout,
    from_fn,
};
use lepus::{Code, Context, Error, Job, Status, amqp::QueueKind, amqp::Table, reject};
use lepus_tests::jobs::{JobFixture, header, next, policy, queue};
use lepus_tests::{Env, conformance};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

conformance!(
    a_layer_tells_the_outcomes_of_jobs_apart,
    a_dropped_job_is_seen_to_be_cancelled,
    a_layer_answers_in_place_of_the_handler,
    claims_of_a_layer_reach_the_handler_of_a_job,
    a_task_passes_the_layers_of_its_pool,
    a_shared_limit_holds_for_jobs,
    a_panicking_layer_is_a_failed_attempt,
    layers_of_a_producer_add_headers_and_answer,
    each_of_many_pushes_passes_the_layers,
    a_push_ends_with_its_deadline_whatever_its_layers_do,
);

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A layer that tells the end of each message.
macro_rules! telling {
    ($tell:expr) => {{
        let tell = $tell.clone();
        from_fn(move |message: Message, next: Next<Message>| told(tell.clone(), message, next))
    }};
}

/// Tells that it was dropped, unless it is forgotten.
struct Cancelled(mpsc::UnboundedSender<String>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.send("cancelled".to_owned()).ok();
    }
}

async fn told(
    tell: mpsc::UnboundedSender<String>,
    message: Message,
    next: Next<Message>,
) -> Verdict {
    let (source, attempts) = (message.source().to_owned(), message.attempts());
    let cancelled = Cancelled(tell.clone());
    let verdict = next.run(message).await;
    std::mem::forget(cancelled);
    let outcome = match verdict.outcome() {
        VerdictOutcome::Done => "done".to_owned(),
        VerdictOutcome::Failed { error, .. } => format!("failed: {error}"),
        VerdictOutcome::UnknownTask { error } => format!("unknown: {error}"),
        VerdictOutcome::TimedOut => "stopped".to_owned(),
        VerdictOutcome::Panicked(text) => format!("panicked: {text}"),
        other => format!("{other:?}"),
    };
    let disposition = match attempts.disposition(&verdict) {
        Disposition::Acknowledged => "acknowledged",
        Disposition::Retried => "retried",
        Disposition::DeadLettered { reason } => reason,
        other => panic!("{other:?}"),
    };
    let (number, limit) = (attempts.number(), attempts.limit());
    let line = format!("{source} {number}/{limit}: {outcome}, {disposition}");
    tell.send(line).expect("the test listens");
    verdict
}

async fn handle(job: Job<String>) -> Result<(), JobError> {
    match job.payload().as_str() {
        "fail" => Err(lepus::retry("busy")),
        "reject" => Err(reject("no image")),
        "panic" => panic!("boom"),
        "hold" => std::future::pending().await,
        _ => Ok(()),
    }
}

async fn a_layer_tells_the_outcomes_of_jobs_apart(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("told", QueueKind::Classic).retry(policy(2, 10));
    let (tell, mut told) = mpsc::unbounded_channel();
    let pool = queue.worker(&fixture.connection);
    let limit = Timeout::new(Duration::from_millis(50));
    let pool = pool
        .layer(limit)
        .layer(telling!(tell))
        .layer(AccessLog::new());
    let running = pool.start(handle).await.expect("a pool");
    let producer = queue.producer(&fixture.connection);
    let panics = fixture.connection.stats().panics;
    for (job, lines) in [
        ("fine", &["1/2: done, acknowledged"][..]),
        (
            "fail",
            &["1/2: failed: busy, retried", "2/2: failed: busy, attempts"],
        ),
        ("reject", &["1/2: failed: no image, rejected"]),
        (
            "panic",
            &[
                "1/2: panicked: boom, retried",
                "2/2: panicked: boom, attempts",
            ],
        ),
        ("hold", &["1/2: stopped, retried", "2/2: stopped, attempts"]),
    ] {
        producer.push(&job.to_owned()).await.expect("pushed");
        for line in lines {
            assert_eq!(next(&mut told).await, format!("told {line}"));
        }
    }
    running.stop().await.expect("a drained pool");
    assert_eq!(fixture.connection.stats().panics - panics, 2);
    // What is moved to the dead letters is what the layers were told.
    let dead_letters = queue.dead_letters(&fixture.connection);
    let letters = dead_letters.list(10).await.expect("dead letters");
    let found: Vec<_> = letters.iter().map(|it| (it.reason(), it.error())).collect();
    let expected = [
        ("attempts", "busy"),
        ("rejected", "no image"),
        ("attempts", "panicked: boom"),
        ("attempts", "stopped at its deadline"),
    ];
    assert_eq!(found, expected);
    fixture.delete_queues(&["told"]).await;
}

async fn a_dropped_job_is_seen_to_be_cancelled(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("cancelled", QueueKind::Classic);
    let (tell, mut told) = mpsc::unbounded_channel();
    let started = Arc::new(Semaphore::new(0));
    let pool = queue.worker(&fixture.connection).grace(Duration::ZERO);
    let handler = {
        let started = Arc::clone(&started);
        move |job: Job<String>| {
            started.add_permits(1);
            handle(job)
        }
    };
    let running = pool
        .layer(telling!(tell))
        .start(handler)
        .await
        .expect("a pool");
    let producer = queue.producer(&fixture.connection);
    producer.push(&"hold".to_owned()).await.expect("pushed");
    started.acquire().await.expect("open").forget();
    running.stop().await.expect("stopped");
    assert_eq!(next(&mut told).await, "cancelled");
    fixture.delete_queues(&["cancelled"]).await;
}

async fn a_layer_answers_in_place_of_the_handler(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("answered", QueueKind::Classic).retry(policy(2, 10));
    let (tell, mut told) = mpsc::unbounded_channel();
    let answer = from_fn(async |message: Message, next: Next<Message>| {
        match message.header("answer").and_then(|answer| answer.as_str()) {
            Some("done") => Verdict::done(),
            Some("reject") => reject("no tenant").into(),
            Some(other) => lepus::retry(other.to_owned()).into(),
            None => next.run(message).await,
        }
    });
    let pool = queue
        .worker(&fixture.connection)
        .layer(answer)
        .layer(telling!(tell));
    let running = pool.start(handle).await.expect("a pool");
    let producer = queue.producer(&fixture.connection);
    for (answer, lines) in [
        ("done", &["1/2: done, acknowledged"][..]),
        ("reject", &["1/2: failed: no tenant, rejected"]),
        (
            "later",
            &[
                "1/2: failed: later, retried",
                "2/2: failed: later, attempts",
            ],
        ),
    ] {
        // The handler would panic.
        let push = producer.push(&"panic".to_owned()).header("answer", answer);
        push.await.expect("pushed");
        for line in lines {
            assert_eq!(next(&mut told).await, format!("answered {line}"));
        }
    }
    running.stop().await.expect("a drained pool");
    fixture.delete_queues(&["answered"]).await;
}

struct Claims(String);

fn check(headers: &Table) -> Result<Claims, Status> {
    match headers
        .get("authorization")
        .and_then(|token| token.as_str())
    {
        Some(token) => Ok(Claims(token.to_owned())),
        None => Err(Status::new(Code::Unauthenticated, "a token is needed")),
    }
}

async fn claims_of_a_layer_reach_the_handler_of_a_job(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("claims", QueueKind::Quorum);
    let (tell, mut told) = mpsc::unbounded_channel();
    let (seen, mut claims) = mpsc::unbounded_channel();
    let handler = move |job: Job<String>| {
        let seen = seen.clone();
        async move {
            let context = Context::current();
            let claims = context.get::<Claims>().map(|claims| claims.0.clone());
            let tenant = job.header("x-tenant").cloned();
            seen.send((claims, tenant)).expect("the test listens");
        }
    };
    let tenant = from_fn(async |message: Message, next: Next<Message>| {
        next.run(message.with_header("x-tenant", "meadow")).await
    });
    let pool = queue.worker(&fixture.connection).layer(Auth::new(check));
    let pool = pool.layer(tenant).layer(telling!(tell));
    let running = pool.start(handler).await.expect("a pool");
    let producer = queue.producer(&fixture.connection);
    let job = "job".to_owned();
    producer
        .push(&job)
        .header("authorization", "hare")
        .await
        .expect("pushed");
    assert_eq!(
        next(&mut claims).await,
        (Some("hare".to_owned()), Some("meadow".into()))
    );
    assert_eq!(next(&mut told).await, "claims 1/5: done, acknowledged");
    producer.push(&job).await.expect("pushed");
    let refused = "failed: unauthenticated: a token is needed, rejected";
    assert_eq!(next(&mut told).await, format!("claims 1/5: {refused}"));
    running.stop().await.expect("a drained pool");
    fixture.delete_queues(&["claims"]).await;
}

#[lepus::tasks]
trait Images {
    async fn resize(&self, id: u64) -> Result<(), std::io::Error>;
}

struct Disk;

impl Images for Disk {
    async fn resize(&self, id: u64) -> Result<(), std::io::Error> {
        if id == 13 {
            Err(std::io::Error::other("no disk"))
        } else {
            Ok(())
        }
    }
}

async fn a_task_passes_the_layers_of_its_pool(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let pool = lepus::jobs::TaskPool::new(&fixture.connection, ImagesWorker::new(Disk));
    let types = {
        let tell = tell.clone();
        from_fn(move |message: Message, next: Next<Message>| {
            let tell = tell.clone();
            async move {
                let task = message.message_type().unwrap_or_default().to_owned();
                let by = message.header("by").and_then(|by| by.as_str());
                let line = format!("{task} by {}", by.unwrap_or_default());
                tell.send(line).expect("the test listens");
                next.run(message).await
            }
        })
    };
    let pool = pool.retry(policy(1, 10)).layer(telling!(tell)).layer(types);
    let running = pool.start().await.expect("a pool");
    let producer = lepus::jobs::TaskProducer::new(&fixture.connection, ImagesProducer::DESCRIPTOR);
    let producer = ImagesProducer::with_producer(producer.layer(from_fn(signed)));
    for (id, line) in [(7, "done, acknowledged"), (13, "failed: no disk, attempts")] {
        producer.resize(id).await.expect("pushed");
        assert_eq!(next(&mut told).await, "resize by hare");
        assert_eq!(next(&mut told).await, format!("images 1/1: {line}"));
    }
    running.stop().await.expect("a drained pool");
    fixture.delete_queues(&["images"]).await;
}

async fn signed(push: Publication, next: Next<Publication>) -> Result<(), Error> {
    next.run(push.with_header("by", "hare")).await
}

async fn a_shared_limit_holds_for_jobs(env: Env) {
    let fixture = JobFixture::open(env).await;
    let (limit, gate) = (ConcurrencyLimit::new(2), Arc::new(Semaphore::new(0)));
    let (tell, mut told) = mpsc::unbounded_channel();
    let running_now = Arc::new(AtomicUsize::new(0));
    let names = ["limited.a", "limited.b"];
    let mut pools = Vec::new();
    for name in names {
        let queue = queue::<u32>(name, QueueKind::Classic);
        let (gate, tell) = (Arc::clone(&gate), tell.clone());
        let running_now = Arc::clone(&running_now);
        let handler = move |_: Job<u32>| {
            let (gate, tell) = (Arc::clone(&gate), tell.clone());
            let running_now = Arc::clone(&running_now);
            async move {
                let now = running_now.fetch_add(1, Ordering::SeqCst) + 1;
                tell.send(now).expect("the test listens");
                gate.acquire().await.expect("open").forget();
                running_now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let pool = queue.worker(&fixture.connection).concurrency(8);
        // A rate that is never reached lets all jobs pass.
        let pool = pool.layer(limit.clone()).layer(RateLimit::new(1000, HOUR));
        pools.push(pool.start(handler).await.expect("a pool"));
        let producer = queue.producer(&fixture.connection);
        for pushed in producer.push_all(&[1, 2, 3, 4]).await {
            pushed.expect("pushed");
        }
    }
    assert_eq!((next(&mut told).await, next(&mut told).await), (1, 2));
    gate.add_permits(8);
    for _ in 2..8 {
        assert!(next(&mut told).await <= 2);
    }
    for pool in pools {
        pool.stop().await.expect("a drained pool");
    }
    fixture.delete_queues(&names).await;
}

async fn a_panicking_layer_is_a_failed_attempt(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("torn", QueueKind::Classic).retry(policy(2, 10));
    let (tell, mut told) = mpsc::unbounded_channel();
    let torn = from_fn(async |message: Message, next: Next<Message>| {
        assert!(message.attempts().number() > 1, "torn");
        next.run(message).await
    });
    let pool = queue
        .worker(&fixture.connection)
        .layer(telling!(tell))
        .layer(torn);
    let running = pool.start(handle).await.expect("a pool");
    let producer = queue.producer(&fixture.connection);
    producer.push(&"fine".to_owned()).await.expect("pushed");
    assert_eq!(next(&mut told).await, "torn 2/2: done, acknowledged");
    running.stop().await.expect("a drained pool");
    fixture.delete_queues(&["torn"]).await;
}

async fn layers_of_a_producer_add_headers_and_answer(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("signed", QueueKind::Classic);
    let (tell, mut told) = mpsc::unbounded_channel();
    let telling = from_fn(move |push: Publication, next: Next<Publication>| {
        let tell = tell.clone();
        async move {
            let (to, bytes) = (push.destination().to_owned(), push.body().len());
            let result = next.run(push).await;
            let end = result.as_ref().map_err(Error::grpc_code).copied();
            tell.send((to, bytes, end)).expect("the test listens");
            result
        }
    });
    let answering = from_fn(async |push: Publication, next: Next<Publication>| {
        match push.header("answer").and_then(|answer| answer.as_str()) {
            Some("refuse") => Err(Status::new(Code::PermissionDenied, "not yours").into()),
            Some("reserved") => next.run(push.with_header("x-death", 1_i64)).await,
            _ => next.run(push.with_header("by", "hare")).await,
        }
    });
    let producer = queue.producer(&fixture.connection);
    let producer = producer
        .layer(answering)
        .layer(telling)
        .layer(AccessLog::new());
    let job = "job".to_owned();
    producer
        .push(&job)
        .header("mine", "x")
        .await
        .expect("pushed");
    let told_of = |end| ("signed".to_owned(), 4, end);
    assert_eq!(next(&mut told).await, told_of(Ok(())));
    let name = fixture.full("signed");
    let stored = fixture.raw.get(&name).await.expect("a job");
    let properties = &stored.properties;
    assert_eq!(
        (header(properties, "by"), header(properties, "mine")),
        ("hare".into(), "x".into())
    );

    let refused = producer.push(&job).header("answer", "refuse").await;
    assert_eq!(
        refused.expect_err("refused").code(),
        Some(Code::PermissionDenied)
    );
    assert_eq!(next(&mut told).await, told_of(Err(Code::PermissionDenied)));
    let reserved = producer.push(&job).header("answer", "reserved").await;
    let error = reserved.expect_err("refused");
    assert!(
        error.is_invalid() && error.to_string().contains("x-death"),
        "{error}"
    );
    assert_eq!(fixture.raw.count(&name).await.messages, 0);

    // A job with a delay passes them as well.
    let soon = Duration::from_millis(10);
    producer.push(&job).delay(soon).await.expect("pushed");
    fixture.raw.until_messages(&name, 1).await;
    let stored = fixture.raw.get(&name).await.expect("a job");
    assert_eq!(header(&stored.properties, "by"), "hare");
    fixture.delete_queues(&["signed"]).await;
}

async fn each_of_many_pushes_passes_the_layers(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<u32>("many", QueueKind::Classic);
    let passed = Arc::new(AtomicUsize::new(0));
    let counting = {
        let passed = Arc::clone(&passed);
        from_fn(move |push: Publication, next: Next<Publication>| {
            passed.fetch_add(1, Ordering::SeqCst);
            next.run(push.with_header("by", "hare"))
        })
    };
    let producer = queue.producer(&fixture.connection).layer(counting);
    let jobs: Vec<u32> = (0..3000).collect();
    let results = producer.push_all(&jobs).await;
    assert_eq!(results.len(), jobs.len());
    for result in results {
        result.expect("pushed");
    }
    assert_eq!(passed.load(Ordering::SeqCst), jobs.len());
    let name = fixture.full("many");
    fixture.raw.until_messages(&name, 3000).await;
    let first = fixture.raw.get(&name).await.expect("a job");
    assert_eq!(header(&first.properties, "by"), "hare");
    fixture.delete_queues(&["many"]).await;
}

async fn a_push_ends_with_its_deadline_whatever_its_layers_do(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = queue::<String>("held", QueueKind::Classic);
    let hold = from_fn(async |push: Publication, _: Next<Publication>| {
        std::future::pending::<()>().await;
        drop(push);
        Ok(())
    });
    let producer = queue.producer(&fixture.connection);
    let (held, limited) = (producer.clone().layer(hold), RateLimit::new(1, HOUR));
    let error = held
        .push(&"job".to_owned())
        .timeout(Duration::from_millis(50))
        .await;
    let error = error.expect_err("held");
    assert!(
        error.is_timeout() && error.to_string().contains("held") && !error.may_have_executed(),
        "{error}"
    );
    // A turn that comes after the deadline is not waited for.
    let limited = producer.layer(limited);
    limited.push(&"job".to_owned()).await.expect("pushed");
    let error = limited.push(&"job".to_owned()).await.expect_err("limited");
    assert_eq!(error.code(), Some(Code::ResourceExhausted), "{error}");
    fixture.delete_queues(&["held"]).await;
}
