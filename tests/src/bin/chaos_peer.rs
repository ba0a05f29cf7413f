//! A server and a pool of workers of the random run in a process of their own, which is killed and
//! frozen.
//!
//!     chaos_peer URI NAMESPACE CONCURRENCY
//!
//! Prints what its recorder is told, a line each; `ready` when it serves and works. Ends on SIGTERM.

use lepus::{Connection, Running};
use lepus_tests::chaos_events::{PeerEvent, Recorder};
use lepus_tests::chaos_peers::{CAP, LIMIT, Queues, serve, work};
use lepus_tests::deadline::TEST_LIMIT;
use lepus_tests::eventually::within;
use std::sync::Arc;
use std::time::Duration;

struct Aloud;

impl Recorder for Aloud {
    fn record(&self, event: PeerEvent) {
        println!("{event}");
    }
}

async fn start(
    connection: &Connection,
    concurrency: u16,
) -> Result<[Running; 2], Box<dyn std::error::Error>> {
    let killed = Queues::default().killed;
    // The nemesis may just have declared the service's queue as another one.
    let serving = within("the service's own queue", TEST_LIMIT, || async {
        match serve(connection, concurrency, Arc::new(Aloud)).await {
            Err(error) if error.is_mismatch() => Err(error),
            ended => Ok(ended),
        }
    })
    .await?;
    let working = work(connection, &killed, concurrency, Arc::new(Aloud)).await?;
    Ok([serving, working])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stop = lepus::shutdown_signal();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, namespace, concurrency] = arguments.as_slice() else {
        return Err("usage: chaos_peer URI NAMESPACE CONCURRENCY".into());
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
