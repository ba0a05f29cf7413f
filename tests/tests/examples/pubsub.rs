//! The publish/subscribe examples as child processes, each pair against each other: what they
//! print is what the tutorials' scripts print.

use lepus_tests::process::{Program, Signal, example};
use lepus_tests::{Env, conformance};
use uuid::Uuid;

conformance!(
    logs_go_to_every_reader,
    direct_logs_go_by_severity,
    topic_logs_go_by_pattern,
    headers_logs_go_by_their_headers,
    a_receiver_without_arguments_prints_its_usage,
    events_in_three_modes,
);

const WAITING: &str = " [*] Waiting for logs. To exit press CTRL+C";

fn spawn(env: &Env, name: &str, arguments: &[&str]) -> Program {
    let mut command = example(name);
    Program::spawn(command.args(arguments).env("AMQP_URL", &env.uri))
}

/// A receiver that is ready.
async fn receiver(env: &Env, name: &str, arguments: &[&str]) -> Program {
    let mut program = spawn(env, name, arguments);
    assert_eq!(program.line().await, WAITING);
    program
}

/// Emits, and checks what the emitter says.
async fn emit(env: &Env, name: &str, arguments: &[&str], said: &str) {
    let lines = spawn(env, name, arguments).succeeded().await;
    assert_eq!(lines, [said], "{name} {arguments:?}");
}

/// Stops a receiver in order; gives the lines of this test up to the last, which is its own.
/// Others may use the same exchange of a shared broker.
async fn lines_up_to(mut program: Program, token: &str, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = program.line_with(token).await;
        if line == last {
            break;
        }
        lines.push(line);
    }
    program.signal(Signal::TERM);
    let rest = program.succeeded().await;
    assert!(!rest.iter().any(|line| line.contains(token)), "{rest:?}");
    lines
}

fn token() -> String {
    Uuid::new_v4().simple().to_string()
}

async fn logs_go_to_every_reader(env: Env) {
    let token = token();
    let one = receiver(&env, "receive_logs", &[]).await;
    let two = receiver(&env, "receive_logs", &[]).await;
    let said = format!(" [x] Sent info: {token} of two words");
    emit(
        &env,
        "emit_log",
        &["info:", &token, "of", "two", "words"],
        &said,
    )
    .await;
    emit(&env, "emit_log", &[], " [x] Sent info: Hello World!").await;
    let end = format!("{token} end");
    emit(&env, "emit_log", &[&end], &format!(" [x] Sent {end}")).await;
    for program in [one, two] {
        let lines = lines_up_to(program, &token, &format!(" [x] {end}")).await;
        assert_eq!(lines, [format!(" [x] info: {token} of two words")]);
    }
}

async fn direct_logs_go_by_severity(env: Env) {
    let token = token();
    let serious = receiver(&env, "receive_logs_direct", &["warning", "error"]).await;
    let mut infos = receiver(&env, "receive_logs_direct", &["info"]).await;
    for severity in ["info", "warning", "error"] {
        let said = format!(" [x] Sent {severity}:{token} burns");
        emit(&env, "emit_log_direct", &[severity, &token, "burns"], &said).await;
    }
    emit(&env, "emit_log_direct", &[], " [x] Sent info:Hello World!").await;
    infos.line_with("info:Hello World!").await;
    let last = format!(" [x] error:{token} burns");
    let lines = lines_up_to(serious, &token, &last).await;
    assert_eq!(lines, [format!(" [x] warning:{token} burns")]);
    infos.signal(Signal::INT);
    infos.succeeded().await;
}

async fn topic_logs_go_by_pattern(env: Env) {
    let token = token();
    let all = receiver(&env, "receive_logs_topic", &["#"]).await;
    let kernel = receiver(&env, "receive_logs_topic", &["kern.*"]).await;
    let critical = receiver(&env, "receive_logs_topic", &["*.critical", "mail.#"]).await;
    let keys = ["kern.info", "mail.a.b", "kern.critical"];
    for key in keys {
        let said = format!(" [x] Sent {key}:{token}");
        emit(&env, "emit_log_topic", &[key, &token], &said).await;
    }
    emit(
        &env,
        "emit_log_topic",
        &[],
        " [x] Sent anonymous.info:Hello World!",
    )
    .await;
    let line = |key: &str| format!(" [x] {key}:{token}");
    let last = line("kern.critical");
    assert_eq!(
        lines_up_to(all, &token, &last).await,
        [line("kern.info"), line("mail.a.b")]
    );
    assert_eq!(
        lines_up_to(kernel, &token, &last).await,
        [line("kern.info")]
    );
    assert_eq!(
        lines_up_to(critical, &token, &last).await,
        [line("mail.a.b")]
    );

    let refused = spawn(&env, "receive_logs_topic", &["kern.crit*"])
        .ended()
        .await;
    assert!(
        !refused.status.success() && refused.printed.contains("crit*"),
        "{refused:?}"
    );
}

async fn headers_logs_go_by_their_headers(env: Env) {
    let token = token();
    let both = ["all", "format=pdf", "type=report"];
    let both = receiver(&env, "receive_logs_headers", &both).await;
    let either = ["any", "format=pdf", "type=report"];
    let either = receiver(&env, "receive_logs_headers", &either).await;
    let sent = [
        (vec!["format=pdf"], "format=pdf"),
        (vec!["format=zip"], "format=zip"),
        (vec!["type=report", "format=zip"], "format=zip,type=report"),
        (vec!["type=report", "format=pdf"], "format=pdf,type=report"),
    ];
    for (mut arguments, shown) in sent {
        arguments.push(&token);
        let said = format!(" [x] Sent {shown}:{token}");
        emit(&env, "emit_log_headers", &arguments, &said).await;
    }
    let line = |shown: &str| format!(" [x] {shown}:{token}");
    let last = line("format=pdf,type=report");
    assert_eq!(lines_up_to(both, &token, &last).await, [""; 0]);
    let expected = [line("format=pdf"), line("format=zip,type=report")];
    assert_eq!(lines_up_to(either, &token, &last).await, expected);
}

async fn a_receiver_without_arguments_prints_its_usage(env: Env) {
    for (name, usage) in [
        ("receive_logs_direct", "[info] [warning] [error]"),
        ("receive_logs_topic", "[binding_key]..."),
        ("receive_logs_headers", "all|any [name=value]..."),
    ] {
        let ended = spawn(&env, name, &[]).ended().await;
        assert_eq!(ended.status.code(), Some(1), "{name}: {}", ended.printed);
        assert_eq!(ended.lines, [""; 0], "nothing on stdout");
        let printed = ended.printed.trim_end();
        assert!(
            printed.starts_with("Usage: ") && printed.ends_with(usage),
            "{printed}"
        );
    }
    let ended = spawn(&env, "receive_logs_headers", &["some", "a=b"])
        .ended()
        .await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.printed);
}

async fn events_in_three_modes(env: Env) {
    let mut lines = spawn(&env, "events", &[]).succeeded().await;
    assert!(lines.remove(0).starts_with("broker: "));
    let expected = "\
everything: order.placed order 1 of 3 items is placed
everything: order.paid order 1 is paid with 250 cents
everything: order.placed order 2 of 3 items is placed
everything: order.paid order 2 is paid with 250 cents
payments: order 1 is paid with 250 cents
payments: order 2 is paid with 250 cents
billing, one of two: order 1 is paid with 250 cents
billing, one of two: order 1 of 3 items is placed
billing, one of two: order 2 is paid with 250 cents
billing, one of two: order 2 of 3 items is placed
ledger: order 1 of 3 items is placed
ledger: order 1 is paid with 250 cents
ledger: order 2 of 3 items is placed
ledger: order 2 is paid with 250 cents
ledger, taken over: order 3 is paid with 990 cents";
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
}
