//! Streams between Lepus and Python: items, credit, cancellation and ends, both ways, on each broker.

use super::start;
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{Code, Codec, Connection, Running, Server, Status};
use lepus_tests::process::{Program, Signal, python_is_available};
use lepus_tests::raw::Raw;
use lepus_tests::{Env, conformance, eventually};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

conformance!(
    python_reads_streams_of_lepus,
    python_leaves_streams_of_lepus,
    lepus_reads_streams_of_python,
    lepus_leaves_streams_of_python,
    a_python_server_dies,
);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Gone {
    after: u64,
}

#[lepus::service(name = "ticker")]
trait Ticker {
    fn count(&self, to: u64) -> impl Stream<Item = u64>;
    fn gone(&self, after: u64) -> impl Stream<Item = Result<u64, Gone>>;
    fn busy(&self) -> impl Stream<Item = Result<u64, Status>>;
    fn forever(&self) -> impl Stream<Item = u64>;
    fn quiet(&self) -> impl Stream<Item = u64>;
}

#[derive(Default)]
struct Numbers {
    open: AtomicU64,
    produced: AtomicU64,
}

struct Open<'a>(&'a Numbers);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Numbers {
    fn all(&self) -> impl Stream<Item = u64> + Send {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(self);
        stream::iter(0..).inspect(move |_| {
            let open = &open;
            open.0.produced.fetch_add(1, Ordering::SeqCst);
        })
    }
}

impl Ticker for Numbers {
    fn count(&self, to: u64) -> impl Stream<Item = u64> {
        self.all().take(to as usize)
    }

    fn gone(&self, after: u64) -> impl Stream<Item = Result<u64, Gone>> {
        let numbers = self.all().take(after as usize).map(Ok);
        numbers.chain(stream::iter([Err(Gone { after })]))
    }

    fn busy(&self) -> impl Stream<Item = Result<u64, Status>> {
        let status = Status::new(Code::ResourceExhausted, "busy");
        stream::iter([Ok(0), Err(status)])
    }

    fn forever(&self) -> impl Stream<Item = u64> {
        self.all()
    }

    fn quiet(&self) -> impl Stream<Item = u64> {
        stream::pending()
    }
}

async fn serve(env: &Env) -> (Connection, Arc<Numbers>, Running) {
    let serving = env.connect().await;
    let numbers = Arc::new(Numbers::default());
    let service = TickerServer::from_arc(Arc::clone(&numbers));
    let server = Server::new(&serving).serve(service).start().await.unwrap();
    (serving, numbers, server)
}

async fn python_server(env: &Env) -> Program {
    let mut server = start(env, "stream_server.py", &[&env.name("ticker")]);
    server.line_with("Serving").await;
    server
}

/// The lines that the Python client prints for the numbers below a limit, and the last one.
fn lines(to: u64, last: &str) -> Vec<String> {
    let items = (0..to).map(|number| format!("item {number}"));
    items.chain([last.to_owned()]).collect()
}

async fn python_reads_streams_of_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (serving, _, server) = serve(&env).await;
    let queue = env.name("ticker");
    for codec in ["json", "msgpack"] {
        let read = async |method: &str, arguments: &str, window: &str| {
            let arguments = [&queue, codec, method, arguments, window];
            start(&env, "stream_client.py", &arguments)
                .succeeded()
                .await
        };
        for window in ["1", "7", "1000"] {
            let printed = read("count", r#"{"to": 100}"#, window).await;
            assert_eq!(printed, lines(100, "end"), "{codec} {window}");
        }
        assert_eq!(read("count", "[0]", "4").await, ["end"], "{codec}");
        let own = r#"error application  {"after": 3}"#;
        assert_eq!(read("gone", r#"{"after": 3}"#, "4").await, lines(3, own));
        let busy = "error resource_exhausted busy";
        assert_eq!(read("busy", "{}", "4").await, lines(1, busy), "{codec}");
        let missing = read("missing", "{}", "4").await;
        assert!(missing[0].starts_with("error unimplemented"), "{missing:?}");
    }
    eventually("no stream is open", || async {
        serving.stats().open_streams == 0
    })
    .await;
    server.stop().await.unwrap();
}

async fn python_leaves_streams_of_lepus(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let (serving, numbers, server) = serve(&env).await;
    let queue = env.name("ticker");
    let leaves = [&queue, "msgpack", "forever", "{}", "8", "20"];
    let printed = start(&env, "stream_client.py", &leaves).succeeded().await;
    assert_eq!(printed, lines(20, "cancelled"));
    let ended = async || {
        eventually("the stream is dropped", || async {
            let open = numbers.open.load(Ordering::SeqCst);
            open + serving.stats().open_streams == 0
        })
        .await;
    };
    ended().await;
    // It may have allowed eight further ones when it read the last.
    let produced = numbers.produced.load(Ordering::SeqCst);
    assert!((20..=28).contains(&produced), "{produced}");
    // One that is killed is missed when an item comes back.
    let goes_on = [&queue, "json", "forever", "{}", "8"];
    let mut killed = start(&env, "stream_client.py", &goes_on);
    assert_eq!(killed.line().await, "item 0");
    killed.signal(Signal::KILL);
    killed.ended().await;
    ended().await;
    server.stop().await.unwrap();
}

async fn lepus_reads_streams_of_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let server = python_server(&env).await;
    let calling = env.connect().await;
    for codec in [Codec::MsgPack, Codec::Json] {
        let ticker: TickerClient = TickerClient::builder(&calling).codec(codec).build();
        for window in [1, 7, 1000] {
            let numbers = ticker.count(500).window(window).await.unwrap();
            let read: Vec<u64> = numbers.map(Result::unwrap).collect().await;
            assert!(read.into_iter().eq(0..500), "{codec} {window}");
        }
        let numbers = ticker.gone(3).window(2).await.unwrap();
        let read: Vec<_> = numbers.collect().await;
        let (error, read) = read.split_last().unwrap();
        assert_eq!((read.len(), read.iter().all(Result::is_ok)), (3, true));
        let error = error.as_ref().unwrap_err();
        assert_eq!(error.service(), Some(&Gone { after: 3 }), "{codec}");
        let quiet = ticker.quiet().await.unwrap();
        assert_eq!(quiet.items(), 0);
        let refused = ticker.busy().await.unwrap_err();
        assert_eq!(refused.rpc().unwrap().code(), Some(Code::Unimplemented));
    }
    assert_eq!(calling.stats().dropped_replies, 0);
    server.signal(Signal::TERM);
    server.ended().await;
}

async fn lepus_leaves_streams_of_python(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let mut server = python_server(&env).await;
    let calling = env.connect().await;
    let ticker = TickerClient::new(&calling);
    let mut numbers = ticker.forever().window(10).await.unwrap();
    for number in 0..100 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), number);
    }
    drop(numbers);
    let line = server.line_with("cancelled forever").await;
    let sent = line.strip_prefix(" [x] cancelled forever after ");
    let sent = sent.and_then(|rest| rest.strip_suffix(" items"));
    let sent: u64 = sent.and_then(|sent| sent.parse().ok()).unwrap();
    assert!((100..=110).contains(&sent), "{line}");
    // A client that is gone is found out by an item that comes back.
    let (proxy, calling) = env.proxied().await;
    let ticker = TickerClient::new(&calling);
    let mut numbers = ticker.forever().window(10).await.unwrap();
    numbers.next().await.unwrap().unwrap();
    proxy.down().await;
    let ended = numbers.skip_while(|item| std::future::ready(item.is_ok()));
    let ended: Vec<_> = ended.collect().await;
    let error = ended[0].as_ref().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    server.line_with("lost forever").await;
    server.signal(Signal::TERM);
    server.ended().await;
}

async fn a_python_server_dies(env: Env) {
    if !python_is_available(env.test) {
        return;
    }
    let server = python_server(&env).await;
    let calling = env.connect().await;
    let ticker = TickerClient::new(&calling);
    let mut numbers = ticker.forever().window(10).await.unwrap();
    numbers.next().await.unwrap().unwrap();
    server.signal(Signal::KILL);
    server.ended().await;
    // The broker sees the end of the connection sooner or later; then a credit comes back.
    let raw = Raw::open(&env.uri).await;
    eventually("the broker has seen it", || async {
        raw.count(&env.name("ticker")).await.consumers == 0
    })
    .await;
    let ended = numbers.skip_while(|item| std::future::ready(item.is_ok()));
    let ended: Vec<_> = ended.collect().await;
    let error = ended[0].as_ref().unwrap_err();
    assert!(error.is_disconnected(), "{error}");
    assert_eq!(calling.stats().open_streams, 0);
}
