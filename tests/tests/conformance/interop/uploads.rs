//! Uploads between Lepus and Python: items, credit, early answers and ends, both ways, on each broker.

use super::{start, stop_upload_server, upload_server};
use crate::streams::source::Source;
use futures_util::stream::{self, StreamExt};
use lepus::{Codec, Connection, Incoming, Running, Server};
use lepus_tests::process::{Program, Signal, python_is_available};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

conformance!(
    python_uploads_to_lepus,
    python_keeps_to_the_credit_of_lepus,
    lepus_answers_python_early,
    python_leaves_uploads_to_lepus,
    lepus_uploads_to_python,
    lepus_keeps_to_the_credit_of_python,
    python_answers_lepus_early,
    lepus_leaves_uploads_to_python,
    a_python_server_of_uploads_dies,
);

/// The window of an upload to Lepus.
const WINDOW: u64 = 32;

/// The methods' own error.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Refused {
    at: u64,
}

#[lepus::service(name = "importer")]
trait Importer {
    /// All rows and this number.
    async fn sum(&self, add: u64, rows: Incoming<u64>) -> u64;
    /// The sum of the rows before this one, which is refused.
    async fn below(&self, rows: Incoming<u64>, limit: u64) -> Result<u64, Refused>;
    /// The first row; reads no more of them, and answers when it is released.
    async fn leaves(&self, rows: Incoming<u64>) -> u64;
    /// The number of rows, which are read when it is released.
    async fn held(&self, rows: Incoming<u64>) -> u64;
    async fn release(&self);
}

#[derive(Debug)]
struct Subject {
    running: AtomicU64,
    read: AtomicU64,
    /// Permits for each row of `held`, and for the answers of `leaves`.
    permits: Semaphore,
}

impl Default for Subject {
    fn default() -> Self {
        Self {
            running: AtomicU64::new(0),
            read: AtomicU64::new(0),
            permits: Semaphore::new(0),
        }
    }
}

struct Begun<'a>(&'a Subject);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Subject {
    fn run(&self) -> Begun<'_> {
        self.running.fetch_add(1, Ordering::SeqCst);
        Begun(self)
    }

    async fn permit(&self) {
        self.permits.acquire().await.unwrap().forget();
    }

    /// The next row, which is the one that is due. `None` at the end, and when the caller is lost.
    async fn next(&self, rows: &mut Incoming<u64>) -> Option<u64> {
        let due = rows.items();
        let row = rows.next().await?.ok()?;
        assert_eq!(row, due);
        self.read.fetch_add(1, Ordering::SeqCst);
        Some(row)
    }
}

impl Importer for Subject {
    async fn sum(&self, add: u64, mut rows: Incoming<u64>) -> u64 {
        let _running = self.run();
        let mut sum = add;
        while let Some(row) = self.next(&mut rows).await {
            sum += row;
        }
        sum
    }

    async fn below(&self, mut rows: Incoming<u64>, limit: u64) -> Result<u64, Refused> {
        let _running = self.run();
        let mut sum = 0;
        while let Some(row) = self.next(&mut rows).await {
            if row == limit {
                return Err(Refused { at: row });
            }
            sum += row;
        }
        Ok(sum)
    }

    async fn leaves(&self, mut rows: Incoming<u64>) -> u64 {
        let _running = self.run();
        let row = self.next(&mut rows).await;
        drop(rows);
        self.permit().await;
        row.unwrap()
    }

    async fn held(&self, mut rows: Incoming<u64>) -> u64 {
        let _running = self.run();
        loop {
            self.permit().await;
            if self.next(&mut rows).await.is_none() {
                return rows.items();
            }
        }
    }

    async fn release(&self) {
        self.permits.add_permits(1);
    }
}

/// A server of Lepus, which Python calls.
struct Serving {
    connection: Connection,
    server: Running,
    subject: Arc<Subject>,
    queue: String,
}

impl Serving {
    async fn start(env: &Env) -> Self {
        let connection = env.connect().await;
        let queue = env.name("importer");
        let subject = Arc::new(Subject::default());
        let service = ImporterServer::from_arc(Arc::clone(&subject));
        let server = Server::new(&connection).serve(service).start().await;
        Self {
            server: server.unwrap(),
            connection,
            subject,
            queue,
        }
    }

    /// A Python client that calls one method, with so many rows.
    fn call(&self, env: &Env, codec: &str, method: &str, arguments: &str, rows: &str) -> Program {
        let arguments = [&self.queue, codec, method, arguments, rows];
        start(env, "upload_client.py", &arguments)
    }

    fn read(&self) -> u64 {
        self.subject.read.load(Ordering::SeqCst)
    }

    async fn is_at_rest(&self) {
        eventually("no stream is open", || async {
            let running = self.subject.running.load(Ordering::SeqCst);
            running + self.connection.stats().open_streams == 0
        })
        .await;
    }

    async fn stop(self) {
        self.is_at_rest().await;
        self.server.stop().await.unwrap();
    }
}

async fn python_server(env: &Env, window: u64) -> Program {
    upload_server(env, "importer", window).await
}

async fn python_uploads_to_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let serving = Serving::start(&env).await;
    for codec in ["json", "msgpack"] {
        for rows in [0, 1, WINDOW, WINDOW + 1, 500] {
            let (arguments, count) = (r#"{"add": 7}"#, rows.to_string());
            let printed = serving.call(&env, codec, "sum", arguments, &count);
            let printed = printed.succeeded().await;
            let last = [
                format!("ended after {rows}"),
                format!("reply {}", (0..rows).sum::<u64>() + 7),
            ];
            assert!(printed.ends_with(&last), "{codec}: {printed:?}");
        }
        // The stream is no argument, by position either.
        let printed = serving.call(&env, codec, "below", "[9]", "9");
        assert_eq!(printed.succeeded().await, ["ended after 9", "reply 36"]);
        let missing = serving.call(&env, codec, "missing", "{}", "9");
        let missing = missing.succeeded().await;
        assert!(missing[0].starts_with("error unimplemented"), "{missing:?}");
    }
    serving.stop().await;
}

async fn python_keeps_to_the_credit_of_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let serving = Serving::start(&env).await;
    let mut client = serving.call(&env, "msgpack", "held", "{}", "100");
    assert_eq!(client.line().await, "waits after 32");
    let permits = &serving.subject.permits;
    permits.add_permits(15);
    eventually("the rows are read", || async { serving.read() == 15 }).await;
    // The credit is due at half of the window.
    permits.add_permits(1);
    assert_eq!(client.line().await, "waits after 48");
    permits.add_permits(85);
    for line in ["waits after 64", "waits after 80", "waits after 96"] {
        assert_eq!(client.line().await, line);
    }
    assert_eq!(client.succeeded().await, ["ended after 100", "reply 100"]);
    assert_eq!(serving.read(), 100);
    // An end needs no credit.
    let mut client = serving.call(&env, "json", "held", "{}", "32");
    assert_eq!(client.line().await, "ended after 32");
    permits.add_permits(33);
    assert_eq!(client.succeeded().await, ["reply 32"]);
    serving.stop().await;
}

async fn lepus_answers_python_early(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let serving = Serving::start(&env).await;
    for codec in ["json", "msgpack"] {
        let refused = r#"error application  {"at": 3}"#;
        // The method leaves the rows when it returns, right before its reply.
        for (rows, printed) in [
            ("10+", &["stopped after 10", refused][..]),
            ("100000", &["waits after 32", "stopped after 32", refused]),
        ] {
            let client = serving.call(&env, codec, "below", r#"{"limit": 3}"#, rows);
            assert_eq!(client.succeeded().await, printed, "{codec} {rows}");
        }
        // The method reads no more, and goes on.
        let read = serving.read();
        let mut client = serving.call(&env, codec, "leaves", "{}", "1000");
        assert_eq!(client.line().await, "waits after 32");
        assert_eq!(client.line().await, "stopped after 32");
        assert_eq!(serving.read(), read + 1);
        serving.subject.permits.add_permits(1);
        assert_eq!(client.succeeded().await, ["reply 0"]);
        // The method reads no more after all rows have come.
        serving.subject.permits.add_permits(1);
        let printed = serving.call(&env, codec, "leaves", "{}", "3");
        let printed = printed.succeeded().await;
        assert_eq!(printed.last().unwrap(), "reply 0");
    }
    serving.stop().await;
}

async fn python_leaves_uploads_to_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let serving = Serving::start(&env).await;
    let client = serving.call(&env, "msgpack", "held", "{}", "20!");
    assert_eq!(client.succeeded().await, ["cancelled"]);
    serving.is_at_rest().await;
    assert_eq!(serving.read(), 0);
    // One that is killed is missed when a credit comes back.
    let mut killed = serving.call(&env, "json", "held", "{}", "100");
    assert_eq!(killed.line().await, "waits after 32");
    serving.subject.permits.add_permits(1);
    // All rows have come, because they are one message.
    eventually("the rows have come", || async { serving.read() == 1 }).await;
    killed.signal(Signal::KILL);
    killed.ended().await;
    serving.subject.permits.add_permits(1000);
    serving.is_at_rest().await;
    assert!(serving.read() >= WINDOW / 2, "{}", serving.read());
    serving.stop().await;
}

async fn lepus_uploads_to_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    for window in [1, 7, 1000] {
        let mut server = python_server(&env, window).await;
        let calling = env.connect().await;
        for codec in [Codec::MsgPack, Codec::Json] {
            let importer = ImporterClient::builder(&calling).codec(codec);
            let importer: ImporterClient = importer.build();
            for rows in [0, 1, 7, 8, 500] {
                let sum = importer.sum(7, stream::iter(0..rows)).await;
                let due = (0..rows).sum::<u64>() + 7;
                assert_eq!(sum.unwrap(), due, "{codec} {window}");
                let line = server.line().await;
                assert_eq!(line, format!(" [x] ended sum after {rows} rows"));
            }
        }
        let stats = calling.stats();
        assert_eq!((stats.dropped_replies, stats.open_streams), (0, 0));
        stop_upload_server(server).await;
    }
}

async fn lepus_keeps_to_the_credit_of_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut server = python_server(&env, 10).await;
    let calling = env.connect().await;
    let importer = ImporterClient::new(&calling);
    let source = Source::default();
    let rows = source.endless(10_000).take(100);
    let call = tokio::spawn(importer.held(rows).into_future());
    eventually("the window is full", || async { source.polled() == 10 }).await;
    // The server answers another call while that one waits.
    assert_eq!(importer.sum(0, stream::iter(0..5)).await.unwrap(), 10);
    assert_eq!(server.line().await, " [x] ended sum after 5 rows");
    assert_eq!(source.polled(), 10);
    importer.release().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 100);
    assert_eq!(server.line().await, " [x] ended held after 100 rows");
    source.is_dropped().await;
    stop_upload_server(server).await;
}

async fn python_answers_lepus_early(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let server = python_server(&env, 10).await;
    let calling = env.connect().await;
    for codec in [Codec::MsgPack, Codec::Json] {
        let importer: ImporterClient = ImporterClient::builder(&calling).codec(codec).build();
        let source = Source::default();
        for rows in [4, 100_000] {
            let refused = importer.below(source.endless(rows), 3).await;
            let refused = refused.unwrap_err();
            assert_eq!(refused.service(), Some(&Refused { at: 3 }), "{codec}");
            source.is_dropped().await;
        }
        assert!(source.polled() <= 4 + 20, "{}", source.polled());
        // The method reads no more, and goes on.
        let call = tokio::spawn(importer.leaves(source.endless(1000)).into_future());
        source.is_dropped().await;
        assert!(!call.is_finished());
        importer.release().await.unwrap();
        assert_eq!(call.await.unwrap().unwrap(), 0);
    }
    let importer = ImporterClient::new(&calling);
    let unread = importer.below(stream::iter(0..3), 3).await;
    assert_eq!(unread.unwrap(), 3);
    let stats = calling.stats();
    assert_eq!((stats.dropped_replies, stats.open_streams), (0, 0));
    stop_upload_server(server).await;
}

async fn lepus_leaves_uploads_to_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut server = python_server(&env, 10).await;
    let source = Source::default();
    let (proxy, calling) = env.proxied().await;
    let importer = ImporterClient::new(&calling);
    let call = tokio::spawn(importer.sum(0, source.endless(5)).into_future());
    eventually("all are sent", || async { source.polled() == 5 }).await;
    call.abort();
    server.line_with("cancelled sum").await;
    source.is_dropped().await;
    // A client that is gone is found out by a credit that comes back, or a probe.
    let call = importer.held(source.endless(100)).into_future();
    let call = tokio::spawn(call);
    eventually("the window is full", || async { source.polled() == 15 }).await;
    proxy.down().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    source.is_dropped().await;
    let other = ImporterClient::new(&env.connect().await);
    other.release().await.unwrap();
    server.line_with("lost held").await;
    stop_upload_server(server).await;
}

async fn a_python_server_of_uploads_dies(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let server = python_server(&env, 10).await;
    let calling = env.connect().await;
    let importer = ImporterClient::new(&calling);
    let source = Source::default();
    let (sender, rows) = tokio::sync::mpsc::unbounded_channel::<u64>();
    let later = stream::unfold(rows, async |mut rows| Some((rows.recv().await?, rows)));
    let rows = source.endless(5).take(5).chain(later);
    let call = tokio::spawn(importer.sum(0, rows).into_future());
    eventually("five are sent", || async { source.polled() == 5 }).await;
    server.signal(Signal::KILL);
    server.ended().await;
    // The broker sees the end of the connection sooner or later; then a row comes back.
    let raw = Raw::open(&env.uri).await;
    eventually("the broker has seen it", || async {
        raw.count(&env.name("importer")).await.consumers == 0
    })
    .await;
    sender.send(5).unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    assert_eq!(calling.stats().open_streams, 0);
}
