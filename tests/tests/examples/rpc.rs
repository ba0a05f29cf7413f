//! The examples of RPC as child processes, with the `broker` example and with both brokers: what
//! they print, what they refuse, and how they stop.

use lepus_tests::process::{Program, Signal, example};
use lepus_tests::raw::{Raw, durable};
use lepus_tests::{Env, conformance};

conformance!(
    fib_in_one_process,
    calculator_in_one_process,
    a_dropped_call_in_one_process,
    a_stream_for_three_readers,
    uploads_with_progress,
    server_and_client_in_two,
);

const AWAITING: &str = " [x] Awaiting RPC requests";

fn spawn(uri: &str, name: &str, arguments: &[&str]) -> Program {
    let mut command = example(name);
    Program::spawn(command.args(arguments).env("AMQP_URL", uri))
}

/// A child that finds no broker named.
fn spawn_alone(name: &str) -> Program {
    Program::spawn(example(name).env_remove("AMQP_URL"))
}

/// Runs to its end, which has to be a failure; gives what it printed.
async fn refused(program: Program) -> String {
    let ended = program.ended().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.printed);
    assert!(!ended.printed.contains("panicked"), "{}", ended.printed);
    ended.printed
}

async fn server(uri: &str) -> Program {
    let mut server = spawn(uri, "fib_server", &[]);
    assert_eq!(server.line().await, AWAITING);
    server
}

/// The `broker` example on a free port, and its URI.
async fn broker() -> (Program, String) {
    let mut broker = Program::spawn(example("broker").arg("127.0.0.1:0"));
    let listening = broker.line().await;
    let uri = listening.rsplit(' ').next().expect("a URI").to_owned();
    assert!(
        uri.starts_with("amqp://guest:guest@127.0.0.1:"),
        "{listening}"
    );
    assert!(broker.line().await.contains("in memory"));
    (broker, uri)
}

async fn stopped(program: Program, signal: Signal, last: &str) {
    program.signal(signal);
    let lines = program.succeeded().await;
    assert_eq!(lines.last().map(String::as_str), Some(last));
}

fn assert_is_fib(broker: &str, lines: Vec<String>) {
    let (calls, mut rest): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.starts_with(" [.] "));
    assert_eq!(rest.remove(0), broker);
    assert_eq!(
        rest,
        [
            "fib(30) = 832040",
            "fib(10) = 55",
            "fib(20) = 6765",
            "fib(40) = 102334155",
            "fib(50) = 12586269025",
        ]
    );
    // On a broker that others use, some of the calls may have been theirs to answer.
    assert!(calls.len() <= 5, "{calls:?}");
}

async fn fib_in_one_process(env: Env) {
    let lines = spawn(&env.uri, "fib", &[]).succeeded().await;
    assert_is_fib("broker: the one AMQP_URL names", lines);
}

#[tokio::test]
async fn fib_needs_no_broker() {
    let lines = spawn_alone("fib").succeeded().await;
    let embedded = "broker: embedded in this process (set AMQP_URL to use RabbitMQ)";
    assert_eq!(
        lines.iter().filter(|line| line.starts_with(" [.]")).count(),
        5
    );
    assert_is_fib(embedded, lines);
}

const CALCULATOR: &[&str] = &[
    "serving calculator and statistics",
    "typed errors:",
    "  84 / 2 = 42",
    "  1 / 0: 1 cannot be divided by zero",
    "  -9223372036854775808 / -1: the quotient is out of range",
    "timeouts:",
    "  too slow: timed out: true, may have run: true",
    "  with 30 s: 1 + 2 = 3",
    "  nobody serves abacus: unroutable: true, may have run: false",
    "send now, await later:",
    "  two calls are under way",
    "  84 / 2 = 42",
    "  1 + 2 = 3",
    "one way:",
    "  the broker has the note",
    "  the calculator noted: remember the carrots",
    "a service that calls another:",
    "  mean of 3, 4 and 8 = 5",
    "  mean of nothing: 0 cannot be divided by zero",
    "  called with 5 s, it passes on what is left: true",
    "without a broker:",
    "  84 / 2 = 42",
    "  1 / 0: 1 cannot be divided by zero",
];

async fn calculator_in_one_process(env: Env) {
    let mut program = spawn(&env.uri, "calculator", &[]);
    assert_eq!(program.line().await, "broker: the one AMQP_URL names");
    assert_eq!(program.succeeded().await, CALCULATOR);
    let raw = Raw::open(&env.uri).await;
    for queue in ["calculator", "statistics"] {
        raw.delete(&format!("lepus-example.{queue}")).await;
    }
    raw.close().await;
}

#[tokio::test]
async fn calculator_needs_no_broker() {
    let mut program = spawn_alone("calculator");
    assert!(program.line().await.starts_with("broker: embedded"));
    assert_eq!(program.succeeded().await, CALCULATOR);
}

/// The lines after their times.
fn without_times(lines: Vec<String>) -> Vec<String> {
    let after = |line: String| line.split_once(" ms: ").map(|(_, text)| text.to_owned());
    lines.into_iter().filter_map(after).collect()
}

const CANCEL: &[&str] = &[
    "looking for hare",
    "not waiting any longer",
    "stopped",
    "the end",
];

async fn a_dropped_call_in_one_process(env: Env) {
    let lines = spawn(&env.uri, "cancel", &[]).succeeded().await;
    assert_eq!(without_times(lines), CANCEL);
    let raw = Raw::open(&env.uri).await;
    raw.delete("lepus-example.search").await;
    raw.delete_exchange("lepus-example.lepus.control").await;
    raw.close().await;
}

#[tokio::test]
async fn a_dropped_call_needs_no_broker() {
    let lines = spawn_alone("cancel").succeeded().await;
    assert!(lines[0].starts_with("broker: embedded"), "{lines:?}");
    assert_eq!(without_times(lines), CANCEL);
}

/// Three readers of a log, whose lines come in any order.
fn assert_is_tail(mut lines: Vec<String>) {
    let broker = lines.remove(0);
    assert!(broker.starts_with("broker: "), "{broker}");
    let slow = lines.iter().position(|line| line.starts_with("slow: "));
    let slow = lines.remove(slow.expect("a line of the slow reader"));
    let on_their_way = slow.strip_prefix("slow: 30 lines, of which at most ");
    let on_their_way = on_their_way.and_then(|rest| rest.strip_suffix(" were on their way"));
    let on_their_way = on_their_way.and_then(|number| number.parse::<u32>().ok());
    assert!(matches!(on_their_way, Some(0..=4)), "{slow}");
    lines.sort();
    assert_eq!(
        lines,
        [
            " [.] brief: gone",
            " [.] brief: open",
            " [.] fast: gone",
            " [.] fast: open",
            " [.] slow: gone",
            " [.] slow: open",
            "brief: leaves",
            "brief: line 1",
            "brief: line 2",
            "brief: line 3",
            "fast: 30 lines",
        ]
    );
}

async fn a_stream_for_three_readers(env: Env) {
    assert_is_tail(spawn(&env.uri, "tail", &[]).succeeded().await);
    let raw = Raw::open(&env.uri).await;
    raw.delete("lepus-tail.log").await;
    raw.delete_exchange("lepus-tail.lepus.control").await;
    raw.close().await;
}

#[tokio::test]
async fn a_stream_needs_no_broker() {
    assert_is_tail(spawn_alone("tail").succeeded().await);
}

/// The lines of the server and of the client come from two tasks, and in any order.
fn assert_is_upload(mut lines: Vec<String>) {
    let broker = lines.remove(0);
    assert!(broker.starts_with("broker: "), "{broker}");
    let (server, client): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.starts_with(" [.] "));
    assert_eq!(server, [" [.] hare.jpg: begun", " [.] hare.jpg: complete"]);
    assert_eq!(
        client,
        [
            "stored 12 %",
            "stored 25 %",
            "stored 37 %",
            "stored 50 %",
            "stored 62 %",
            "stored 75 %",
            "stored 87 %",
            "stored 100 %",
            "imported 10000 rows",
            "refused: row 1000 has no name",
            "the rest was not sent",
        ]
    );
}

async fn uploads_with_progress(env: Env) {
    assert_is_upload(spawn(&env.uri, "upload", &[]).succeeded().await);
    let raw = Raw::open(&env.uri).await;
    raw.delete("lepus-upload.store").await;
    raw.delete_exchange("lepus-upload.lepus.control").await;
    raw.close().await;
}

#[tokio::test]
async fn an_upload_needs_no_broker() {
    assert_is_upload(spawn_alone("upload").succeeded().await);
}

async fn server_and_client_in_two(env: Env) {
    let server = server(&env.uri).await;
    for (arguments, n, result) in [
        (&["30"][..], 30, "832040"),
        (&[], 30, "832040"),
        (&["0"], 0, "0"),
        (&["93"], 93, "12200160415121876738"),
    ] {
        let lines = spawn(&env.uri, "fib_client", arguments).succeeded().await;
        let [requesting, answer] = &lines[..] else {
            panic!("two lines: {lines:?}");
        };
        assert_eq!(*requesting, format!(" [x] Requesting fib({n})"));
        assert_eq!(*answer, format!("fib({n}) = {result}"));
    }
    for n in ["94", "18446744073709551615"] {
        let printed = refused(spawn(&env.uri, "fib_client", &[n])).await;
        assert!(
            printed.contains(&format!("fib({n}) has more than 64 bits")),
            "{printed}"
        );
    }
    stopped(server, Signal::TERM, " [x] Stopped").await;
}

#[tokio::test]
async fn two_terminals_need_no_rabbitmq() {
    let (broker, uri) = broker().await;
    let printed = refused(spawn(&uri, "fib_client", &[])).await;
    assert!(
        printed.contains("queue `rpc_queue`") && printed.contains("unroutable"),
        "{printed}"
    );
    let mut server = server(&uri).await;
    let lines = spawn(&uri, "fib_client", &["30"]).succeeded().await;
    assert_eq!(lines, [" [x] Requesting fib(30)", "fib(30) = 832040"]);
    assert_eq!(server.line().await, " [.] fib(30)");
    stopped(server, Signal::INT, " [x] Stopped").await;
    stopped(broker, Signal::INT, "Stopped").await;
}

#[tokio::test]
async fn a_server_whose_broker_went_still_stops() {
    let (broker, uri) = broker().await;
    let server = server(&uri).await;
    stopped(broker, Signal::TERM, "Stopped").await;
    stopped(server, Signal::TERM, " [x] Stopped").await;
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let (broker, uri) = broker().await;
    let address = uri
        .trim_start_matches("amqp://guest:guest@")
        .trim_end_matches("/%2F");
    let printed = refused(Program::spawn(example("broker").arg(address))).await;
    assert!(
        printed.starts_with(&format!("{address} is in use")),
        "{printed}"
    );
    stopped(broker, Signal::TERM, "Stopped").await;
}

#[tokio::test]
async fn a_signal_right_after_the_first_line_is_heard() {
    let start = || Program::spawn(example("broker").arg("127.0.0.1:0"));
    let mut brokers: Vec<_> = std::iter::repeat_with(start).take(20).collect();
    for broker in &mut brokers {
        broker.line().await;
        broker.signal(Signal::TERM);
    }
    for broker in brokers {
        let lines = broker.succeeded().await;
        assert_eq!(lines.last().map(String::as_str), Some("Stopped"));
    }
}

#[tokio::test]
async fn unusable_arguments_are_told() {
    for arguments in [&["thirty"][..], &["-1"], &["1.5"], &[""], &["1", "2"]] {
        let printed = refused(spawn("amqp://127.0.0.1:1", "fib_client", arguments)).await;
        assert!(
            printed.starts_with("usage: fib_client [n]"),
            "{arguments:?}: {printed}"
        );
    }
    for arguments in [
        &["here"][..],
        &["5672"],
        &["127.0.0.1:99999"],
        &["127.0.0.1:0", "x"],
    ] {
        let printed = refused(Program::spawn(example("broker").args(arguments))).await;
        assert!(
            printed.starts_with("usage: broker"),
            "{arguments:?}: {printed}"
        );
    }
}

#[tokio::test]
async fn no_broker_is_told() {
    // A port that nobody listens on, until this test ends.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    drop(taken);
    for name in ["fib_client", "fib_server", "fib", "calculator"] {
        let uri = format!("amqp://hare:secret@{address}");
        let printed = refused(spawn(&uri, name, &[])).await;
        let expected = format!("no connection to the broker (amqp://{address})");
        assert!(printed.contains(&expected), "{name}: {printed}");
        assert!(!printed.contains("secret"), "{name}: {printed}");
    }
    let printed = refused(spawn("nonsense", "fib_client", &[])).await;
    assert!(printed.contains("not an AMQP URI"), "{printed}");
}

#[tokio::test]
async fn a_queue_that_is_another_is_told() {
    let (broker, uri) = broker().await;
    let raw = Raw::open(&uri).await;
    let declared = raw.declare_with("rpc_queue", durable(), &[]).await;
    declared.expect("a durable queue");
    let printed = refused(spawn(&uri, "fib_server", &[])).await;
    assert!(
        printed.contains("`rpc_queue`") && printed.contains("`durable`"),
        "{printed}"
    );
    raw.close().await;
    stopped(broker, Signal::TERM, "Stopped").await;
}
