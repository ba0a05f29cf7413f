//! A server and a pool of workers of the random run in a process of their own, which is killed and
//! frozen.
//!
//!     chaos_hands URI NAMESPACE CONCURRENCY
//!
//! Prints what its witness hears, a line each; `ready` when it serves and works. Ends on SIGTERM.

use lepus::{Connection, Running};
use lepus_tests::hands::{CAP, LIMIT, Queues, Sight, Witness, serve, work};
use std::sync::Arc;
use std::time::Duration;

struct Aloud;

impl Witness for Aloud {
    fn hears(&self, sight: Sight) {
        println!("{sight}");
    }
}

async fn start(
    connection: &Connection,
    concurrency: u16,
) -> Result<[Running; 2], Box<dyn std::error::Error>> {
    let killed = Queues::default().killed;
    let serving = loop {
        match serve(connection, concurrency, Arc::new(Aloud)).await {
            Err(error) if error.is_mismatch() => tokio::time::sleep(CAP / 10).await,
            ended => break ended?,
        }
    };
    let working = work(connection, &killed, concurrency, Arc::new(Aloud)).await?;
    Ok([serving, working])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stop = lepus::shutdown_signal();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, namespace, concurrency] = arguments.as_slice() else {
        return Err("usage: chaos_hands URI NAMESPACE CONCURRENCY".into());
    };
    let builder = Connection::builder(uri)
        .namespace(namespace)
        .heartbeat(Duration::from_secs(1))
        .backoff(Duration::from_millis(20), CAP)
        .max_message_size(LIMIT);
    let connection = builder.open().await?;
    let running = start(&connection, concurrency.parse()?).await?;
    println!("ready");
    stop.await;
    for running in running {
        running.stop().await?;
    }
    connection.close().await;
    Ok(())
}
