//! `bench`: counts that add up, and a broker that is left as it was.

use lepus_tests::process::{Program, Signal};
use lepus_tests::{Env, conformance, eventually};

use crate::lepus::{at, run};
use crate::workshop::Served;

#[track_caller]
fn is_clean(env: &Env) {
    if let Some(broker) = env.embedded() {
        let queues = broker.queues();
        let left: Vec<_> = queues
            .iter()
            .filter(|queue| queue.name.contains("lepus-bench"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn calls_are_measured(env: Env) {
    let measured = run(
        &env,
        &["bench", "rpc", "--calls", "200", "-c", "8", "-o", "json"],
    )
    .await
    .json();
    assert_eq!(
        (measured["count"].as_u64(), &measured["failures"]),
        (Some(200), &serde_json::json!({}))
    );
    is_clean(&env);
    let text = run(
        &env,
        &["bench", "rpc", "--calls", "200", "--coalesce", "16"],
    )
    .await
    .ok();
    assert!(text.starts_with("200 calls, 64 at a time, in "), "{text}");
    assert!(text.contains("p99") && text.contains('#'), "{text}");
    let served = Served::start(&env).await;
    let square = [
        "bench",
        "rpc",
        "workshop.square",
        "7",
        "--calls",
        "50",
        "-o",
        "json",
    ];
    assert_eq!(run(&env, &square).await.json()["count"], 50);
    run(&env, &["bench", "rpc", "workshop.missing"])
        .await
        .failed(69, &["not_found"]);
    run(&env, &["bench", "rpc", "nobody.square"])
        .await
        .failed(4, &["no queue"]);
    served.stop().await;
}

async fn jobs_are_measured(env: Env) {
    let lines = run(
        &env,
        &["bench", "jobs", "--jobs", "200", "-c", "8", "-o", "jsonl"],
    )
    .await
    .ok();
    let counts = lines.lines().map(|line| {
        let measured: serde_json::Value = serde_json::from_str(line).expect("JSON");
        measured["count"].as_u64()
    });
    assert_eq!(
        counts.collect::<Vec<_>>(),
        [Some(200), Some(200)],
        "{lines}"
    );
    let text = run(&env, &["bench", "jobs", "--jobs", "100", "--classic"])
        .await
        .ok();
    assert!(
        text.contains("100 pushes, 64 at a time,") && text.contains("100 jobs handled"),
        "{text}"
    );
    is_clean(&env);
}

async fn an_interrupted_bench_leaves_nothing(env: Env) {
    let mut command = at(&env);
    // With a log, which tells when it is under way.
    command.args(["-v", "bench", "jobs", "--jobs", "100000000"]);
    let bench = Program::spawn(&mut command);
    eventually("connected", || async {
        bench.printed().contains("connected to the broker")
    })
    .await;
    bench.signal(Signal::INT);
    let ended = bench.ended().await;
    assert_eq!(ended.status.code(), Some(130), "{}", ended.printed);
    is_clean(&env);
}

conformance!(
    calls_are_measured,
    jobs_are_measured,
    an_interrupted_bench_leaves_nothing,
);
