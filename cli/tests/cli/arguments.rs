//! Arguments, contexts and connections: mistakes get one clear line and their exit code.

use std::fs;
use std::process::Stdio;

use lepus_broker::Target;
use lepus_tests::{Env, conformance};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::lepus::{Ended, at, bare, ended};
use crate::workshop::Served;

async fn of(arguments: &[&str]) -> Ended {
    ended(bare().args(arguments)).await
}

/// A port of this machine on which nothing listens: it was free a moment ago.
fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test]
async fn help_is_no_mistake_and_has_examples() {
    let help = of(&["--help"]).await.ok();
    assert!(
        help.contains("LEPUS_URL") && help.contains("completions"),
        "{help}"
    );
    assert!(of(&["--version"]).await.ok().starts_with("lepus 0."));
    assert!(help.contains("Examples:\n  lepus "), "{help}");
    let commands = [
        "jobs",
        "dead",
        "events",
        "topology",
        "ls",
        "info",
        "stats",
        "ping",
        "health",
        "call",
        "check",
        "check service",
        "check queue",
        "bench",
        "bench rpc",
        "bench jobs",
        "broker",
        "completions",
        "jobs push",
        "jobs ls",
        "jobs peek",
        "dead ls",
        "dead show",
        "dead replay",
        "dead purge",
        "events tail",
        "events publish",
        "topology export",
        "topology diff",
        "top",
    ];
    for command in commands {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        let help = of(&arguments).await.ok();
        assert!(help.contains("Examples:\n  lepus "), "{help}");
    }
}

#[tokio::test]
async fn a_mistake_in_the_arguments_is_a_usage_error() {
    for (arguments, text) in [
        (&["bell"][..], "unrecognized subcommand 'bell'"),
        (&["call"], "SERVICE.METHOD"),
        (&["ls", "--timeout", "soon"], "`soon` is no time"),
        (&["ls", "--timeout", "0"], "the shortest timeout"),
        (&["jobs", "push", "jobs", "{"], "the document is no JSON"),
        (
            &["events", "publish", "logs", "key", "[1"],
            "the document is no JSON",
        ),
        (
            &[
                "call",
                "a.b",
                "n=18446744073709551616",
                "--codec",
                "msgpack",
            ],
            "no integer 18446744073709551616",
        ),
        (
            &[
                "call",
                "a.b",
                "[-9223372036854775809]",
                "--codec",
                "msgpack",
            ],
            "no integer -9223372036854775809",
        ),
        (
            &["check", "service", "a", "--p95", "1s", "--window", "1ms"],
            "the shortest window",
        ),
        (&["call", "calculator"], "write SERVICE.METHOD"),
        (&["call", "calculator.divide", "{n:30}"], "are no JSON"),
        (&["call", "calculator.divide", "n=1", "n=2"], "given twice"),
        (
            &["call", "calculator.divide", "@/no/such/file"],
            "/no/such/file cannot be read",
        ),
        (
            &["call", "calculator.divide", "-H", "tenant"],
            "write NAME=VALUE",
        ),
        (
            &["call", "calculator.divide", "-", "--repeat", "2"],
            "--repeat does not go",
        ),
        (&["call", "calculator.divide", "--priority", "256"], "256"),
        (&["stats", "--by", "day"], "invalid value 'day'"),
        (&["broker", "nowhere"], "write an IP address and a port"),
        (
            &["ls", "--url", "amqp://a", "--context", "b"],
            "cannot be used with",
        ),
    ] {
        let ended = of(arguments).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.starts_with("error: ") && ended.stderr.contains(text),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stdout, "");
    }
}

#[tokio::test]
async fn the_source_of_a_url_is_named() {
    let none = of(&["ls", "--url", "carrot"]).await;
    none.failed(1, &["--url: the URI is not an AMQP URI"]);
    let variable = ended(bare().env("AMQP_URL", "carrot").arg("ls")).await;
    variable.failed(1, &["AMQP_URL: the URI is not an AMQP URI"]);
}

#[tokio::test]
async fn a_url_that_is_none_is_not_repeated() {
    for url in [
        "http://user:carrot@host",
        "amqp://user:carrot@host:port",
        "carrot",
    ] {
        let ended = of(&["ls", "--url", url]).await;
        assert!(!ended.stderr.contains("carrot"), "{}", ended.stderr);
        ended.failed(1, &[]);
    }
}

#[tokio::test]
async fn without_a_broker_it_ends_with_2() {
    let url = format!("amqp://user:carrot@127.0.0.1:{}", closed_port());
    for command in [
        &["ls"][..],
        &["call", "calculator.divide"],
        &["ping"],
        &["bench", "rpc"],
        &["health"],
        &["jobs", "ls"],
        &["dead", "show", "jobs"],
        &["events", "tail", "logs"],
        &["topology", "export"],
    ] {
        let ended = of(&[command, &["--url", &url]].concat()).await;
        assert!(!ended.stderr.contains("carrot"), "{}", ended.stderr);
        ended.failed(2, &["no connection to the broker", "127.0.0.1"]);
    }
}

#[tokio::test]
async fn contexts_are_names_for_urls() {
    let folder = std::env::temp_dir().join(format!("lepus-contexts-{}", std::process::id()));
    fs::create_dir_all(folder.join("lepus")).expect("a folder");
    let port = closed_port();
    let contexts = format!("# mine\nlocal = amqp://hare:carrot@127.0.0.1:{port}\n");
    fs::write(folder.join("lepus/contexts"), contexts).expect("a file");
    let run = async |arguments: &[&str]| {
        ended(bare().env("XDG_CONFIG_HOME", &folder).args(arguments)).await
    };
    let local = run(&["ls", "--context", "local"]).await;
    assert!(!local.stderr.contains("carrot"), "{}", local.stderr);
    local.failed(2, &[&format!("127.0.0.1:{port}")]);
    run(&["ls", "--context", "prod"])
        .await
        .failed(1, &["has no context `prod`"]);
    fs::write(folder.join("lepus/contexts"), "hare carrot\n").expect("a file");
    let wrong = run(&["ls", "--context", "prod"]).await;
    assert!(!wrong.stderr.contains("carrot"), "{}", wrong.stderr);
    wrong.failed(1, &["line 1: write `name = URL`"]);
    let none = of(&["ls", "--context", "prod"]).await;
    none.failed(1, &["there is no file /no/such/folder/lepus/contexts"]);
    fs::remove_dir_all(&folder).expect("the folder");
}

#[tokio::test]
async fn completions_and_the_manual_name_the_commands() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = of(&["completions", shell]).await.ok();
        assert!(
            script.contains("health") && script.contains("namespace"),
            "{shell}"
        );
    }
    let page = of(&["completions", "man"]).await.ok();
    assert!(
        page.starts_with(".ie") || page.contains(".TH lepus 1"),
        "{page}"
    );
    let folder = std::env::temp_dir().join(format!("lepus-man-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let into = folder.to_str().expect("UTF-8");
    of(&["completions", "man", "--into", into]).await.ok();
    let page = fs::read_to_string(folder.join("lepus-call.1")).expect("a page");
    assert!(page.contains("Examples"), "{page}");
    of(&["completions", "man", "--into", "/no/such/folder"])
        .await
        .failed(1, &["/no/such/folder"]);
    fs::remove_dir_all(&folder).expect("the folder");
}

async fn a_broker_that_refuses_is_named(env: Env) {
    let with = |change: &dyn Fn(&str) -> String| {
        let mut command = at(&env);
        command.args(["ls"]).env("LEPUS_URL", change(&env.uri));
        command
    };
    let without_vhost = |uri: &str| {
        let (_, rest) = uri.split_once("://").expect("a scheme");
        let authority = rest.split('/').next().expect("an authority");
        format!("amqp://{authority}")
    };
    let vhost = ended(&mut with(&|uri| without_vhost(uri) + "/burrow")).await;
    vhost.failed(2, &["virtual host"]);
    let password = |uri: &str| {
        let address = without_vhost(uri);
        let host = address
            .rsplit(['@', '/'])
            .next()
            .expect("a host")
            .to_owned();
        format!("amqp://guest:wrong-carrot@{host}")
    };
    let refused = ended(&mut with(&password)).await;
    assert!(!refused.stderr.contains("carrot"), "{}", refused.stderr);
    refused.failed(2, &["user or password"]);
}

async fn a_missing_permission_is_named(env: Env) {
    let Some(broker) = env.embedded() else {
        env.leave_out("the user of this broker may do everything");
        return;
    };
    let served = Served::start(&env).await;
    let mut command = at(&env);
    command.args(["call", "workshop.square", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut input = child.stdin.take().expect("a piped stdin");
    let mut output = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
    input.write_all(b"7\n").await.expect("a line");
    assert_eq!(
        output.next_line().await.expect("a line").as_deref(),
        Some("49")
    );
    // The permission to write is taken from it while it is connected.
    let name = concat!("lepus-cli ", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        broker
            .faults()
            .deny_writes(Target::Named(name.to_owned()), true),
        1
    );
    input.write_all(b"7\n").await.expect("a line");
    drop(input);
    let ended = child.wait_with_output().await.expect("the command ends");
    let stderr = String::from_utf8(ended.stderr).expect("UTF-8");
    assert_eq!(ended.status.code(), Some(71), "{stderr}");
    assert!(
        stderr.starts_with("error: line 2: ") && stderr.contains("403"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    served.stop().await;
}

async fn the_namespace_is_an_option_too(env: Env) {
    let served = Served::start(&env).await;
    let mut command = at(&env);
    command.env_remove("LEPUS_NAMESPACE");
    command.args([
        "call",
        "workshop.square",
        "7",
        "--namespace",
        env.namespace(),
    ]);
    assert_eq!(ended(&mut command).await.ok(), "49\n");
    served.stop().await;
}

conformance!(
    a_broker_that_refuses_is_named,
    a_missing_permission_is_named,
    the_namespace_is_an_option_too,
);
