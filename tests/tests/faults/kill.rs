//! No confirmed job is lost: workers are killed, connections are cut, and the books must balance.
//!
//! `LEPUS_KILL_JOBS` is the number of jobs, `LEPUS_KILL_SEED` what the faults are drawn from.

use lepus::{WorkQueue, amqp::QueueKind, jobs::Producer};
use lepus_tests::eventually::within as eventually_within;
use lepus_tests::jobs::{JobFixture, WorkerProcesses, queue};
use lepus_tests::process::{Program, Signal};
use lepus_tests::proxy::{Cut, Proxy};
use lepus_tests::{Env, conformance};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

conformance!(quorum_queues_lose_nothing, classic_queues_lose_nothing);

const WORKER: &str = env!("CARGO_BIN_EXE_jobs_worker");
const PREFETCH: u16 = 10;
const WORKERS: usize = 2;
/// Faults at the least, however quick the jobs are done.
const ROUNDS: u32 = 12;

async fn quorum_queues_lose_nothing(env: Env) {
    run(env, QueueKind::Quorum).await;
}

async fn classic_queues_lose_nothing(env: Env) {
    run(env, QueueKind::Classic).await;
}

fn number(variable: &str, default: u32) -> u32 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |value| value.parse().expect(variable))
}

/// SplitMix64: the same faults in the same order for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[derive(Debug, Default)]
struct Book {
    jobs: u32,
    kills: u32,
    worker_cuts: u32,
    producer_cuts: u32,
    /// Pushes whose confirm was lost: made again, so that the job may be there twice.
    unconfirmed: u32,
    done: HashMap<u32, u32>,
}

/// The job a worker says it has done.
fn done(line: &str) -> Option<u32> {
    let job = line.strip_prefix("done ")?;
    Some(job.parse().expect("a number"))
}

impl Book {
    fn enter(&mut self, lines: Vec<String>) {
        for line in lines {
            if let Some(job) = done(&line) {
                *self.done.entry(job).or_default() += 1;
            }
        }
    }

    fn duplicates(&self) -> u32 {
        self.done.values().map(|times| times - 1).sum()
    }

    /// The most jobs that are done again: those in hand at each fault, and nothing else.
    fn bound(&self) -> u32 {
        let cut = self.worker_cuts * WORKERS as u32;
        u32::from(PREFETCH) * (self.kills + cut) + self.unconfirmed
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} jobs, {} kills, {} + {} cuts, {} pushes unconfirmed: {} done, {} duplicates of at most {}",
            self.jobs,
            self.kills,
            self.worker_cuts,
            self.producer_cuts,
            self.unconfirmed,
            self.done.len(),
            self.duplicates(),
            self.bound(),
        )
    }
}

async fn run(env: Env, kind: QueueKind) {
    let (jobs, seed) = (
        number("LEPUS_KILL_JOBS", 2000),
        number("LEPUS_KILL_SEED", 7),
    );
    let fixture = JobFixture::open(env).await;
    let began = Instant::now();
    let queue: WorkQueue<String> = queue("jobs", kind);
    let (producing, working) = (
        Proxy::start(&fixture.env.uri).await,
        Proxy::start(&fixture.env.uri).await,
    );
    let mut processes = WorkerProcesses::new(WORKER, &fixture.env, "jobs", kind);
    processes.uri = working.uri().to_owned();
    (processes.concurrency, processes.attempts) = (PREFETCH, 100);

    let unconfirmed = Arc::new(AtomicU32::new(0));
    let connection = fixture.env.connect_at(producing.uri()).await;
    let producer = queue.producer(&connection);
    let mut pushing = push_all(&producer, jobs, &unconfirmed);
    let mut book = Book {
        jobs,
        ..Book::default()
    };
    let mut dice = Dice(seed.into());
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(processes.start().await);
    }
    let mut round = 0;
    while round < ROUNDS || !pushing.is_empty() {
        round += 1;
        // The pace of the faults: nothing is waited for.
        tokio::time::sleep(Duration::from_millis(30 + dice.below(200))).await;
        match dice.below(8) {
            0..4 => {
                let at = dice.below(WORKERS as u64) as usize;
                book.kills += 1;
                book.enter(kill(workers.remove(at)).await);
                workers.push(processes.start().await);
            }
            4..6 => {
                book.worker_cuts += 1;
                working.cut(if dice.below(2) == 0 {
                    Cut::Rst
                } else {
                    Cut::Fin
                });
            }
            _ => {
                book.producer_cuts += 1;
                producing.cut(if dice.below(2) == 0 {
                    Cut::Rst
                } else {
                    Cut::Fin
                });
            }
        }
        while let Some(pushed) = pushing.try_join_next() {
            pushed.expect("no panic");
        }
    }
    // A queue's count would not do: it leaves out what the killed have in hand until the broker
    // sees their end, and of a quorum queue that has no time to answer it is zero.
    let all = "every job is done";
    eventually_within(all, Duration::from_secs(60), || async {
        let mut now = book.done.keys().copied().collect::<BTreeSet<u32>>();
        for worker in &workers {
            now.extend(worker.printed().lines().filter_map(done));
        }
        let missing = (0..jobs).filter(|job| !now.contains(job)).count();
        (missing == 0).then_some(()).ok_or(format!("{missing} not"))
    })
    .await;
    for worker in workers {
        worker.signal(Signal::TERM);
        book.enter(worker.succeeded().await);
    }
    book.unconfirmed = unconfirmed.load(Ordering::SeqCst);
    println!(
        "{} {kind:?}, seed {seed}: {book}, {:.1} s",
        fixture.env.server.product,
        began.elapsed().as_secs_f64()
    );
    let left = fixture.raw.count(&fixture.full("jobs")).await.messages;
    let letters = queue.dead_letters(&fixture.connection);
    assert_eq!(letters.count().await.unwrap(), 0, "nobody gave up a job");
    let lost: Vec<u32> = (0..jobs)
        .filter(|job| !book.done.contains_key(job))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let phantoms: BTreeSet<_> = book.done.keys().filter(|job| **job >= jobs).collect();
    assert!(phantoms.is_empty(), "nobody pushed {phantoms:?}");
    assert!(
        book.duplicates() + left <= book.bound(),
        "{book}, {left} to come"
    );
    connection.close().await;
    fixture.delete_queues(&["jobs"]).await;
}

/// Pushes every job until it is confirmed.
fn push_all(producer: &Producer<String>, jobs: u32, unconfirmed: &Arc<AtomicU32>) -> JoinSet<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (producer, next) = (producer.clone(), next.clone());
        let unconfirmed = unconfirmed.clone();
        tasks.spawn(async move {
            loop {
                let job = next.fetch_add(1, Ordering::SeqCst);
                if job >= jobs {
                    return;
                }
                let text = job.to_string();
                while let Err(error) = producer.push(&text).message_id(&text).await {
                    // A quorum queue rejects while somebody else is still declaring it.
                    let may_be = error.is_unconfirmed() || error.is_disconnected();
                    let may_be = may_be || error.is_timeout();
                    assert!(may_be || error.is_rejected(), "{error:?}");
                    if error.may_have_executed() {
                        unconfirmed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        });
    }
    tasks
}

async fn kill(worker: Program) -> Vec<String> {
    worker.signal(Signal::KILL);
    worker.ended().await.lines
}

/// The judge must be able to say no.
#[test]
fn the_books_do_not_balance_by_themselves() {
    let mut book = Book::default();
    book.enter(
        ["done 1", "done 1", "ready", "done 2"]
            .map(str::to_owned)
            .to_vec(),
    );
    assert_eq!((book.duplicates(), book.bound()), (1, 0));
    book.kills = 1;
    assert_eq!(book.bound(), 10);
}
