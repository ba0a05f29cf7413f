//! Methods that take a stream and return one, between Lepus and Python, both ways, on each broker.

use super::{start, stop_upload_server, upload_server};
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{Codec, Incoming, Server};
use lepus_tests::process::{Program, python_is_available};
use lepus_tests::{Env, conformance, eventually};
use tokio::sync::mpsc;

conformance!(
    python_talks_to_lepus,
    lepus_stops_the_rows_of_python,
    lepus_talks_to_python,
    python_stops_the_rows_of_lepus,
    lepus_leaves_a_talk_with_python,
);

#[lepus::service(name = "talker")]
trait Talker {
    /// Each row and this number, up to the last row if that is given.
    fn talk(&self, add: u64, last: Option<u64>, rows: Incoming<u64>) -> impl Stream<Item = u64>;
    /// The first row, and so many numbers.
    fn first(&self, rows: Incoming<u64>, to: u64) -> impl Stream<Item = u64>;
}

struct Subject;

impl Talker for Subject {
    fn talk(&self, add: u64, last: Option<u64>, rows: Incoming<u64>) -> impl Stream<Item = u64> {
        let rows = rows.map(Result::unwrap);
        rows.take_while(move |row| std::future::ready(Some(*row) != last))
            .map(move |row| row + add)
    }

    fn first(&self, mut rows: Incoming<u64>, to: u64) -> impl Stream<Item = u64> {
        let row = stream::once(async move { rows.next().await.unwrap().unwrap() });
        row.chain(stream::iter(0..to))
    }
}

/// The lines of a Python client that are items of the answer, and the last line.
fn items(printed: &[String]) -> (Vec<u64>, &str) {
    let items = printed.iter().filter_map(|line| line.strip_prefix("item "));
    let items = items.map(|item| item.parse().unwrap()).collect();
    (items, printed.last().unwrap())
}

fn endless(to: u64) -> impl Stream<Item = u64> + Send + 'static {
    stream::iter(0..to).chain(stream::pending())
}

/// A Python server that lets 10 rows be on their way.
async fn python_server(env: &Env) -> Program {
    upload_server(env, "talker", 10).await
}

async fn python_talks_to_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (serving, queue) = (env.connect().await, env.name("talker"));
    let server = Server::new(&serving).serve(TalkerServer::new(Subject));
    let server = server.start().await.unwrap();
    for codec in ["json", "msgpack"] {
        for (rows, window) in [(0, "7"), (1, "7"), (33, "1"), (500, "7"), (500, "1000")] {
            let count = rows.to_string();
            let arguments = [&queue, codec, "talk", r#"{"add": 5}"#, &count, window];
            let printed = start(&env, "upload_client.py", &arguments);
            let printed = printed.succeeded().await;
            let (items, last) = items(&printed);
            assert!(items.into_iter().eq(5..rows + 5), "{codec} {printed:?}");
            assert_eq!(last, "reply null");
        }
    }
    eventually("no stream is open", || async {
        serving.stats().open_streams == 0
    })
    .await;
    server.stop().await.unwrap();
}

async fn lepus_stops_the_rows_of_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (serving, queue) = (env.connect().await, env.name("talker"));
    let server = Server::new(&serving).serve(TalkerServer::new(Subject));
    let server = server.start().await.unwrap();
    // The end of the answers is that of the rows.
    for rows in ["50+", "100000"] {
        let arguments = r#"{"add": 0, "last": 40}"#;
        let arguments = [&queue, "msgpack", "talk", arguments, rows, "4"];
        let printed = start(&env, "upload_client.py", &arguments);
        let printed = printed.succeeded().await;
        let (items, last) = items(&printed);
        assert!(items.into_iter().eq(0..40), "{printed:?}");
        assert_eq!(last, "reply null");
    }
    // The answers go on behind the last row that is read.
    let arguments = [&queue, "json", "first", r#"{"to": 100}"#, "1000", "4"];
    let printed = start(&env, "upload_client.py", &arguments);
    let printed = printed.succeeded().await;
    assert!(printed.contains(&"stopped after 32".to_owned()));
    let (items, last) = items(&printed);
    assert!(items.into_iter().eq([0].into_iter().chain(0..100)));
    assert_eq!(last, "reply null");
    eventually("no stream is open", || async {
        serving.stats().open_streams == 0
    })
    .await;
    server.stop().await.unwrap();
}

async fn lepus_talks_to_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let server = python_server(&env).await;
    let calling = env.connect().await;
    for codec in [Codec::MsgPack, Codec::Json] {
        let talker: TalkerClient = TalkerClient::builder(&calling).codec(codec).build();
        for (rows, window) in [(0, 7), (1, 7), (33, 1), (500, 7), (500, 1000)] {
            let talk = talker.talk(5, None, stream::iter(0..rows)).window(window);
            let answers: Vec<u64> = talk.await.unwrap().map(Result::unwrap).collect().await;
            assert!(answers.into_iter().eq(5..rows + 5), "{codec} {window}");
        }
    }
    // One after the other: a row is sent when the answer to the one before has come.
    let talker = TalkerClient::new(&calling);
    let (sender, mut rows) = mpsc::unbounded_channel();
    let rows = stream::poll_fn(move |cx| rows.poll_recv(cx));
    let mut talk = talker.talk(5, None, rows).window(2).await.unwrap();
    for row in 0..50 {
        sender.send(row).unwrap();
        assert_eq!(talk.next().await.unwrap().unwrap(), row + 5);
    }
    drop(sender);
    assert!(talk.next().await.is_none());
    let stats = calling.stats();
    assert_eq!((stats.dropped_replies, stats.open_streams), (0, 0));
    stop_upload_server(server).await;
}

async fn python_stops_the_rows_of_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let server = python_server(&env).await;
    let calling = env.connect().await;
    let talker = TalkerClient::new(&calling);
    for rows in [50, 100_000] {
        let talk = talker.talk(0, Some(40), endless(rows)).window(4);
        let answers: Vec<u64> = talk.await.unwrap().map(Result::unwrap).collect().await;
        assert!(answers.into_iter().eq(0..40), "{rows}");
    }
    let first = talker.first(endless(1000), 100).window(4).await.unwrap();
    let answers: Vec<u64> = first.map(Result::unwrap).collect().await;
    assert!(answers.into_iter().eq([0].into_iter().chain(0..100)));
    let stats = calling.stats();
    assert_eq!((stats.dropped_replies, stats.open_streams), (0, 0));
    stop_upload_server(server).await;
}

async fn lepus_leaves_a_talk_with_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut server = python_server(&env).await;
    let calling = env.connect().await;
    let talker = TalkerClient::new(&calling);
    // The answers that are allowed hold up the rows.
    let talk = talker.talk(0, None, endless(1000)).window(4);
    let mut talk = talk.await.unwrap();
    for row in 0..100 {
        assert_eq!(talk.next().await.unwrap().unwrap(), row);
    }
    drop(talk);
    let line = server.line_with("cancelled talk").await;
    let came = line.strip_prefix(" [x] cancelled talk after ");
    let came = came.and_then(|rest| rest.strip_suffix(" rows"));
    let came: u64 = came.and_then(|came| came.parse().ok()).unwrap();
    // Up to four answers were not read, the method waits with one row, and ten more are on their way.
    assert!((100..=100 + 4 + 1 + 10).contains(&came), "{line}");
    assert_eq!(calling.stats().open_streams, 0);
    stop_upload_server(server).await;
}
