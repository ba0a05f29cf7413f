//! The Python peers among themselves, on each broker. What they do there is what
//! Lepus has to do with either of them.

use super::start;
use lepus_tests::process::{Program, Signal, python_is_available};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance};
use std::os::unix::process::ExitStatusExt;

conformance!(
    hello,
    work_queue,
    fanout,
    direct,
    topic,
    fib,
    calls_in_both_codecs,
    jobs,
    events,
);

/// A peer that goes on until it is told; returns when it is ready.
async fn wait_for(env: &Env, script: &str, arguments: &[&str]) -> Program {
    let mut program = start(env, script, arguments);
    let ready = program.line().await;
    assert!(ready.starts_with(" ["), "{ready}");
    program
}

async fn run(env: &Env, script: &str, arguments: &[&str]) -> Vec<String> {
    start(env, script, arguments).succeeded().await
}

/// The tutorial's names are the same everywhere: leave none of them behind.
async fn forget(env: &Env, queue: &str, exchange: &str) {
    let raw = Raw::open(&env.uri).await;
    if !queue.is_empty() {
        raw.delete(queue).await;
    }
    if !exchange.is_empty() {
        raw.delete_exchange(exchange).await;
    }
}

/// A peer that waits goes on until it is told. Not by `INT`, which a child of a
/// background job ignores.
async fn stop(program: Program) {
    program.signal(Signal::TERM);
    let ended = program.ended().await;
    assert_eq!(ended.status.signal(), Some(15), "{}", ended.printed);
}

async fn hello(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut receiver = wait_for(&env, "tutorial/receive.py", &[]).await;
    assert_eq!(
        run(&env, "tutorial/send.py", &[]).await,
        [" [x] Sent 'Hello World!'"]
    );
    assert_eq!(receiver.line().await, " [x] Received 'Hello World!'");
    stop(receiver).await;
    forget(&env, "hello", "").await;
}

async fn work_queue(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut worker = wait_for(&env, "tutorial/worker.py", &[]).await;
    assert_eq!(
        run(&env, "tutorial/new_task.py", &["a", "task"]).await,
        [" [x] Sent 'a task'"]
    );
    assert_eq!(worker.line().await, " [x] Received 'a task'");
    assert_eq!(worker.line().await, " [x] Done");
    stop(worker).await;
    let raw = Raw::open(&env.uri).await;
    raw.until_messages("task_queue", 0).await;
    forget(&env, "task_queue", "").await;
}

async fn fanout(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut one = wait_for(&env, "tutorial/receive_logs.py", &[]).await;
    let mut two = wait_for(&env, "tutorial/receive_logs.py", &[]).await;
    run(&env, "tutorial/emit_log.py", &["all", "ears"]).await;
    assert_eq!(one.line().await, " [x] all ears");
    assert_eq!(two.line().await, " [x] all ears");
    stop(one).await;
    stop(two).await;
    forget(&env, "", "logs").await;
}

async fn direct(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let script = "tutorial/receive_logs_direct.py";
    let mut errors = wait_for(&env, script, &["error", "warning"]).await;
    run(&env, "tutorial/emit_log_direct.py", &["info", "unheard"]).await;
    let sent = run(
        &env,
        "tutorial/emit_log_direct.py",
        &["error", "it", "burns"],
    )
    .await;
    assert_eq!(sent, [" [x] Sent error:it burns"]);
    assert_eq!(errors.line().await, " [x] error:it burns");
    stop(errors).await;
    forget(&env, "", "direct_logs").await;
    let usage = start(&env, script, &[]).ended().await;
    assert_eq!(usage.status.code(), Some(1));
    assert!(usage.printed.starts_with("Usage: "), "{}", usage.printed);
}

async fn topic(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let script = "tutorial/receive_logs_topic.py";
    let mut critical = wait_for(&env, script, &["kern.*", "*.critical"]).await;
    for key in ["cron.info", "kern.info", "cron.critical", "kern.a.b"] {
        run(&env, "tutorial/emit_log_topic.py", &[key, "line"]).await;
    }
    run(&env, "tutorial/emit_log_topic.py", &["kern.last"]).await;
    for expected in [
        "kern.info:line",
        "cron.critical:line",
        "kern.last:Hello World!",
    ] {
        assert_eq!(critical.line().await, format!(" [x] {expected}"));
    }
    stop(critical).await;
    forget(&env, "", "topic_logs").await;
}

async fn fib(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let _turn = super::RPC_QUEUE.lock().await;
    let mut server = wait_for(&env, "tutorial/rpc_server.py", &[]).await;
    let printed = run(&env, "tutorial/rpc_client.py", &["30"]).await;
    assert_eq!(printed, [" [x] Requesting fib(30)", " [.] Got 832040"]);
    assert_eq!(server.line().await, " [.] fib(30)");
    stop(server).await;
    forget(&env, "rpc_queue", "").await;
}

async fn calls_in_both_codecs(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let queue = env.name("calculator");
    let unserved = run(
        &env,
        "rpc_client.py",
        &[&queue, "json", "fib", r#"{"n": 1}"#],
    )
    .await;
    let server = wait_for(&env, "rpc_server.py", &[&queue]).await;
    assert_eq!(unserved, ["error unavailable no such service"]);
    for codec in ["json", "msgpack"] {
        for (method, arguments, outcome) in [
            ("fib", r#"{"n": 30}"#, "value 832040"),
            ("fib", "[10]", "value 55"),
            (
                "divide",
                r#"{"dividend": 1, "divisor": 0}"#,
                r#"error application DivideByZero "DivideByZero""#,
            ),
            ("sqrt", "{}", "error unimplemented no method sqrt"),
        ] {
            let printed = run(&env, "rpc_client.py", &[&queue, codec, method, arguments]).await;
            assert_eq!(printed, [outcome], "{codec} {method}");
        }
    }
    let printed = run(
        &env,
        "rpc_client.py",
        &[&queue, "json", "fib", r#"{"m": 1}"#],
    )
    .await;
    assert!(
        printed[0].starts_with("error invalid_argument"),
        "{printed:?}"
    );
    stop(server).await;
    Raw::open(&env.uri).await.delete(&queue).await;
}

async fn jobs(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let queue = env.name("images");
    let raw = Raw::open(&env.uri).await;
    raw.declare(&queue).await;
    let mut worker = wait_for(&env, "worker.py", &[&queue]).await;
    run(
        &env,
        "producer.py",
        &[&queue, "resize", r#"{"id": 7}"#, "msgpack"],
    )
    .await;
    assert_eq!(worker.line().await, r#" [x] resize {"id": 7} attempt=1"#);
    raw.publish("", &queue, b"garbage").await;
    worker.line_with("does not decode").await;
    stop(worker).await;
    raw.delete(&queue).await;
    let nowhere = start(&env, "producer.py", &[&queue, "resize", "{}"]);
    assert!(nowhere.ended().await.printed.contains("there is no queue"));
}

async fn events(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (topic, headers) = (env.name("topic"), env.name("headers"));
    let mut ears = wait_for(&env, "subscriber.py", &[&topic, "topic", "kern.*"]).await;
    let publish = [
        "topic",
        "kern.disk",
        "LogLine",
        r#"{"text": "full"}"#,
        "msgpack",
    ];
    run(
        &env,
        "publisher.py",
        &[&[topic.as_str()], &publish[..]].concat(),
    )
    .await;
    assert_eq!(
        ears.line().await,
        r#" [x] kern.disk LogLine {"text": "full"}"#
    );
    stop(ears).await;

    let binding = r#"{"x-match": "all", "host": "a", "level": 3}"#;
    let mut ears = wait_for(&env, "subscriber.py", &[&headers, "headers", binding]).await;
    for (event, labels) in [
        ("1", r#"{"host": "a"}"#),
        ("2", r#"{"host": "a", "level": 3}"#),
    ] {
        run(
            &env,
            "publisher.py",
            &[&headers, "headers", "", "N", event, "json", labels],
        )
        .await;
    }
    assert_eq!(ears.line().await, " [x]  N 2");
    stop(ears).await;
    forget(&env, "", &topic).await;
    forget(&env, "", &headers).await;
}
