//! The two ends of a stream, each a process of its own that knows how many bytes it has allocated and not freed.
//!
//! `held_peer server URI NAMESPACE` prints `ready` and serves.
//! `held_peer reader URI NAMESPACE WINDOW SIZE` opens a stream of items of this size and sleeps. When the bytes that it holds
//! have grown by a window of items, it prints by how many they have grown, the same number of the server, and the number
//! of items that were made.
//! `held_peer uploader URI NAMESPACE WINDOW SIZE` sends such items to a method that sleeps, and prints the same numbers.

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use lepus::{Connection, Incoming, Server};
use lepus_tests::eventually;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[lepus::service(name = "held")]
trait Held {
    /// Items of this size without an end.
    fn items(&self, size: usize) -> impl Stream<Item = Bytes>;
    /// Reads nothing.
    async fn sleeps(&self, items: Incoming<Bytes>);
    /// The bytes that this process holds, and the items that it has made.
    async fn held(&self) -> (u64, u64);
}

#[derive(Default)]
struct Holder {
    made: Arc<AtomicU64>,
}

impl Held for Holder {
    fn items(&self, size: usize) -> impl Stream<Item = Bytes> {
        items(size, Arc::clone(&self.made))
    }

    async fn sleeps(&self, items: Incoming<Bytes>) {
        std::future::pending::<()>().await;
        drop(items);
    }

    async fn held(&self) -> (u64, u64) {
        (held(), self.made.load(Ordering::SeqCst))
    }
}

/// Items of this size, each allocated by itself, and counted.
fn items(size: usize, count: Arc<AtomicU64>) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::repeat(()).map(move |()| {
        count.fetch_add(1, Ordering::SeqCst);
        Bytes::from(vec![7; size])
    })
}

fn held() -> u64 {
    let stats = COUNTED.stats();
    (stats.bytes_allocated - stats.bytes_deallocated) as u64
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", uri, namespace] => {
            let server = Server::new(&connect(uri, namespace).await)
                .serve(HeldServer::new(Holder::default()));
            let _running = server.start().await.expect("a server");
            println!("ready");
            std::future::pending().await
        }
        ["reader", uri, namespace, window, size] => {
            let (window, size) = (number(window), number(size));
            let client = HeldClient::new(&connect(uri, namespace).await);
            let before = both(&client).await;
            let call = client.items(size).window(window as u32);
            let _sleeping = call.await.expect("a stream");
            eventually("a window of items", || async {
                held() >= before.ours + (window * size) as u64
            })
            .await;
            let now = settled(&client).await;
            report(before, &now, now.made);
        }
        ["uploader", uri, namespace, window, size] => {
            let (window, size) = (number(window), number(size));
            let client = HeldClient::new(&connect(uri, namespace).await);
            let before = both(&client).await;
            let made = Arc::new(AtomicU64::new(0));
            let call = client.sleeps(items(size, Arc::clone(&made))).into_future();
            let _sending = tokio::spawn(call);
            let due = before.theirs + (window * size) as u64;
            eventually("a window of items", || async {
                both(&client).await.theirs >= due
            })
            .await;
            let now = settled(&client).await;
            report(before, &now, made.load(Ordering::SeqCst));
        }
        _ => panic!("held_peer server|reader|uploader URI NAMESPACE [WINDOW SIZE]"),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

async fn connect(uri: &str, namespace: &str) -> Connection {
    let builder = Connection::builder(uri).namespace(namespace);
    builder.open().await.expect("a connection")
}

/// The bytes that this process and the server hold, and the items that the server has made.
struct Both {
    ours: u64,
    theirs: u64,
    made: u64,
}

async fn both(client: &HeldClient) -> Both {
    let (theirs, made) = client.held().await.expect("a reply");
    let ours = held();
    Both { ours, theirs, made }
}

/// The same, after a hundred calls over the same connections: a sender that does not keep to its credit sends on meanwhile.
async fn settled(client: &HeldClient) -> Both {
    for _ in 0..100 {
        both(client).await;
    }
    both(client).await
}

fn report(before: Both, now: &Both, made: u64) {
    let ours = now.ours.saturating_sub(before.ours);
    let theirs = now.theirs.saturating_sub(before.theirs);
    println!("{ours} {theirs} {made}");
}
