//! The log of the library: its lines, and the texts that it never shows.

use lepus::{Code, Connection, Status};
use lepus_broker::Broker;
use lepus_tests::env::turn;
use lepus_tests::eventually;
use lepus_tests::log::Log;
use lepus_tests::peer::short;
use lepus_tests::probe::{ProbeClient, ProbeServer, Subject, serve, serve_concurrently};
use lepus_tests::raw::Raw;
use std::sync::Arc;
use std::time::Duration;

const USER: &str = "jack-rabbit";
const PASSWORD: &str = "s3cret-carrot";

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_logged_and_credentials_are_not() {
    let _turn = turn().await;
    let log = Log::capture("lepus=trace");
    log.take();
    let logged = async |text: &str| log.line_with(&[text]).await;

    let broker = Broker::builder()
        .user(USER, PASSWORD)
        .start()
        .await
        .unwrap();
    let builder = Connection::builder(&broker.uri())
        .backoff(Duration::from_millis(10), Duration::from_millis(100));
    let mut shown = format!("{builder:?}");
    let connection = builder.open().await.unwrap();
    let subject = Arc::new(Subject::default());
    let server = serve(&connection, &subject);
    shown += &format!("{server:?}");
    let server = server.start().await.unwrap();
    let probe = ProbeClient::new(&connection);
    shown += &format!(
        "{connection:?} {server:?} {probe:?} {:?}",
        connection.state()
    );

    // A panic is the log's business, the arguments are not.
    assert!(probe.panic("over the fence".into()).await.is_err());
    logged("a handler panicked").await;
    logged("over the fence").await;
    probe.echo("my private text".into()).await.unwrap();

    // What a peer says begins no line of its own, and no terminal obeys it.
    let raw = Raw::open(&broker.uri()).await;
    raw.declare("replies").await;
    const FORGED: &str = "x\nFORGED\r\u{1b}[2J\u{85}\u{2028}";
    let good = || {
        lapin::BasicProperties::default()
            .with_type("echo".into())
            .with_content_type("application/json".into())
            .with_correlation_id("1".into())
            .with_reply_to("replies".into())
    };
    for properties in [
        good().with_type(short(FORGED)),
        good().with_content_type(short(FORGED)),
        good()
            .with_type("no_such".into())
            .with_reply_to(short(FORGED)),
        good().with_type(short(FORGED)).with_expiration("0".into()),
        lapin::BasicProperties::default().with_type(short(FORGED)),
    ] {
        let sent = raw.publish_with("", "probe", br#"{"text":"x"}"#, properties);
        sent.await.unwrap();
    }
    let json = r#"{"text":1,"x\nFORGED":2}"#;
    let sent = raw.publish_with("", "probe", json.as_bytes(), good());
    sent.await.unwrap();
    assert!(probe.panic(FORGED.into()).await.is_err());
    eventually("five refused", || async {
        let refused = connection.stats().malformed;
        if refused >= 5 { Ok(()) } else { Err(refused) }
    })
    .await;
    logged("x\\nFORGED\\r\\u{1b}[2J\\u{85}\\u{2028}").await;
    // And so do the texts of errors.
    let error = Status::new(Code::Internal, FORGED).to_string();
    assert_eq!(error, "internal: x\\nFORGED\\r\\u{1b}[2J\\u{85}\\u{2028}");

    // A broadcast subscription's queue has a name of its own.
    let topic = lepus::Topic::<String>::new("meadow");
    let events = topic.subscribe(&connection).bind("#").stream().await;
    logged("queue=\"lepus.events.meadow.").await;
    assert!(!log.text().contains("queue=\"meadow\""), "{}", log.text());
    drop(events);

    // Lost and found.
    logged("connected to the broker").await;
    broker
        .faults()
        .cut(lepus_broker::Target::All, lepus_broker::Cut::Rst);
    logged("connection to the broker lost").await;
    eventually("calls as before", || async {
        probe.echo("back".into()).await
    })
    .await;

    // Refused.
    let wrong = broker.uri_for(USER, "s3cret-wrong", "/");
    let error = Connection::open(&wrong).await.unwrap_err();
    shown += &format!("{error} {error:?}");
    connection.close().await;
    drop(server);

    let log = log.take();
    Log::capture("off");
    for line in log.lines() {
        assert!(!line.starts_with("FORGED"), "{log}");
    }
    let is_control = |letter: char| letter != '\n' && letter.is_control() || letter == '\u{2028}';
    assert!(!log.contains(is_control), "{log:?}");
    for secret in [PASSWORD, "s3cret", "my private text"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
    assert!(!shown.contains(USER), "{shown}");
    assert!(
        shown.contains(&broker.address().to_string()),
        "the address is shown: {shown}"
    );
    for level in ["INFO", "WARN", "DEBUG"] {
        assert!(log.contains(level), "nothing at {level}:\n{log}");
    }
    // What is wanted again and again is quiet.
    let loud = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert!(
        loud.clone().count() < 20,
        "{}",
        loud.collect::<Vec<_>>().join("\n")
    );
}

/// Two versions of a contract.
mod versions {
    pub(super) mod old {
        #[lepus::service(name = "hedge")]
        pub trait Hedge {
            async fn hide(&self, from: String);
            async fn seek(&self);
        }
    }

    pub(super) mod new {
        #[lepus::service(name = "hedge")]
        pub trait Hedge {
            async fn hide(&self, from: String, dry_run: bool, until: Option<u64>);
            async fn seek(&self, dry_run: bool);
        }
    }
}

struct Hedge;

impl versions::old::Hedge for Hedge {
    async fn hide(&self, _: String) {}
    async fn seek(&self) {}
}

#[tokio::test]
async fn an_argument_that_is_ignored_is_logged_once() {
    let _turn = turn().await;
    let log = Log::capture("lepus=warn");
    log.take();
    let service = versions::old::HedgeServer::new(Hedge);
    let hedge = versions::new::HedgeClient::from(lepus::rpc::Client::local(service));
    for _ in 0..3 {
        hedge
            .hide("my private fox".into(), true, None)
            .await
            .unwrap();
        hedge.seek(false).await.unwrap();
    }
    let log = log.take();
    Log::capture("off");
    let ignored: Vec<_> = log
        .lines()
        .filter(|line| line.contains("ignored"))
        .collect();
    assert_eq!(ignored.len(), 3, "{log}");
    for (line, fields) in ignored.iter().zip([
        r#"service=hedge method="hide" argument=dry_run"#,
        r#"service=hedge method="hide" argument=until"#,
        r#"service=hedge method="seek" argument=dry_run"#,
    ]) {
        assert!(line.contains(" WARN ") && line.contains(fields), "{line}");
    }
    assert!(!log.contains("private"), "{log}");
}

/// One warning tells that a process is not found. All else works, and it is not tried again, although the
/// permission is there by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_queue_that_is_not_permitted_is_one_warning() {
    let _turn = turn().await;
    let log = Log::capture("lepus=info");
    log.take();
    let broker = Broker::start().await.unwrap();
    let raw = Raw::open(&broker.uri()).await;
    raw.declare("probe").await;
    let calling = Connection::open(&broker.uri()).await.unwrap();
    let probe = ProbeClient::new(&calling);
    let serving = Connection::builder(&broker.uri()).name("serving");
    let serving = serving.open().await.unwrap();
    let target = || lepus_broker::Target::Named("serving".into());
    assert!(broker.faults().deny_queues(target(), true) > 0);
    // Its queue is there, and it declares none.
    let service = ProbeServer::new(Subject::default()).passive();
    let server = lepus::Server::new(&serving).serve(service).start();
    let server = server.await.unwrap();
    log.line_with(&["WARN", "refuses the control plane", "ACCESS_REFUSED"])
        .await;
    broker.faults().deny_queues(target(), false);
    assert_eq!(probe.echo("well".into()).await.unwrap(), "well");
    assert!(serving.health().ready, "{:?}", serving.health());
    // The next service does not begin it again.
    let mails = lepus::WorkQueue::<String>::new("mails").worker(&serving);
    let mails = mails.start(async |_: lepus::Job<String>| {}).await.unwrap();
    let discovery = lepus::Discovery::new(&calling);
    assert!(discovery.services().await.unwrap().is_empty());
    mails.stop().await.unwrap();
    server.stop().await.unwrap();
    raw.close().await;
    let text = log.take();
    Log::capture("off");
    assert_eq!(text.matches("control plane").count(), 1, "{text}");
}

/// One warning tells a caller that servers are not told of calls that it drops, however many it drops. All else works.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_calls_that_may_not_be_told_are_one_warning() {
    let _turn = turn().await;
    let log = Log::capture("lepus=info");
    log.take();
    let broker = Broker::start().await.unwrap();
    let serving = Connection::open(&broker.uri()).await.unwrap();
    let subject = Arc::new(Subject::default());
    let server = serve_concurrently(&serving, &subject, 4).start().await;
    let calling = Connection::builder(&broker.uri()).name("calling");
    let calling = calling.open().await.unwrap();
    let probe = ProbeClient::new(&calling);
    let target = || lepus_broker::Target::Named("calling".into());
    let limit = Duration::from_secs(30);
    let discovery = lepus::Discovery::new(&serving);
    eventually("the server has its control queue", || async {
        let found = discovery.info("probe").expect(1).await;
        found.is_ok_and(|found| found.len() == 1)
    })
    .await;
    let first = probe.hold(1).timeout(limit).send().await.unwrap();
    let second = probe.hold(2).timeout(limit).send().await.unwrap();
    subject.gate.entered(2).await;
    // From here on, and after the requests.
    assert!(broker.faults().deny_writes(target(), true) > 0);
    drop(first);
    log.line_with(&["WARN", "refuses the control plane", "ACCESS_REFUSED"])
        .await;
    broker.faults().deny_writes(target(), false);
    drop(second);
    assert_eq!(probe.echo("well".into()).await.unwrap(), "well");
    // Both handlers run on.
    subject.gate.open(2);
    server.unwrap().stop().await.unwrap();
    assert_eq!((subject.gate.count(), subject.gate.dropped()), (2, 0));
    let text = log.take();
    Log::capture("off");
    assert_eq!(text.matches("control plane").count(), 1, "{text}");
}
