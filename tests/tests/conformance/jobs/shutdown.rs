//! Workers that are told to stop, and workers that just stop.

use lepus::{Job, WorkQueue};
use lepus_tests::jobs::{JobFixture, KINDS, WorkerProcesses, next};
use lepus_tests::process::{Program, Signal};
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};

conformance!(
    a_pool_finishes_what_it_has_and_takes_no_more,
    what_outlasts_the_grace_goes_back,
    a_signal_drains_a_process,
    a_second_signal_ends_it_at_once,
    a_process_gives_back_what_outlasts_the_grace,
    a_frozen_worker_does_not_settle_what_others_have,
);

const WORKER: &str = env!("CARGO_BIN_EXE_jobs_worker");

/// No broker is needed for this.
#[tokio::test]
async fn signals_reach_a_program_that_drains_something_else() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut program = Program::spawn(&mut Command::new(env!("CARGO_BIN_EXE_signal_peer")));
        assert_eq!(program.line().await, "ready");
        for line in ["first", "second"] {
            program.signal(signal);
            assert_eq!(program.line().await, line);
        }
        program.signal(signal);
        let ended = program.ended().await;
        assert_eq!(ended.status.code(), Some(code), "{}", ended.printed);
    }
}

async fn push(fixture: &JobFixture, processes: &WorkerProcesses, jobs: &[&str]) {
    let producer = processes.queue().producer(&fixture.connection);
    for job in jobs {
        producer.push(&(*job).to_owned()).await.unwrap();
    }
}

async fn a_pool_finishes_what_it_has_and_takes_no_more(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    let producer = queue.producer(&fixture.connection);
    producer.push_all(&[0, 1, 2, 3]).await;
    let gate = Arc::new(Semaphore::new(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |job: Job<u32>| {
            tell.send("started").unwrap();
            let (gate, tell) = (gate.clone(), tell.clone());
            async move {
                job.cancelled().wait().await;
                tell.send("told").unwrap();
                gate.acquire().await.unwrap().forget();
            }
        }
    };
    let pool = queue.worker(&fixture.connection).concurrency(2);
    let running = pool.start(handler).await.unwrap();
    for _ in 0..2 {
        assert_eq!(next(&mut told).await, "started");
    }
    let stopping = tokio::spawn(running.stop());
    for _ in 0..2 {
        assert_eq!(next(&mut told).await, "told");
    }
    // Its consumer is cancelled by now.
    producer.push(&4).await.unwrap();
    assert!(!stopping.is_finished(), "it waits for what is in hand");
    gate.add_permits(2);
    stopping.await.unwrap().unwrap();
    assert!(told.try_recv().is_err());
    let jobs = fixture.full("jobs");
    fixture.raw.until_messages(&jobs, 3).await;
    // The rest is unharmed: whoever gets it next has it for the first time.
    for _ in 0..3 {
        assert!(!fixture.raw.next(&jobs).await.redelivered);
    }
    fixture.delete_queues(&["jobs"]).await;
}

async fn what_outlasts_the_grace_goes_back(env: Env) {
    let fixture = JobFixture::open(env).await;
    let queue = WorkQueue::<u32>::new("jobs");
    let producer = queue.producer(&fixture.connection);
    producer.push_all(&[0, 1]).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job<u32>| {
        tell.send((*job.payload(), job.attempt())).unwrap();
        async move {
            match (job.payload(), job.attempt()) {
                // One that heeds the signal, and one that never ends.
                (0, _) => job.cancelled().wait().await,
                (_, 1) => std::future::pending().await,
                _ => {}
            }
        }
    };
    let pool = queue.worker(&fixture.connection).concurrency(2);
    let pool = pool.grace(Duration::from_millis(200));
    let running = pool.start(handler.clone()).await.unwrap();
    next(&mut told).await;
    next(&mut told).await;
    running.stop().await.unwrap();
    fixture.raw.until_messages(&fixture.full("jobs"), 1).await;
    let running = queue
        .worker(&fixture.connection)
        .start(handler)
        .await
        .unwrap();
    assert_eq!(next(&mut told).await, (1, 2));
    running.stop().await.unwrap();
    fixture.raw.until_messages(&fixture.full("jobs"), 0).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_signal_drains_a_process(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let mut processes = WorkerProcesses::new(WORKER, &fixture.env, name, kind);
        processes.concurrency = 2;
        push(&fixture, &processes, &["hold", "hold", "1", "2"]).await;
        for signal in [Signal::TERM, Signal::INT] {
            let mut worker = processes.start().await;
            for _ in 0..2 {
                worker.line_with("holding, attempt 1").await;
            }
            worker.signal(signal);
            let lines = worker.succeeded().await;
            assert_eq!(lines, ["held", "held", "drained"], "{name} {signal:?}");
            fixture.raw.until_messages(&fixture.full(name), 2).await;
            // The rest is unharmed: whoever gets it next has it for the first time.
            let rest = processes.queue().getter(&fixture.connection);
            for job in ["1", "2"] {
                let taken = rest.next().await.unwrap().expect("a job");
                assert_eq!(taken.payload().unwrap(), job);
                assert!(!taken.redelivered());
                taken.ack().unwrap();
            }
            push(&fixture, &processes, &["hold", "hold", "1", "2"]).await;
        }
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_second_signal_ends_it_at_once(env: Env) {
    let fixture = JobFixture::open(env).await;
    for (kind, name) in KINDS.into_iter().zip(["quorum", "classic"]) {
        let processes = WorkerProcesses::new(WORKER, &fixture.env, name, kind);
        push(&fixture, &processes, &["forever"]).await;
        let mut worker = processes.start().await;
        worker.line_with("forever, attempt 1").await;
        worker.signal(Signal::TERM);
        assert_eq!(worker.line().await, "told");
        let full = fixture.full(name);
        assert_eq!(fixture.raw.count(&full).await.messages, 0, "still in hand");
        worker.signal(Signal::TERM);
        // Its grace is half a minute, which is more than `succeeded` has patience for.
        assert_eq!(worker.succeeded().await, ["drained"]);
        fixture.raw.until_messages(&full, 1).await;
    }
    fixture.delete_queues(&["quorum", "classic"]).await;
}

async fn a_process_gives_back_what_outlasts_the_grace(env: Env) {
    let fixture = JobFixture::open(env).await;
    let [kind, _] = KINDS;
    let mut processes = WorkerProcesses::new(WORKER, &fixture.env, "jobs", kind);
    (processes.concurrency, processes.grace) = (2, Duration::from_millis(300));
    push(&fixture, &processes, &["forever", "hold"]).await;
    let mut worker = processes.start().await;
    worker.line().await;
    worker.line().await;
    worker.signal(Signal::TERM);
    let mut lines = worker.succeeded().await;
    lines.sort_unstable();
    assert_eq!(lines, ["drained", "held", "told"]);
    fixture.raw.until_messages(&fixture.full("jobs"), 1).await;
    fixture.delete_queues(&["jobs"]).await;
}

async fn a_frozen_worker_does_not_settle_what_others_have(env: Env) {
    let fixture = JobFixture::open(env).await;
    let [kind, _] = KINDS;
    let processes = WorkerProcesses::new(WORKER, &fixture.env, "jobs", kind);
    push(&fixture, &processes, &["hold"]).await;
    let mut first = processes.start().await;
    first.line_with("holding, attempt 1").await;
    first.signal(Signal::STOP);
    // Two heartbeats of a second each, and the broker gives it to somebody else.
    let mut second = processes.start().await;
    assert_eq!(second.line().await, "holding, attempt 2");
    first.signal(Signal::CONT);
    // It learns that its connection is gone, and what it did counts for nothing.
    assert_eq!(first.line().await, "held");
    eventually("both consume", || async {
        fixture.raw.count(&fixture.full("jobs")).await.consumers == 2
    })
    .await;
    second.signal(Signal::KILL);
    second.ended().await;
    assert_eq!(first.line().await, "holding, attempt 3");
    first.signal(Signal::TERM);
    assert_eq!(first.succeeded().await, ["held", "drained"]);
    fixture.raw.until_messages(&fixture.full("jobs"), 0).await;
    fixture.delete_queues(&["jobs"]).await;
}
