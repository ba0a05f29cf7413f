//! Streams whose server or reader is a process that is killed with SIGKILL, or has a connection that is half-open.

use lepus::{Connection, Server};
use lepus_tests::numbers::{NumbersClient, NumbersServer, NumbersSubject};
use lepus_tests::process::{Program, Signal};
use lepus_tests::proxy::{Proxy, Tap, Way};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

conformance!(
    row_54_the_reader_of_a_killed_server_is_told_by_the_broker,
    row_54_a_quiet_reader_of_a_killed_server_is_told_by_a_probe,
    row_54_a_server_drops_the_streams_of_a_killed_reader,
    row_13_a_half_open_reader_is_missed,
    row_13_a_half_open_server_is_missed,
);

fn peer(env: &Env, role: &str) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_numbers_peer"));
    command.arg(role).arg(&env.uri).arg(env.namespace());
    Program::spawn(&mut command)
}

/// A server of numbers in this process.
fn numbers(connection: &Connection) -> (Arc<NumbersSubject>, Server) {
    let subject = Arc::new(NumbersSubject::default());
    let service = NumbersServer::from_arc(Arc::clone(&subject));
    (subject, Server::new(connection).serve(service))
}

/// Kills a server, and returns when the broker knows that it is gone.
async fn kill(env: &Env, server: Program) {
    server.signal(Signal::KILL);
    server.ended().await;
    let raw = Raw::open(&env.uri).await;
    eventually("the broker has seen it", || async {
        raw.count(&env.name("numbers")).await.consumers == 0
    })
    .await;
    raw.close().await;
}

/// Whether a message of this type was sent to the broker.
fn has_sent(tap: &Tap, kind: &str) -> bool {
    tap.chunks()
        .iter()
        .filter(|chunk| chunk.way == Way::Up)
        .any(|chunk| contains(&chunk.bytes, kind))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

async fn row_54_the_reader_of_a_killed_server_is_told_by_the_broker(env: Env) {
    let mut server = peer(&env, "serve");
    server.line_with("ready").await;
    let proxy = Proxy::start(&env.uri).await;
    let tap = proxy.tap();
    let calling = env.connect_at(proxy.uri()).await;
    let forever = NumbersClient::new(&calling).forever();
    let mut forever = forever.window(64).await.unwrap();
    for expected in 0..1000 {
        assert_eq!(forever.next().await.unwrap().unwrap(), expected);
    }
    kill(&env, server).await;
    // What was sent before is read. Then a credit comes back, because the queue of the server is gone.
    let error = loop {
        let before = forever.items();
        match forever.next().await.expect("an item or an error") {
            Ok(number) => assert_eq!(number, before),
            Err(error) => break error,
        }
    };
    assert!(error.is_disconnected(), "{error}");
    let report = format!("{:?}", error.rpc().unwrap());
    let items = format!("after {} items", forever.items());
    assert!(report.contains(&items), "{report}");
    assert!(forever.next().await.is_none());
    assert!(has_sent(&tap, "lepus.credit/1"));
    assert!(!has_sent(&tap, "lepus.probe/1"), "it was told without");
    assert_eq!(calling.stats().open_streams, 0);
}

async fn row_54_a_quiet_reader_of_a_killed_server_is_told_by_a_probe(env: Env) {
    let mut server = peer(&env, "serve");
    server.line_with("ready").await;
    let calling = env.connect().await;
    let mut quiet = NumbersClient::new(&calling).quiet().await.unwrap();
    kill(&env, server).await;
    let error = quiet.next().await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    let report = format!("{:?}", error.rpc().unwrap());
    assert!(report.contains("after 0 items"), "{report}");
    assert_eq!(calling.stats().open_streams, 0);
}

async fn row_54_a_server_drops_the_streams_of_a_killed_reader(env: Env) {
    env.name("numbers");
    let (serving, calling) = (env.connect().await, env.connect().await);
    let (subject, server) = numbers(&serving);
    let server = server.streams(2).start().await.unwrap();
    let mut reader = peer(&env, "read");
    assert_eq!(reader.line().await, "read 0");
    // It has both permits.
    let numbers = NumbersClient::new(&calling);
    let refused = numbers.quiet().await.unwrap_err();
    let code = refused.rpc().and_then(lepus::Error::code);
    assert_eq!(code, Some(lepus::Code::ResourceExhausted));
    reader.signal(Signal::KILL);
    reader.ended().await;
    eventually("no stream is open", || async {
        subject.open() + serving.stats().open_streams == 0
    })
    .await;
    let first = eventually("a permit", || async { numbers.quiet().await }).await;
    let second = eventually("a permit", || async { numbers.forever().await }).await;
    assert_eq!(subject.open(), 2);
    drop((first, second));
    server.stop().await.unwrap();
}

/// A connection that the broker gives up two seconds after its last sign of life.
async fn watched(env: &Env, proxy: &Proxy) -> Connection {
    let builder = env.builder_at(proxy.uri());
    let builder = builder.heartbeat(Duration::from_secs(1));
    builder.open().await.unwrap()
}

async fn row_13_a_half_open_reader_is_missed(env: Env) {
    env.name("numbers");
    let serving = env.connect().await;
    let (subject, server) = numbers(&serving);
    let server = server.start().await.unwrap();
    let proxy = Proxy::start(&env.uri).await;
    let calling = watched(&env, &proxy).await;
    let mut quiet = NumbersClient::new(&calling).quiet().await.unwrap();
    assert_eq!(subject.open(), 1);
    proxy.stall_both();
    let error = quiet.next().await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    // The broker deletes the reader's queue, and returns the next probe of the server.
    eventually("no stream is open", || async {
        subject.open() + serving.stats().open_streams == 0
    })
    .await;
    server.stop().await.unwrap();
}

async fn row_13_a_half_open_server_is_missed(env: Env) {
    env.name("numbers");
    let proxy = Proxy::start(&env.uri).await;
    let serving = watched(&env, &proxy).await;
    let (subject, server) = numbers(&serving);
    let server = server.start().await.unwrap();
    let calling = env.connect().await;
    let mut quiet = NumbersClient::new(&calling).quiet().await.unwrap();
    proxy.stall_both();
    let error = quiet.next().await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    assert_eq!(calling.stats().open_streams, 0);
    eventually("no stream is open", || async { subject.open() == 0 }).await;
    drop(server);
}
