//! A worker before a large backlog: its memory is bounded by its prefetch. Row 57 of the table in
//! docs/reliability.md. The worker is a process of its own, so that nothing else is measured.

use lepus::amqp::QueueKind;
use lepus_tests::env::{On, run_within};
use lepus_tests::jobs::{JobFixture, WorkerProcesses};
use lepus_tests::process::{Program, Signal};
use lepus_tests::{Env, eventually};
use std::fs;
use std::time::Duration;

/// A hundred thousand confirms take a while on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    run_within(
        LIMIT,
        On::Embedded,
        "embedded",
        row_57_memory_is_bounded_by_the_prefetch,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq() {
    run_within(
        LIMIT,
        On::RabbitMq,
        "rabbitmq",
        row_57_memory_is_bounded_by_the_prefetch,
    )
    .await;
}

const WORKER: &str = env!("CARGO_BIN_EXE_jobs_worker");
const BACKLOG: usize = 100_000;
const BODY: usize = 1024;
/// By a prefetch that is too large.
const HELD: u16 = 20_000;
/// The bytes that an allocator may add without a job more in hand.
const NOTHING: u64 = 6 * 1024 * 1024;

async fn row_57_memory_is_bounded_by_the_prefetch(env: Env) {
    let fixture = JobFixture::open(env).await;
    let mut processes = WorkerProcesses::new(WORKER, &fixture.env, "backlog", QueueKind::Classic);
    let queue = processes.queue();
    let producer = queue.producer(&fixture.connection);
    let jobs: Vec<String> = (0..BACKLOG / 20)
        .map(|job| format!("{job:0BODY$}"))
        .collect();
    for _ in 0..20 {
        for pushed in producer.push_all(&jobs).await {
            pushed.expect("a stored job");
        }
    }
    let full = fixture.full("backlog");
    fixture.raw.until_messages(&full, BACKLOG as u32).await;

    let mut slow = processes.start().await;
    done(&mut slow, 50).await;
    let before = peak(&slow);
    done(&mut slow, 500).await;
    let growth = peak(&slow) - before;
    let left = fixture.raw.count(&full).await.messages;
    println!(
        "{}: prefetch 1, {left} of {BACKLOG} jobs left: {} KiB, and {} KiB more after 500 jobs",
        fixture.env.server.product,
        before / 1024,
        growth / 1024
    );
    assert!(
        left as usize > BACKLOG - 1_000,
        "{left} left: a backlog all the while"
    );
    assert!(growth < NOTHING, "{growth} bytes");
    slow.signal(Signal::TERM);
    slow.succeeded().await;

    // The measure sees what a large prefetch holds.
    (processes.queue, processes.concurrency) = ("held".into(), HELD);
    let producer = processes.queue().producer(&fixture.connection);
    let jobs = vec![format!("{:BODY$}", "forever"); HELD.into()];
    for pushed in producer.push_all(&jobs).await {
        pushed.expect("a stored job");
    }
    let greedy = processes.start().await;
    let least = u64::from(HELD) * BODY as u64;
    eventually("as much as the jobs it has in hand", || async {
        let growth = peak(&greedy).saturating_sub(before);
        if growth > least { Ok(()) } else { Err(growth) }
    })
    .await;
    greedy.signal(Signal::KILL);
    greedy.ended().await;
    fixture.delete_queues(&["backlog", "held"]).await;
}

async fn done(worker: &mut Program, jobs: usize) {
    for _ in 0..jobs {
        worker.line_with("done").await;
    }
}

/// The most memory that a process has ever had, in bytes.
fn peak(program: &Program) -> u64 {
    let pid = program.pid().expect("a process that runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes
        .and_then(|number| number.parse().ok())
        .expect("a number");
    kibibytes * 1024
}
