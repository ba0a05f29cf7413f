//! Serves the probe as a process of its own, for tests that stop or kill it.
//!
//! `probe_server URI NAMESPACE HOLD`: a `hold` takes HOLD milliseconds. It prints `ready`, and
//! `run ID REDELIVERED` and `end ID` for each.

use lepus::{Connection, Context, Server};
use lepus_tests::probe::{Probe, ProbeServer};
use std::time::Duration;

struct Slow {
    hold: Duration,
}

impl Slow {
    async fn wait(&self, id: u32) -> u32 {
        println!("run {id} {}", Context::current().redelivered());
        // Pretends to work, for as long as the test says.
        tokio::time::sleep(self.hold).await;
        println!("end {id}");
        id
    }
}

impl Probe for Slow {
    async fn hold(&self, id: u32) -> u32 {
        self.wait(id).await
    }

    async fn hold_idempotent(&self, id: u32) -> u32 {
        self.wait(id).await
    }

    async fn hold_once(&self, id: u32) -> u32 {
        self.wait(id).await
    }

    async fn note(&self, id: u32) {
        self.wait(id).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, namespace, hold] = arguments.as_slice() else {
        return Err("usage: probe_server URI NAMESPACE HOLD".into());
    };
    let hold = Duration::from_millis(hold.parse()?);
    let connection = Connection::builder(uri)
        .namespace(namespace)
        .heartbeat(Duration::from_secs(1))
        .open()
        .await?;
    let server = Server::new(&connection).serve(ProbeServer::new(Slow { hold }));
    let server = server.start().await?;
    println!("ready");
    server.until(lepus::shutdown_signal()).await?;
    connection.close().await;
    Ok(())
}
