//! The fixture of the suites of work queues, and workers in processes of their own.

use crate::env::Env;
use crate::process::Program;
use crate::raw::Raw;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use lepus::{Connection, Job, RetryPolicy, WorkQueue, amqp::QueueKind};
use std::future::{Ready, ready};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};

/// Both kinds of queue.
pub const KINDS: [QueueKind; 2] = [QueueKind::Quorum, QueueKind::Classic];

/// The delays that the steps of a queue's delay queues are made of, in milliseconds.
const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];

/// A broker, a peer without Lepus on it, and a connection of Lepus's.
#[derive(Debug)]
pub struct JobFixture {
    pub env: Env,
    pub raw: Raw,
    pub connection: Connection,
}

impl JobFixture {
    pub async fn open(env: Env) -> JobFixture {
        let connection = env.connect().await;
        let raw = Raw::open(&env.uri).await;
        JobFixture {
            env,
            raw,
            connection,
        }
    }

    /// A queue's name on the broker.
    pub fn full(&self, queue: &str) -> String {
        format!("{}.{queue}", self.env.namespace())
    }

    /// Deletes these work queues with their dead letters and delays.
    pub async fn delete_queues(self, queues: &[&str]) {
        self.connection.close().await;
        for queue in queues {
            let name = self.full(queue);
            self.raw.delete(&format!("{name}.dead")).await;
            for step in (0..5).flat_map(|power| STEPS.map(|step| step * 10u64.pow(power))) {
                self.raw
                    .delete(&format!("{name}.retry.{}", step / 10))
                    .await;
            }
            self.raw.delete(&name).await;
        }
        self.raw.close().await;
    }
}

/// A queue of either kind.
pub fn queue<T>(name: &str, kind: QueueKind) -> WorkQueue<T> {
    let queue = WorkQueue::new(name);
    if kind == QueueKind::Classic {
        queue.classic()
    } else {
        queue
    }
}

/// So many attempts, so many milliseconds after the first one, then twice as many, without jitter.
pub fn policy(attempts: u32, first: u64) -> RetryPolicy {
    let (first, longest) = (Duration::from_millis(first), Duration::from_secs(60));
    RetryPolicy::default()
        .attempts(attempts)
        .backoff(first, longest)
        .jitter(0.0)
}

/// A header as text; empty when there is none.
pub fn header(properties: &BasicProperties, name: &str) -> String {
    let headers = properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(name)) {
        None => String::new(),
        Some(AMQPValue::LongString(text)) => text.to_string(),
        Some(other) => format!("{other:?}"),
    }
}

/// The next thing a handler tells its test. It is given up on long after the longest pause between
/// two connections.
pub async fn next<T>(told: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), told.recv())
        .await
        .expect("a handler says something within 60 s")
        .expect("a handler is left")
}

/// A handler that hands each payload to the test, for [`next`].
pub fn recorder<T: Send + 'static>() -> (
    impl Fn(Job<T>) -> Ready<()> + Send + Sync + 'static,
    mpsc::UnboundedReceiver<T>,
) {
    let (tell, told) = mpsc::unbounded_channel();
    let handler = move |job: Job<T>| {
        tell.send(job.into_payload()).expect("the test listens");
        ready(())
    };
    (handler, told)
}

/// A job that fails finds its queue full when it comes back, and must come all the same.
pub async fn meet_a_full_queue(
    connection: &Connection,
    raw: &Raw,
    namespace: &str,
    name: &str,
    kind: QueueKind,
) {
    let queue = queue::<u32>(name, kind).max_length(1).retry(policy(3, 50));
    let producer = queue.producer(connection);
    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |job: Job<u32>| {
            let (gate, tell) = (gate.clone(), tell.clone());
            async move {
                let seen = (*job.payload(), job.attempt());
                tell.send(seen).expect("the test listens");
                gate.acquire().await.expect("a gate").forget();
                if seen == (1, 1) { Err("busy") } else { Ok(()) }
            }
        }
    };
    let pool = queue.worker(connection);
    let running = pool.start(handler).await.expect("a pool");
    let push = async |job| producer.push(&job).await.expect("a stored job");
    push(1).await;
    assert_eq!(next(&mut told).await, (1, 1));
    gate.add_permits(1);
    push(2).await;
    assert_eq!(next(&mut told).await, (2, 1));
    push(3).await;
    // Job 1 has waited, and there is no room for it.
    let full = format!("{namespace}.{name}");
    raw.until_messages(&format!("{full}.retry.50"), 0).await;
    assert_eq!(raw.count(&full).await.messages, 1);
    gate.add_permits(3);
    assert_eq!(next(&mut told).await, (3, 1));
    assert_eq!(next(&mut told).await, (1, 2), "{name}");
    running.stop().await.expect("a drained pool");
}

/// `jobs_worker` in a process of its own, ready.
#[derive(Debug)]
pub struct WorkerProcesses {
    program: &'static str,
    pub uri: String,
    pub namespace: String,
    pub queue: String,
    pub kind: QueueKind,
    pub concurrency: u16,
    pub grace: Duration,
    pub attempts: u32,
}

impl WorkerProcesses {
    /// `program` is the test's `env!("CARGO_BIN_EXE_jobs_worker")`.
    pub fn new(program: &'static str, env: &Env, queue: &str, kind: QueueKind) -> WorkerProcesses {
        WorkerProcesses {
            program,
            uri: env.uri.clone(),
            namespace: env.namespace().to_owned(),
            queue: queue.to_owned(),
            kind,
            concurrency: 1,
            grace: Duration::from_secs(30),
            attempts: 3,
        }
    }

    /// The queue that its workers work on.
    pub fn queue(&self) -> WorkQueue<String> {
        queue(&self.queue, self.kind).retry(policy(self.attempts, 10))
    }

    /// One more worker; returns when it takes jobs.
    pub async fn start(&self) -> Program {
        assert!(Path::new(self.program).exists(), "no {}", self.program);
        let kind = match self.kind {
            QueueKind::Classic => "classic",
            _ => "quorum",
        };
        let mut program = Program::spawn(Command::new(self.program).args([
            &self.uri,
            &self.namespace,
            &self.queue,
            kind,
            &self.concurrency.to_string(),
            &self.grace.as_millis().to_string(),
            &self.attempts.to_string(),
        ]));
        assert_eq!(program.line().await, "ready");
        program
    }
}
