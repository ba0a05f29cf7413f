//! Faults of processes and runtimes: handlers that block their thread, processes that are
//! stopped and go on, runtimes that end. The numbers in the names are rows of the table in
//! docs/reliability.md.

use lepus::{Code, Connection, Context, Server};
use lepus_tests::env::{self, On};
use lepus_tests::eventually::within;
use lepus_tests::probe::{ProbeClient, RpcFixture, Subject, is_settled, serve, serve_concurrently};
use lepus_tests::process::{Program, Signal};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::process::Command;

conformance!(
    row_40_handlers_that_block_every_thread_cost_no_heartbeat,
    row_54_callers_of_a_killed_process_are_answered_by_another,
    row_54_a_call_that_is_not_idempotent_is_not_run_again,
    a_rolling_deploy_loses_no_call_and_runs_none_twice,
    row_55_a_process_that_was_stopped_answers_nothing_twice,
    row_63_calls_end_with_the_runtime_of_their_connection,
    row_63_a_server_leaves_with_its_runtime,
);

mod on_one_thread {
    use super::*;

    #[tokio::test]
    async fn row_40_embedded() {
        let name = "on_one_thread::row_40_embedded";
        env::run(
            On::Embedded,
            name,
            row_40_handlers_that_block_every_thread_cost_no_heartbeat,
        )
        .await;
    }

    #[tokio::test]
    async fn row_40_rabbitmq() {
        let name = "on_one_thread::row_40_rabbitmq";
        env::run(
            On::RabbitMq,
            name,
            row_40_handlers_that_block_every_thread_cost_no_heartbeat,
        )
        .await;
    }
}

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(40);
const HEARTBEAT: Duration = SECOND;

#[lepus::service(name = "blocker")]
trait Blocker {
    /// Blocks its thread; says whether it ran before.
    async fn block(&self, millis: u64) -> bool;
}

#[derive(Default)]
struct Thoughtless {
    runs: AtomicU32,
}

impl Blocker for Thoughtless {
    async fn block(&self, millis: u64) -> bool {
        self.runs.fetch_add(1, Ordering::SeqCst);
        // The fault itself: a handler that holds its thread.
        std::thread::sleep(Duration::from_millis(millis));
        Context::current().redelivered()
    }
}

async fn row_40_handlers_that_block_every_thread_cost_no_heartbeat(env: Env) {
    const CALLS: u32 = 8;
    let open = || env.builder().heartbeat(HEARTBEAT).open();
    let (serving, calling) = (open().await.unwrap(), open().await.unwrap());
    env.name("blocker");
    let blocker = Arc::new(Thoughtless::default());
    let concurrency = u16::try_from(CALLS).unwrap();
    let service = BlockerServer::from_arc(Arc::clone(&blocker)).concurrency(concurrency);
    let server = Server::new(&serving).serve(service);
    let _server = server.start().await.unwrap();
    let client = BlockerClient::new(&calling);
    // On one thread they block it in turn; it is long enough for a dead link either way.
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let block = if threads == 1 { 1_000 } else { 4_000 };
    let troubles = [&serving, &calling].map(|connection| {
        let mut state = connection.state();
        tokio::spawn(async move {
            let trouble = state.wait_for(|state| !state.is_connected()).await;
            trouble.map(|state| format!("{:?}", *state)).ok()
        })
    });
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(client.block(block).timeout(LONG).send().await.unwrap());
    }
    for call in calls {
        assert!(!call.await.unwrap(), "not delivered before");
    }
    assert_eq!(blocker.runs.load(Ordering::SeqCst), CALLS, "each once");
    // A link that was lost would be missed for two heartbeats more at most. No event tells that it was not.
    tokio::time::sleep(2 * HEARTBEAT).await;
    for trouble in troubles {
        assert!(!trouble.is_finished(), "{:?}", trouble.await);
        trouble.abort();
    }
}

fn server(env: &Env, hold: Duration) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe_server"));
    command
        .arg(&env.uri)
        .arg(env.namespace())
        .arg(hold.as_millis().to_string());
    Program::spawn(&mut command)
}

async fn row_54_callers_of_a_killed_process_are_answered_by_another(env: Env) {
    let queue = env.name("probe");
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    let hold = Duration::from_millis(50);
    let mut killed = server(&env, hold);
    killed.line_with("ready").await;
    let mut calls = tokio::task::JoinSet::new();
    for id in 0..20 {
        let probe = probe.clone();
        calls.spawn(async move { (id, probe.hold_idempotent(id).timeout(LONG).await) });
    }
    killed.line_with("run").await;
    let mut other = server(&env, hold);
    other.line_with("ready").await;
    // In the middle of one, whichever it is.
    killed.line_with("run").await;
    killed.signal(Signal::KILL);
    let ended = killed.ended().await;
    while let Some(call) = calls.join_next().await {
        let (id, reply) = call.unwrap();
        assert_eq!(reply.unwrap(), id);
    }
    is_settled(&env, &queue).await;
    assert_eq!(calling.stats().pending_calls, 0);
    other.signal(Signal::TERM);
    let ended_other = other.ended().await;
    assert!(ended_other.status.success(), "{}", ended_other.printed);
    let lines = ended_other.printed.lines();
    let again: Vec<&str> = lines.filter(|line| line.ends_with(" true")).collect();
    // What the other had in hand, which is one at a time, and nothing else.
    assert!(again.len() <= 1, "{again:?}\n{}", ended.printed);
}

async fn row_54_a_call_that_is_not_idempotent_is_not_run_again(env: Env) {
    let queue = env.name("probe");
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    let mut killed = server(&env, LONG);
    killed.line_with("ready").await;
    let begun = probe.hold(1).timeout(LONG).send().await.unwrap();
    killed.line_with("run 1").await;
    let queued = probe.hold(2).timeout(LONG).send().await.unwrap();
    let mut other = server(&env, Duration::ZERO);
    other.line_with("ready").await;
    killed.signal(Signal::KILL);
    let error = begun.await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Aborted), "{error}");
    assert!(error.may_have_executed(), "{error}");
    assert_eq!(queued.await.unwrap(), 2);
    killed.ended().await;
    is_settled(&env, &queue).await;
    other.signal(Signal::TERM);
    let printed = other.ended().await.printed;
    assert!(!printed.contains("run 1"), "{printed}");
}

/// Servers are replaced one after the other under load: each is asked to end when the next one serves.
async fn a_rolling_deploy_loses_no_call_and_runs_none_twice(env: Env) {
    const CALLERS: u32 = 8;
    const DEPLOYS: usize = 4;
    let queue = env.name("probe");
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    let hold = Duration::from_millis(5);
    let mut serving = server(&env, hold);
    serving.line_with("ready").await;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (probe, over) = (probe.clone(), Arc::clone(&over));
        callers.spawn(async move {
            let mut calls = 0;
            while !over.load(Ordering::SeqCst) {
                let id = caller + CALLERS * calls;
                assert_eq!(probe.hold(id).timeout(LONG).await.unwrap(), id);
                calls += 1;
            }
            calls
        });
    }
    let mut printed = String::new();
    for _ in 0..DEPLOYS {
        for _ in 0..10 {
            serving.line_with("run").await;
        }
        let mut next = server(&env, hold);
        next.line_with("ready").await;
        serving.signal(Signal::TERM);
        let ended = std::mem::replace(&mut serving, next).ended().await;
        assert!(ended.status.success(), "{}", ended.printed);
        printed += &ended.printed;
    }
    over.store(true, Ordering::SeqCst);
    let mut calls = 0;
    while let Some(caller) = callers.join_next().await {
        calls += caller.unwrap();
    }
    is_settled(&env, &queue).await;
    serving.signal(Signal::TERM);
    printed += &serving.ended().await.printed;
    let mut runs: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("run "))
        .collect();
    let count = runs.len();
    runs.sort_unstable();
    runs.dedup();
    assert_eq!((count, runs.len()), (calls as usize, calls as usize));
    assert!(runs.iter().all(|run| run.ends_with(" false")));
    println!(
        "{DEPLOYS} deploys under {CALLERS} callers: {calls} calls, {count} runs, none redelivered"
    );
}

async fn row_55_a_process_that_was_stopped_answers_nothing_twice(env: Env) {
    let queue = env.name("probe");
    let calling = env.connect().await;
    let probe = ProbeClient::new(&calling);
    let mut frozen = server(&env, SECOND);
    frozen.line_with("ready").await;
    let call = probe.hold_idempotent(7).timeout(LONG);
    let call = call.send().await.unwrap();
    frozen.line_with("run 7 false").await;
    // In the middle of the handler, and longer than the broker waits for a heartbeat.
    frozen.signal(Signal::STOP);
    let stopped = Instant::now();
    let mut other = server(&env, Duration::ZERO);
    other.line_with("ready").await;
    let line = other.line_with("run 7").await;
    assert_eq!(
        line, "run 7 true",
        "it is told that this is the second time"
    );
    assert_eq!(call.await.unwrap(), 7);
    println!(
        "{}: answered by another after {:?}",
        env.server.product,
        stopped.elapsed()
    );
    frozen.signal(Signal::CONT);
    let raw = Raw::open(&env.uri).await;
    within("both consume", LONG, || async {
        let counts = raw.count(&queue).await;
        if counts.consumers == 2 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
    // What it had in hand is void: no second answer, nothing acknowledged that others have.
    for n in 0..20 {
        let text = n.to_string();
        let reply = probe.echo(text.clone()).timeout(LONG).await;
        assert_eq!(reply.unwrap(), text);
    }
    is_settled(&env, &queue).await;
    assert_eq!(calling.stats().dropped_replies, 0);
    assert_eq!(calling.stats().pending_calls, 0);
    for program in [frozen, other] {
        program.signal(Signal::TERM);
        program.succeeded().await;
    }
    eventually("no consumer is left", || async {
        raw.count(&queue).await.consumers == 0
    })
    .await;
}

/// A runtime on a thread of its own, for a test that ends it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Opens a connection whose tasks run on `runtime`.
async fn open_on(runtime: &tokio::runtime::Runtime, env: &Env) -> Connection {
    let opening = runtime.spawn(env.builder().open());
    opening.await.unwrap().expect("a connection")
}

async fn row_63_calls_end_with_the_runtime_of_their_connection(env: Env) {
    let other = runtime();
    let calling = open_on(&other, &env).await;
    let fixture = RpcFixture::over(&env, env.connect().await, calling).await;
    let call = fixture.probe.hold(1).timeout(LONG).send().await.unwrap();
    let idempotent = fixture.probe.hold_idempotent(2).timeout(LONG);
    let idempotent = idempotent.send().await.unwrap();
    fixture.subject.gate.entered(1).await;
    other.shutdown_background();
    for error in [call.await.unwrap_err(), idempotent.await.unwrap_err()] {
        let error = error.rpc().unwrap();
        assert!(error.is_closed() && error.may_have_executed(), "{error}");
    }
    // And there are no more.
    let error = fixture.probe.echo("late".into()).timeout(LONG).await;
    let error = error.unwrap_err();
    let error = error.rpc().unwrap();
    assert!(error.is_closed() && !error.may_have_executed(), "{error}");
    assert_eq!(fixture.calling.stats().pending_calls, 0);
    fixture.subject.gate.open_for_good();
}

async fn row_63_a_server_leaves_with_its_runtime(env: Env) {
    let other = runtime();
    let serving = open_on(&other, &env).await;
    let subject = Arc::new(Subject::default());
    let queue = env.name("probe");
    let calling = env.connect().await;
    let server = serve_concurrently(&serving, &subject, 2).start();
    let server = server.await.unwrap();
    let probe = ProbeClient::new(&calling);
    let hold = |id| probe.hold_idempotent(id).timeout(LONG).send();
    let calls = [hold(1).await.unwrap(), hold(2).await.unwrap()];
    subject.gate.entered(2).await;
    other.shutdown_background();
    subject.gate.left(2).await;
    // Its handles may well outlive it: what it had goes back all the same.
    let raw = Raw::open(&env.uri).await;
    eventually("no orphan", || async {
        let counts = raw.count(&queue).await;
        if counts.consumers == 0 {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
    drop((server, serving));
    subject.gate.open_for_good();
    let next = env.connect().await;
    let _server = serve(&next, &subject).start().await.unwrap();
    for (call, id) in calls.into_iter().zip([1, 2]) {
        assert_eq!(call.await.unwrap(), id);
    }
    is_settled(&env, &queue).await;
}
