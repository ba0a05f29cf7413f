//! Orderly ends of connections and programs, which log nothing above INFO, whichever crate logs.

use crate::threads::no_threads;
use lepus::{Connection, amqp::Io};
use lepus_broker::Broker;
use lepus_tests::env::turn;
use lepus_tests::log::Log;
use lepus_tests::probe::{ProbeClient, Subject, serve};
use lepus_tests::process::{Program, Signal, example};
use std::sync::Arc;

const ENDS: usize = 20;

/// The way in which a connection ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Drop,
    DropUnused,
}

async fn end(broker: &Broker, end: End, io: Io) {
    let connection = Connection::builder(&broker.uri()).io(io).open().await;
    let connection = connection.unwrap();
    if !matches!(end, End::DropUnused) {
        let server = serve(&connection, &Arc::new(Subject::default()));
        let server = server.start().await.unwrap();
        let probe = ProbeClient::new(&connection);
        assert_eq!(probe.echo("x".into()).await.unwrap(), "x");
        server.stop().await.unwrap();
    }
    if matches!(end, End::Close) {
        connection.close().await;
    }
    drop(connection);
    no_threads().await;
}

fn loud(log: &str) -> Vec<&str> {
    let is_loud = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    log.lines().filter(is_loud).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn orderly_ends_of_connections_are_quiet() {
    let _turn = turn().await;
    no_threads().await;
    let log = Log::capture("info");
    log.take();
    let broker = Broker::start().await.unwrap();
    for way in [End::Close, End::Drop, End::DropUnused] {
        for io in [Io::Own, Io::Shared] {
            for _ in 0..ENDS {
                end(&broker, way, io).await;
            }
            let text = log.take();
            assert_eq!(loud(&text), [""; 0], "{way:?} {io:?}");
        }
    }
    Log::capture("off");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_stopped_are_quiet() {
    let _turn = turn().await;
    let broker = Broker::start().await.unwrap();
    for _ in 0..ENDS {
        let mut command = example("fib_server");
        command
            .env("AMQP_URL", broker.uri())
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1");
        let mut server = Program::spawn(&mut command);
        server.line_with("Awaiting RPC requests").await;
        server.signal(Signal::INT);
        let ended = server.ended().await;
        assert!(ended.status.success(), "{}", ended.printed);
        assert!(ended.printed.contains(" INFO "), "{}", ended.printed);
        assert_eq!(loud(&ended.printed), [""; 0]);
    }
}
