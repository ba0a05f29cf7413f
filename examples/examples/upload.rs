//! A file that is uploaded in chunks, whose server tells how far it is; and rows that are uploaded for one reply, which
//! comes early because one of them is wrong. The client's stream is polled only while the server reads.
//!
//! `cargo run --example upload` starts a broker of its own, unless `AMQP_URL` names one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, Stream, StreamExt};
use lepus::{CallError, Connection, Incoming, Server};
use lepus_examples::{ExampleBroker, ExampleError, logs};
use serde::{Deserialize, Serialize};

const CHUNK: usize = 50_000;
const CHUNKS: usize = 8;
const ROWS: u64 = 10_000;

/// A row without a name.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("row {row} has no name")]
struct Nameless {
    row: u64,
}

#[lepus::service(name = "store")]
trait Store {
    /// Stores a file, and tells after each chunk how many bytes are stored.
    fn put(&self, name: String, chunks: Incoming<Vec<u8>>) -> impl Stream<Item = u64>;

    /// Imports rows, and returns their number.
    async fn import(&self, names: Incoming<String>) -> Result<u64, Nameless>;
}

struct StoreService;

impl Store for StoreService {
    fn put(&self, name: String, chunks: Incoming<Vec<u8>>) -> impl Stream<Item = u64> {
        println!(" [.] {name}: begun");
        stream::unfold((chunks, 0), move |(mut chunks, stored)| {
            let name = name.clone();
            async move {
                // `None`: the client has sent all of them. After an error, this is dropped at the next await.
                let Some(chunk) = chunks.next().await else {
                    println!(" [.] {name}: complete");
                    return None;
                };
                let stored = stored + chunk.ok()?.len() as u64;
                Some((stored, (chunks, stored)))
            }
        })
    }

    async fn import(&self, mut names: Incoming<String>) -> Result<u64, Nameless> {
        while let Some(Ok(name)) = names.next().await {
            if name.is_empty() {
                // The client stops sending.
                return Err(Nameless { row: names.items() });
            }
        }
        Ok(names.items())
    }
}

async fn put(store: &StoreClient) -> Result<(), CallError> {
    let size = (CHUNK * CHUNKS) as u64;
    let chunks = stream::iter(0..CHUNKS).map(|_| vec![0; CHUNK]);
    let mut progress = store.put("hare.jpg".to_owned(), chunks).await?;
    while let Some(stored) = progress.next().await {
        println!("stored {} %", stored? * 100 / size);
    }
    Ok(())
}

/// Rows of which one has no name, and counts those that were asked for.
fn rows(nameless: u64, asked_for: &Arc<AtomicU64>) -> impl Stream<Item = String> + use<> {
    let asked_for = Arc::clone(asked_for);
    stream::iter(1..=ROWS).map(move |row| {
        asked_for.fetch_add(1, Ordering::SeqCst);
        match row {
            row if row == nameless => String::new(),
            row => format!("row {row}"),
        }
    })
}

async fn import(store: &StoreClient) -> Result<(), CallError<Nameless>> {
    let asked_for = Arc::new(AtomicU64::new(0));
    let count = store.import(rows(0, &asked_for)).await?;
    println!("imported {count} rows");

    let asked_for = Arc::new(AtomicU64::new(0));
    match store.import(rows(1_000, &asked_for)).await {
        Err(CallError::Service(error)) => println!("refused: {error}"),
        result => println!("not refused: {:?}", result?),
    }
    let is_stopped = asked_for.load(Ordering::SeqCst) < ROWS;
    println!(
        "the rest was {}",
        if is_stopped { "not sent" } else { "sent" }
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let broker = ExampleBroker::start().await?;
    let builder = Connection::builder(&broker.uri).namespace("lepus-upload");
    let connection = builder.open().await?;
    let server = Server::new(&connection)
        .serve(StoreServer::new(StoreService))
        .start()
        .await?;

    let store = StoreClient::new(&connection);
    put(&store).await?;
    import(&store).await?;

    server.stop().await?;
    connection.close().await;
    Ok(())
}
