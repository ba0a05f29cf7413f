//! `call`: values, own errors, statuses and failures, each with its exit code.

use lepus_tests::process::{Program, Signal};
use lepus_tests::{Env, conformance};

use crate::lepus::{at, run, run_with};
use crate::workshop::Served;

async fn arguments_are_json_or_pairs(env: Env) {
    let served = Served::start(&env).await;
    let file = std::env::temp_dir().join(format!("{}.json", env.namespace()));
    std::fs::write(&file, r#"{"dividend":84,"divisor":2}"#).expect("a file");
    let from_file = format!("@{}", file.display());
    for arguments in [
        &["dividend=84", "divisor=2"][..],
        &[r#"{"dividend": 84, "divisor": 2}"#],
        &["[84,2]"],
        &[&from_file],
    ] {
        let arguments = [&["call", "workshop.divide"], arguments].concat();
        assert_eq!(run(&env, &arguments).await.ok(), "42\n", "{arguments:?}");
    }
    std::fs::remove_file(&file).expect("the file");
    // The argument of a method with bare parameters, with and without its name.
    assert_eq!(
        run(&env, &["call", "workshop.square", "-7"]).await.ok(),
        "49\n"
    );
    assert_eq!(
        run(&env, &["call", "workshop.square", "n=-7"]).await.ok(),
        "49\n"
    );
    served.stop().await;
}

async fn a_reply_is_shown_as_the_server_sent_it(env: Env) {
    let served = Served::start(&env).await;
    assert_eq!(
        run(&env, &["call", "workshop.large"]).await.ok(),
        "18446744073709551616\n"
    );
    let header = run(
        &env,
        &[
            "call",
            "workshop.header",
            "name=tenant",
            "-H",
            "tenant=hare",
        ],
    );
    assert_eq!(header.await.ok(), "\"hare\"\n");
    assert_eq!(
        run(&env, &["call", "workshop.bytes", "--raw"]).await.ok(),
        "[0,255]"
    );
    let bytes = run(&env, &["call", "workshop.bytes", "-o", "jsonl"]).await;
    assert_eq!(bytes.ok(), "[0,255]\n");
    assert_eq!(
        run(&env, &["call", "workshop.bytes"]).await.ok(),
        "[\n  0,\n  255\n]\n"
    );
    // JSON has neither bytes nor such keys.
    let msgpack = async |method| {
        let arguments = ["call", method, "--codec", "msgpack", "-o", "jsonl"];
        run(&env, &arguments).await
    };
    let bytes = msgpack("workshop.bytes").await;
    assert_eq!(bytes.ok(), "{\"$bytes\":\"AP8=\"}\n");
    let names = msgpack("workshop.names").await;
    assert_eq!(names.ok(), "{\"$map\":[[[1,2],\"hare\"]]}\n");
    run(&env, &["call", "workshop.names"])
        .await
        .failed(77, &["workshop.names", "internal"]);
    assert_eq!(
        run(&env, &["call", "workshop.tell", "text=hare", "--oneway"])
            .await
            .ok(),
        ""
    );
    served.stop().await;
}

async fn a_call_that_fails_ends_with_its_code(env: Env) {
    let served = Served::start(&env).await;
    let own = run(
        &env,
        &[
            "call",
            "workshop.divide",
            "dividend=1",
            "divisor=0",
            "-o",
            "jsonl",
        ],
    )
    .await;
    assert_eq!(
        (own.code, &*own.stdout),
        (Some(3), "{\"dividend\":1}\n"),
        "{}",
        own.stderr
    );
    assert_eq!(
        own.stderr,
        "error: workshop.divide returned its own error\n"
    );
    let status = run(&env, &["call", "workshop.missing"]).await;
    status.failed(69, &["workshop.missing", "not_found", "no such\\nhammer"]);
    let late = run(&env, &["call", "workshop.sleep", "--timeout", "200ms"]).await;
    late.failed(68, &["workshop.sleep"]);
    let unknown = run(&env, &["call", "workshop.hammer"]).await;
    unknown.failed(76, &["no method `hammer`", "divide, square"]);
    let wrong = run(
        &env,
        &["call", "workshop.divide", "dividend=hare", "divisor=2"],
    )
    .await;
    wrong.failed(67, &["invalid_argument", "dividend"]);
    served.stop().await;
    // The queue is there, and nobody consumes it.
    let unserved = run(&env, &["call", "workshop.square", "7", "--fail-fast"]).await;
    unserved.failed(4, &["no server consumes the queue"]);
    let nobody = run(&env, &["call", "nobody.square", "7"]).await;
    nobody.failed(4, &["nobody.square", "no queue"]);
    let named = run(
        &env,
        &["call", "nobody.square", "7", "--queue", "elsewhere"],
    )
    .await;
    named.failed(4, &["nobody.square", "elsewhere"]);
    let header = run(
        &env,
        &["call", "workshop.square", "7", "-H", "rpc-status=ok"],
    )
    .await;
    header.failed(1, &["rpc-status"]);
}

async fn a_method_is_found_on_its_own_queue(env: Env) {
    let served = Served::start(&env).await;
    assert_eq!(
        run(&env, &["call", "workshop.aside", "text=hare"])
            .await
            .ok(),
        "\"hare\"\n"
    );
    served.stop().await;
}

async fn each_line_of_stdin_is_a_call(env: Env) {
    let served = Served::start(&env).await;
    let lines = "{\"dividend\":84,\"divisor\":2}\n\n{\"dividend\":1,\"divisor\":0}\nhare\n[9,3]\n";
    let ended = run_with(&env, &["call", "workshop.divide", "-"], lines).await;
    // The first that failed is the third line, with the method's own error.
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert_eq!(ended.stdout, "42\n{\"dividend\":1}\n3\n");
    assert!(
        ended
            .stderr
            .contains("error: line 4: the arguments `hare` are no JSON"),
        "{}",
        ended.stderr
    );
    served.stop().await;
}

async fn a_call_is_repeated_with_a_summary(env: Env) {
    let served = Served::start(&env).await;
    let arguments = ["call", "workshop.divide", "[84,2]", "--repeat", "20"];
    let text = run(&env, &arguments).await.ok();
    assert!(
        text.starts_with("20 calls of workshop.divide in "),
        "{text}"
    );
    assert!(
        text.contains("20 values, 0 own errors") && text.contains("p95"),
        "{text}"
    );
    let summary = run(&env, &[&arguments[..], &["-o", "json"]].concat())
        .await
        .json();
    let latency = &summary["latency"];
    let in_buckets = latency["histogram"].as_array().expect("buckets").iter();
    let in_buckets: u64 = in_buckets
        .filter_map(|bucket| bucket["count"].as_u64())
        .sum();
    assert_eq!(
        (in_buckets, latency["count"].as_u64()),
        (20, Some(20)),
        "{summary}"
    );
    let failed = run(&env, &["call", "workshop.missing", "--repeat", "3"]).await;
    failed.failed(69, &["not_found"]);
    served.stop().await;
}

async fn an_interrupt_ends_a_call_at_once(env: Env) {
    let served = Served::start(&env).await;
    let mut command = at(&env);
    // Longer than a test may take, so that only the interrupt can end it.
    command.args(["call", "workshop.sleep", "--timeout", "1h"]);
    let call = Program::spawn(&mut command);
    lepus_tests::eventually("in the handler", || async {
        let methods = served.connection.stats_by_method();
        methods
            .iter()
            .any(|it| it.method == "sleep" && it.in_flight == 1)
    })
    .await;
    call.signal(Signal::INT);
    let ended = call.ended().await;
    assert_eq!(ended.status.code(), Some(130), "{}", ended.printed);
    assert_eq!(ended.printed, "");
    served.stop().await;
}

conformance!(
    arguments_are_json_or_pairs,
    a_reply_is_shown_as_the_server_sent_it,
    a_call_that_fails_ends_with_its_code,
    a_method_is_found_on_its_own_queue,
    each_line_of_stdin_is_a_call,
    a_call_is_repeated_with_a_summary,
    an_interrupt_ends_a_call_at_once,
);
