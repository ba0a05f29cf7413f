//! A log whose lines are streamed to three readers: one that reads them as they are written, a slow one, and one that
//! leaves. No reader delays another one, and none is sent more than it has room for.
//!
//! `cargo run --example tail` starts a broker of its own, unless `AMQP_URL` names one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_stream::stream;
use futures_util::stream::Stream;
use lepus::{CallError, Connection, Server};
use lepus_examples::{ExampleBroker, ExampleError, logs};
use tokio::sync::watch;

const LINES: usize = 30;
/// The number of lines that may be on their way to the slow reader.
const WINDOW: u32 = 4;

#[lepus::service(name = "log")]
trait Log {
    /// The lines of the log from its first one on, and each that is written later, until the log is closed.
    fn tail(&self, reader: String) -> impl Stream<Item = String>;
}

struct LogFile {
    lines: watch::Receiver<Vec<String>>,
    /// The number of lines that were sent to the slow reader.
    sent_to_slow: Arc<AtomicU64>,
}

/// A reader of the log, as its server sees it. It is dropped with the stream: at its end, or when the reader leaves.
struct Reader(String);

impl Drop for Reader {
    fn drop(&mut self) {
        println!(" [.] {}: gone", self.0);
    }
}

impl Log for LogFile {
    fn tail(&self, reader: String) -> impl Stream<Item = String> {
        println!(" [.] {reader}: open");
        let (mut lines, reader) = (self.lines.clone(), Reader(reader));
        // Polled only while the reader has room, so that a slow reader needs no queue on this side.
        stream! {
            for number in 0.. {
                // An error means that the log is closed, and this reader has all of it.
                let written = lines.wait_for(|lines| lines.len() > number).await;
                let Some(line) = written.ok().map(|lines| lines[number].clone()) else {
                    break;
                };
                if reader.0 == "slow" {
                    self.sent_to_slow.fetch_add(1, Ordering::SeqCst);
                }
                yield line;
            }
        }
    }
}

/// Writes the log, and closes it.
async fn write(lines: watch::Sender<Vec<String>>) {
    for number in 1..=LINES {
        lines.send_modify(|lines| lines.push(format!("line {number}")));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn read_all(log: &LogClient) -> Result<(), CallError> {
    let mut lines = log.tail("fast".to_owned()).await?;
    while let Some(line) = lines.next().await {
        line?;
    }
    println!("fast: {} lines", lines.items());
    Ok(())
}

async fn read_slowly(log: &LogClient, sent: &AtomicU64) -> Result<(), CallError> {
    let mut lines = log.tail("slow".to_owned()).window(WINDOW).await?;
    let mut most = 0;
    while let Some(line) = lines.next().await {
        line?;
        most = most.max(sent.load(Ordering::SeqCst) - lines.items());
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    println!(
        "slow: {} lines, of which at most {most} were on their way",
        lines.items()
    );
    Ok(())
}

async fn read_and_leave(log: &LogClient) -> Result<(), CallError> {
    let mut lines = log.tail("brief".to_owned()).await?;
    while lines.items() < 3
        && let Some(line) = lines.next().await
    {
        println!("brief: {}", line?);
    }
    // The stream is dropped here, and so is that of the server.
    println!("brief: leaves");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let broker = ExampleBroker::start().await?;
    let builder = Connection::builder(&broker.uri).namespace("lepus-tail");
    let connection = builder.open().await?;
    let (writer, lines) = watch::channel(Vec::new());
    let sent_to_slow = Arc::new(AtomicU64::new(0));
    let file = LogFile {
        lines,
        sent_to_slow: Arc::clone(&sent_to_slow),
    };
    let server = Server::new(&connection)
        .serve(LogServer::new(file))
        .start()
        .await?;

    let log = LogClient::new(&connection);
    let (fast, slow, brief, ()) = tokio::join!(
        read_all(&log),
        read_slowly(&log, &sent_to_slow),
        read_and_leave(&log),
        write(writer),
    );
    fast?;
    slow?;
    brief?;

    server.stop().await?;
    connection.close().await;
    Ok(())
}
