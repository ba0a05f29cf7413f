//! `check`: one line, and an exit code that monitoring reads.

use lepus::WorkQueue;
use lepus_tests::{Env, conformance};
use serde_json::json;

use crate::lepus::{Ended, bare, ended, run};
use crate::workshop::{Served, WorkshopClient};

#[track_caller]
fn shows(ended: Ended, code: i32, line: &str) {
    assert_eq!(
        (ended.code, ended.stdout.trim_end()),
        (Some(code), line),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr, "");
}

async fn a_service_is_checked(env: Env) {
    let served = Served::start(&env).await;
    let check = ["check", "service", "workshop"];
    let with = |more: &[&'static str]| {
        let arguments = [&check[..], more].concat();
        let env = &env;
        async move { run(env, &arguments).await }
    };
    shows(
        with(&[]).await,
        0,
        "OK: service `workshop`: 1 instances serving",
    );
    let few = "CRITICAL: service `workshop`: fewer than 2 instances serve, 1 instances serving";
    shows(with(&["--min", "2"]).await, 2, few);
    let report = with(&["--format", "json"]).await.json();
    assert_eq!(report["status"], "OK");
    assert_eq!(
        report["figures"],
        json!([{"name": "instances", "value": 1.0, "unit": ""}])
    );
    let prometheus = with(&["--format", "prometheus"]).await.ok();
    assert!(
        prometheus.contains("lepus_check_status{check=\"service\",name=\"workshop\"} 0\n"),
        "{prometheus}"
    );
    served.stop().await;
    let gone = "CRITICAL: service `workshop`: fewer than 1 instances serve, 0 instances serving";
    shows(with(&[]).await, 2, gone);
}

async fn latencies_are_those_of_a_window(env: Env) {
    let served = Served::start(&env).await;
    let check = async |format: &str, window: &str| {
        let limit = ["--p95", "100ms", "--window", window, "--format", format];
        let arguments = [&["check", "service", "workshop"][..], &limit].concat();
        run(&env, &arguments).await
    };
    // A slow request before the window, and none in it.
    run(&env, &["call", "workshop.pause", "millis=300"])
        .await
        .ok();
    let quiet = check("text", "100ms").await;
    assert_eq!(quiet.code, Some(0), "{}", quiet.stderr);
    let beginning = "OK: service `workshop`: 1 instances serving, no request in ";
    assert!(quiet.stdout.starts_with(beginning), "{}", quiet.stdout);
    // Slow requests in the window.
    let asker = env.connect().await;
    let workshop = WorkshopClient::new(&asker);
    let calls = async {
        loop {
            workshop.pause(300).await.expect("a reply");
        }
    };
    let slow = tokio::select! {
        report = check("json", "2s") => report,
        () = calls => unreachable!("it does not end"),
    };
    assert_eq!(slow.code, Some(2), "{}", slow.stderr);
    let report: serde_json::Value = serde_json::from_str(&slow.stdout).expect("JSON");
    assert_eq!(report["problems"][0]["text"], "p95 is above 100 ms");
    let figures = report["figures"].as_array().expect("figures").iter();
    let names: Vec<&str> = figures.filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["instances", "requests_per_second", "p95_seconds"]);
    let short = check("text", "1ms").await;
    assert_eq!(short.code, Some(1), "{}", short.stderr);
    asker.close().await;
    served.stop().await;
}

async fn a_queue_is_checked(env: Env) {
    for name in ["jobs", "jobs.dead"] {
        // To be deleted at the end of the test.
        let _ = env.name(name);
    }
    let connection = env.connect().await;
    let queue = WorkQueue::<String>::new("jobs");
    let jobs: Vec<String> = (0..3).map(|n| n.to_string()).collect();
    for job in &jobs {
        queue.producer(&connection).push(job).await.expect("a push");
    }
    connection.close().await;
    let check = |more: &'static [&'static str]| {
        let arguments = [&["check", "queue", "jobs"], more].concat();
        let env = &env;
        async move { run(env, &arguments).await }
    };
    let facts = "3 messages ready, 0 consumers";
    shows(check(&[]).await, 0, &format!("OK: queue `jobs`: {facts}"));
    let many = format!("WARNING: queue `jobs`: more than 2 messages are ready, {facts}");
    shows(
        check(&["--warn-ready", "2", "--max-ready", "3"]).await,
        1,
        &many,
    );
    let more = format!("CRITICAL: queue `jobs`: more than 2 messages are ready, {facts}");
    shows(check(&["--max-ready", "2"]).await, 2, &more);
    let nobody = format!("CRITICAL: queue `jobs`: fewer than 1 consumers, {facts}");
    shows(check(&["--min-consumers", "1"]).await, 2, &nobody);
    let missing = run(&env, &["check", "queue", "hare"]).await;
    shows(missing, 2, "CRITICAL: queue `hare`: there is no such queue");
}

#[tokio::test]
async fn a_check_without_a_broker_is_unknown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let mut command = bare();
    command.env("LEPUS_URL", format!("amqp://127.0.0.1:{port}"));
    let checked = ended(command.args(["check", "queue", "jobs", "--format", "nagios"])).await;
    assert_eq!((checked.code, &*checked.stderr), (Some(3), ""));
    assert!(
        checked
            .stdout
            .starts_with("LEPUS UNKNOWN - queue `jobs`: no connection"),
        "{}",
        checked.stdout
    );
}

conformance!(
    a_service_is_checked,
    latencies_are_those_of_a_window,
    a_queue_is_checked
);
