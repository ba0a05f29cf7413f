//! `ls`, `info`, `ping`, `health` and `stats`: all that runs, and nothing that does not.

use std::process::Stdio;

use lapin::BasicProperties;
use lepus_tests::process::{Program, Signal};
use lepus_tests::proxy::{Cut, Proxy};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use serde_json::json;

use crate::lepus::{at, ended, run};
use crate::on::Lepus;
use crate::workshop::Served;

async fn services_and_their_methods_are_listed(env: Env) {
    let empty = run(&env, &["ls"]).await;
    assert_eq!(empty.stderr, "nobody serves anything\n");
    assert!(empty.ok().starts_with("NAME"));
    assert_eq!(run(&env, &["ls", "-o", "json"]).await.json(), json!([]));
    let served = Served::start(&env).await;
    let other = Served::start(&env).await;
    let listed = run(&env, &["ls", "-o", "json"]).await.json();
    let expected = json!([{
        "name": "workshop", "kind": "service", "version": "1.2.0", "instances": 2, "endpoints": 15,
        "description": "Does one thing of each kind.",
    }]);
    assert_eq!(listed, expected);
    let table = run(&env, &["ls"]).await.ok();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines,
        [
            "NAME      KIND     VERSION  INSTANCES  METHODS  DESCRIPTION",
            "workshop  service  1.2.0            2       15  Does one thing of each kind.",
        ]
    );
    let methods = run(&env, &["ls", "workshop", "-o", "jsonl"]).await.ok();
    let first: serde_json::Value =
        serde_json::from_str(methods.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["name"], "divide");
    assert_eq!(
        (&first["instances"], &first["data"]["timeout_ms"]),
        (&json!(2), &json!(2000))
    );
    assert_eq!(methods.lines().count(), 15);
    let table = run(&env, &["ls", "workshop", "--expect", "2"]).await.ok();
    assert!(
        table.contains("dividend, divisor") && table.contains("workshop.aside"),
        "{table}"
    );
    other.stop().await;
    served.stop().await;
}

async fn a_service_is_described(env: Env) {
    let served = Served::start(&env).await;
    let text = run(&env, &["info", "workshop"]).await.ok();
    assert!(
        text.starts_with("workshop (service), version 1.2.0\nDoes one thing of each kind.\n"),
        "{text}"
    );
    assert!(
        text.contains("idempotent") && text.contains("The quotient, towards zero."),
        "{text}"
    );
    let infos = run(&env, &["info", "workshop", "-o", "json"]).await.json();
    let id = infos[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(id.len(), 22);
    assert_eq!(
        run(&env, &["info", "workshop", &id, "-o", "json"])
            .await
            .json(),
        infos
    );
    let other = run(&env, &["info", "nobody", &id]).await;
    other.failed(4, &["does not serve `nobody`"]);
    served.stop().await;
}

async fn instances_are_pinged(env: Env) {
    let served = Served::start(&env).await;
    let ping = ["ping", "workshop", "-n", "3", "--every", "10ms"];
    let pinged = run(&env, &ping).await;
    assert!(
        pinged
            .stderr
            .starts_with("3 answers of 1 instances, 0 missed: min "),
        "{}",
        pinged.stderr
    );
    let text = pinged.ok();
    let rounds: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    assert_eq!(rounds, ["round=1", "round=2", "round=3"], "{text}");
    let records = run(&env, &[&ping[..], &["-o", "json"]].concat())
        .await
        .json();
    assert_eq!(
        (&records[2]["round"], &records[2]["name"]),
        (&json!(3), &json!("workshop"))
    );
    served.stop().await;
}

async fn health_is_shown_with_its_reasons(env: Env) {
    let served = Served::start(&env).await;
    let table = run(&env, &["health"]).await.ok();
    assert!(table.contains(" SERVING "), "{table}");
    let healths = run(&env, &["health", "workshop", "--expect", "1", "-o", "json"])
        .await
        .json();
    assert_eq!(healths[0]["status"], "SERVING");
    served.stop().await;
}

async fn figures_are_summed_up(env: Env) {
    let served = Served::start(&env).await;
    let other = Served::start(&env).await;
    for divisor in ["2", "0", "2"] {
        run(
            &env,
            &[
                "call",
                "workshop.divide",
                "dividend=84",
                &format!("divisor={divisor}"),
            ],
        )
        .await;
    }
    let figures = run(&env, &["stats", "workshop", "-o", "json"]).await.json();
    let methods = figures.as_array().expect("methods").iter();
    let divide = methods
        .clone()
        .find(|it| it["method"] == "divide")
        .expect("divide");
    assert_eq!(divide["requests"], 3, "{divide}");
    assert_eq!(divide["instances"], 2);
    assert_eq!(
        (&divide["errors"], &divide["errors_by_code"]),
        (&json!(1), &json!({"application": 1}))
    );
    let instances = run(&env, &["stats", "--by", "instance", "-o", "json"])
        .await
        .json();
    let instances = instances.as_array().expect("instances");
    let requests: u64 = instances
        .iter()
        .filter_map(|it| it["requests"].as_u64())
        .sum();
    assert_eq!((instances.len(), requests), (2, 3));
    let table = run(&env, &["stats", "workshop"]).await.ok();
    assert!(
        table.contains("application=1") && table.contains("< 5.00 ms"),
        "{table}"
    );
    other.stop().await;
    served.stop().await;
}

async fn figures_are_watched_until_an_interrupt(env: Env) {
    let served = Served::start(&env).await;
    let mut command = at(&env);
    command.args([
        "stats", "workshop", "--expect", "1", "--watch", "100ms", "-o", "jsonl",
    ]);
    let mut watch = Program::spawn(&mut command);
    let divide = |line: String| -> serde_json::Value { serde_json::from_str(&line).expect("JSON") };
    let first = divide(watch.line_with("\"divide\"").await);
    assert_eq!(
        (&first["requests"], &first["rate"]),
        (&json!(0), &json!(null))
    );
    run(&env, &["call", "workshop.divide", "[84,2]"]).await.ok();
    loop {
        let next = divide(watch.line_with("\"divide\"").await);
        assert!(next["rate"].is_number(), "{next}");
        if next["requests"] == 1 {
            break;
        }
    }
    watch.signal(Signal::INT);
    assert_eq!(watch.ended().await.status.code(), Some(130));
    served.stop().await;
}

async fn figures_stay_while_the_broker_is_away(env: Env) {
    let served = Served::start(&env).await;
    let proxy = Proxy::start(&env.uri).await;
    let lepus = Lepus::at(proxy.uri(), env.namespace());
    let watch = lepus.start(&[
        "stats",
        "workshop",
        "--expect",
        "1",
        "--watch",
        "100ms",
        "--timeout",
        "1s",
        "-o",
        "jsonl",
    ]);
    let lines = || watch.printed().matches("\"divide\"").count();
    eventually("figures come", || async { lines() > 0 }).await;
    proxy.down().await;
    proxy.cut(Cut::Rst);
    let is_told = || watch.printed().contains("warning: ");
    eventually("the loss is told", || async { is_told() }).await;
    let before = lines();
    proxy.up().await;
    eventually("figures come again", || async { lines() > before }).await;
    watch.signal(Signal::INT);
    assert_eq!(watch.ended().await.status.code(), Some(130));
    served.stop().await;
}

async fn an_unknown_service_is_served_by_nobody(env: Env) {
    for arguments in [
        &["ls", "hare"][..],
        &["info", "hare"],
        &["stats", "hare"],
        &["health", "hare"],
    ] {
        run(&env, arguments)
            .await
            .failed(4, &["nobody serves `hare`"]);
    }
    let ping = run(&env, &["ping", "hare", "-n", "1"]).await;
    ping.failed(4, &["nobody serves `hare`"]);
    run(&env, &["health"])
        .await
        .failed(4, &["nobody serves anything"]);
}

async fn an_answer_that_cannot_be_read_is_told(env: Env) {
    let served = Served::start(&env).await;
    let raw = Raw::open(&env.uri).await;
    let questions = env.name("questions");
    raw.declare(&questions).await;
    let exchange = format!("{}.lepus.control", env.namespace());
    raw.bind(&questions, &exchange, "all", &[]).await;
    let asked = Program::spawn(at(&env).args(["ls", "-o", "jsonl"]));
    let question = raw.next(&questions).await.delivery.properties;
    let reply_to = question.reply_to().clone().expect("an address");
    let answer = BasicProperties::default()
        .with_type(question.kind().clone().expect("a type"))
        .with_correlation_id(question.correlation_id().clone().expect("an id"))
        .with_content_type("application/json".into());
    raw.publish_with("", reply_to.as_str(), b"hare", answer)
        .await
        .expect("a confirm");
    let ended = asked.ended().await;
    assert!(ended.status.success(), "{}", ended.printed);
    assert_eq!(ended.lines.len(), 1, "{}", ended.printed);
    assert!(
        ended
            .printed
            .contains("warning: an answer cannot be read: "),
        "{}",
        ended.printed
    );
    raw.close().await;
    served.stop().await;
}

async fn a_reader_that_goes_away_is_no_failure(env: Env) {
    let served = Served::start(&env).await;
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = at(&env);
    command
        .args(["ls", "workshop"])
        .stdout(writer)
        .stderr(Stdio::piped());
    let ended = ended_with(command).await;
    assert_eq!((ended.0, &*ended.1), (Some(0), ""));
    served.stop().await;
}

async fn ended_with(mut command: tokio::process::Command) -> (Option<i32>, String) {
    let child = command.spawn().expect("the command starts");
    let output = child.wait_with_output().await.expect("the command ends");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code(), stderr)
}

async fn colours_are_for_terminals(env: Env) {
    let served = Served::start(&env).await;
    // `script` gives it a terminal.
    for (no_color, is_coloured) in [("", true), ("1", false)] {
        let mut script = tokio::process::Command::new("script");
        let lepus = format!("{} health", env!("CARGO_BIN_EXE_lepus"));
        script
            .args(["-qec", &lepus, "/dev/null"])
            .env("TERM", "xterm");
        script
            .env("LEPUS_URL", &env.uri)
            .env("LEPUS_NAMESPACE", env.namespace());
        let shown = ended(script.env("NO_COLOR", no_color)).await.ok();
        assert_eq!(shown.contains("\u{1b}["), is_coloured, "{shown:?}");
        assert!(shown.contains("SERVING"), "{shown:?}");
    }
    // Columns that would be too narrow to read are lines.
    let mut script = tokio::process::Command::new("script");
    let lepus = format!("stty cols 30; {} health", env!("CARGO_BIN_EXE_lepus"));
    script
        .args(["-qec", &lepus, "/dev/null"])
        .env("TERM", "xterm");
    script
        .env("LEPUS_URL", &env.uri)
        .env("LEPUS_NAMESPACE", env.namespace());
    let shown = ended(&mut script).await.ok();
    assert!(shown.contains("STATUS    SERVING"), "{shown:?}");
    let plain = run(&env, &["health"]).await.ok();
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    served.stop().await;
}

conformance!(
    services_and_their_methods_are_listed,
    a_service_is_described,
    instances_are_pinged,
    health_is_shown_with_its_reasons,
    figures_are_summed_up,
    figures_are_watched_until_an_interrupt,
    figures_stay_while_the_broker_is_away,
    an_unknown_service_is_served_by_nobody,
    an_answer_that_cannot_be_read_is_told,
    a_reader_that_goes_away_is_no_failure,
    colours_are_for_terminals,
);
