//! `call` in the form of the method: nothing is sent that the server refuses, and what is given up is cancelled.

use std::cell::Cell;
use std::process::Stdio;

use lepus::Server;
use lepus_tests::process::{Program, Signal, example};
use lepus_tests::{Env, conformance, eventually};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;

use crate::lepus::{at, bare, ended, run, run_with};
use crate::workshop::{Bench, Served, WorkshopServer};

/// No request of the service was refused: those were counted, and none has an error.
#[track_caller]
fn none_is_refused(served: &Served, method: &str, requests: u64) {
    let stats = served.connection.stats_by_method();
    let of_method = stats.iter().find(|it| it.method == method);
    let counted = of_method.map(|it| it.requests);
    assert_eq!(counted, Some(requests), "{stats:?}");
    for method in &stats {
        assert!(method.statuses.is_empty(), "{method:?}");
    }
}

async fn a_call_is_made_once_in_the_form_of_its_method(env: Env) {
    let served = Served::start(&env).await;
    let square = run(&env, &["call", "workshop.square", "n=-7"]).await;
    assert_eq!(square.stderr, "");
    assert_eq!(square.ok(), "49\n");
    none_is_refused(&served, "square", 1);
    let aside = run(&env, &["call", "workshop.aside", "text=hare"]).await;
    assert_eq!(aside.ok(), "\"hare\"\n");
    none_is_refused(&served, "aside", 1);
    // It waits for the broker, and for no reply.
    let tell = run(&env, &["call", "workshop.tell", "text=hare"]).await;
    assert_eq!(tell.ok(), "");
    let repeated = [
        "call",
        "workshop.square",
        "n=7",
        "--repeat",
        "3",
        "-o",
        "json",
    ];
    assert_eq!(run(&env, &repeated).await.json()["values"], 3);
    none_is_refused(&served, "square", 4);
    let bench = [
        "bench",
        "rpc",
        "workshop.square",
        "n=7",
        "--calls",
        "5",
        "-o",
        "json",
    ];
    assert_eq!(run(&env, &bench).await.json()["count"], 5);
    none_is_refused(&served, "square", 10);
    let ticks = run(&env, &["call", "workshop.count", "to=3"]).await;
    assert_eq!(ticks.ok(), "1\n2\n3\n");
    none_is_refused(&served, "count", 1);
    served.stop().await;
}

/// The example of the tutorial, which logs each warning. It has no namespace, so it gets a broker of its own.
async fn the_tutorial_is_called_without_a_warning(env: Env) {
    if env.embedded().is_none() {
        env.leave_out("the queue of the tutorial has one name for all tests");
        return;
    }
    let mut command = example("fib_server");
    let mut server = Program::spawn(command.env("AMQP_URL", &env.uri));
    server.line_with("Awaiting RPC requests").await;
    let lepus =
        async |arguments: &[&str]| ended(bare().env("AMQP_URL", &env.uri).args(arguments)).await;
    // Its instance is found a moment later.
    eventually("found", || async {
        let found = lepus(&["ls", "fibonacci"]).await;
        (found.code == Some(0)).then_some(()).ok_or(found.stderr)
    })
    .await;
    assert_eq!(
        lepus(&["call", "fibonacci.fib", "n=30"]).await.ok(),
        "832040\n"
    );
    let stats = lepus(&["stats", "fibonacci", "-o", "json"]).await.json();
    assert_eq!(
        (&stats[0]["requests"], &stats[0]["errors"]),
        (&1.into(), &0.into()),
        "{stats}"
    );
    server.signal(Signal::TERM);
    let printed = server.ended().await.printed;
    assert!(!printed.contains("WARN"), "{printed}");
}

async fn items_are_lines_of_json(env: Env) {
    let served = Served::start(&env).await;
    for format in ["table", "json", "jsonl"] {
        let count = ["call", "workshop.count", "[2]", "-o", format];
        assert_eq!(run(&env, &count).await.ok(), "1\n2\n", "{format}");
    }
    let msgpack = ["call", "workshop.count", "to=2", "--codec", "msgpack"];
    assert_eq!(run(&env, &msgpack).await.ok(), "1\n2\n");
    let failed = run(&env, &["call", "workshop.fail", "dividend=7"]).await;
    assert_eq!(
        (failed.code, failed.stdout.as_str(), failed.stderr.as_str()),
        (
            Some(3),
            "7\n{\"dividend\":7}\n",
            "error: workshop.fail returned its own error\n"
        )
    );
    let lines = run_with(&env, &["call", "workshop.count", "-"], "[1]\n{\"to\":2}\n").await;
    assert_eq!(lines.ok(), "1\n1\n2\n");
    for (option, reason) in [
        (&["--raw"][..], "--raw does not go with workshop.count"),
        (
            &["--repeat", "2"],
            "--repeat does not go with workshop.count",
        ),
        (&["--oneway"], "--oneway does not go with workshop.count"),
    ] {
        let call = [&["call", "workshop.count", "to=1"], option].concat();
        run(&env, &call).await.failed(1, &[reason]);
    }
    let bench = run(&env, &["bench", "rpc", "workshop.count", "to=1"]).await;
    bench.failed(1, &["no single reply"]);
    // A stream that the method does not have.
    let square = run(&env, &["call", "workshop.square", "7", "--stream"]).await;
    square.failed(1, &["--stream does not go with workshop.square"]);
    served.stop().await;
}

/// A program whose connection has no control plane is not asked, so that the command line tells what it would have told.
async fn without_a_description_options_tell_the_form(env: Env) {
    let _ = env.name("workshop");
    let _ = env.name("workshop.aside");
    let connection = env
        .builder()
        .control(false)
        .open()
        .await
        .expect("a connection");
    let server = Server::new(&connection).serve(WorkshopServer::new(Bench::default()));
    let server = server.start().await.expect("the server starts");
    let square = run(&env, &["call", "workshop.square", "7"]).await;
    assert_eq!(square.ok(), "49\n");
    let count = ["call", "workshop.count", "to=2"];
    let refused = run(&env, &count).await;
    refused.failed(73, &["failed_precondition"]);
    let count = run(&env, &[&count[..], &["--stream"]].concat()).await;
    assert_eq!(count.ok(), "1\n2\n");
    let tell = run(&env, &["call", "workshop.tell", "text=hare", "--oneway"]).await;
    assert_eq!(tell.ok(), "");
    let square = run(&env, &["call", "workshop.square", "7", "--stream"]).await;
    square.failed(77, &["a value where a stream was expected"]);
    let queue = [
        "call",
        "workshop.aside",
        "text=hare",
        "--queue",
        "workshop.aside",
    ];
    assert_eq!(run(&env, &queue).await.ok(), "\"hare\"\n");
    server.stop().await.expect("the server stops");
    connection.close().await;
}

async fn an_interrupt_cancels_a_call(env: Env) {
    for signal in [Signal::INT, Signal::TERM] {
        let served = Served::start(&env).await;
        let mut command = at(&env);
        command.args(["call", "workshop.sleep", "--timeout", "60s"]);
        let call = Program::spawn(&mut command);
        served.watched.until_begun().await;
        call.signal(signal);
        let ended = call.ended().await;
        assert_eq!(
            (ended.status.code(), ended.printed.as_str()),
            (Some(130), "")
        );
        served.watched.until_dropped().await;
        served.stop().await;
    }
}

async fn an_interrupt_cancels_a_stream(env: Env) {
    let served = Served::start(&env).await;
    let mut command = at(&env);
    command.args(["call", "workshop.once", "n=7"]);
    let mut call = Program::spawn(&mut command);
    assert_eq!(call.line().await, "7");
    call.signal(Signal::INT);
    let ended = call.ended().await;
    assert_eq!(
        (ended.status.code(), ended.printed.as_str()),
        (Some(130), "7\n")
    );
    served.watched.until_dropped().await;
    served.stop().await;
}

/// The command with a pipe for its output, which the test reads as it likes.
fn piped(env: &Env, arguments: &[&str]) -> Child {
    let mut command = at(env);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("the command starts")
}

/// Waits until the stream makes no more items, because the pipe is full and nobody reads it.
async fn until_stalled(served: &Served) {
    let (last, looks) = (Cell::new(0), Cell::new(0));
    eventually("the pipe is full", || async {
        let made = served.watched.made();
        let is_same = made > 0 && made == last.replace(made);
        looks.set(if is_same { looks.get() + 1 } else { 0 });
        (looks.get() >= 20)
            .then_some(())
            .ok_or(format!("{made} items"))
    })
    .await;
}

async fn a_reader_that_goes_cancels_the_stream(env: Env) {
    let served = Served::start(&env).await;
    // After the first item, no other comes, so that no write can fail.
    let mut child = piped(&env, &["call", "workshop.once", "n=7"]);
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).await.expect("a line");
    assert_eq!(line, "7\n");
    drop(output);
    served.watched.until_dropped().await;
    let ended = child.wait_with_output().await.expect("it ends");
    let stderr = String::from_utf8(ended.stderr).expect("UTF-8");
    assert_eq!((ended.status.code(), stderr.as_str()), (Some(0), ""));
    served.stop().await;
}

async fn a_slow_reader_slows_the_server_down(env: Env) {
    const ITEMS: u64 = 2_000;
    let served = Served::start(&env).await;
    let mut child = piped(&env, &["call", "workshop.pages", &format!("[{ITEMS}]")]);
    let mut output = child.stdout.take().expect("a pipe");
    served.watched.until_begun().await;
    until_stalled(&served).await;
    assert!(
        served.watched.made() < ITEMS / 2,
        "{}",
        served.watched.made()
    );
    let mut text = String::new();
    output.read_to_string(&mut text).await.expect("the items");
    let expected: String = (1..=ITEMS)
        .map(|number| format!("\"{number:01000}\"\n"))
        .collect();
    assert!(text == expected, "{} bytes", text.len());
    assert!(child.wait().await.expect("it ends").success());
    served.stop().await;
}

async fn an_interrupt_ends_a_stream_whose_output_waits(env: Env) {
    let served = Served::start(&env).await;
    let mut command = at(&env);
    command.args(["call", "workshop.pages", "[1000000]"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let output = child.stdout.take().expect("a pipe");
    until_stalled(&served).await;
    let id = child.id().expect("it runs");
    std::process::Command::new("kill")
        .args(["-INT", &id.to_string()])
        .status()
        .expect("kill");
    let status = tokio::time::timeout(lepus_tests::process::PATIENCE, child.wait()).await;
    assert_eq!(
        status.expect("it ends").expect("a status").code(),
        Some(130)
    );
    served.watched.until_dropped().await;
    drop(output);
    served.stop().await;
}

conformance!(
    a_call_is_made_once_in_the_form_of_its_method,
    the_tutorial_is_called_without_a_warning,
    items_are_lines_of_json,
    without_a_description_options_tell_the_form,
    an_interrupt_cancels_a_call,
    an_interrupt_cancels_a_stream,
    a_reader_that_goes_cancels_the_stream,
    a_slow_reader_slows_the_server_down,
    an_interrupt_ends_a_stream_whose_output_waits,
);
