//! A handler that stops when its caller drops the call, as the handler of a web server does whose client goes away.
//!
//! `cargo run --example cancel` starts a broker of its own, unless `AMQP_URL` names one. With `RUST_LOG=lepus=debug`,
//! the log has the message to the server, and the end of its handler.

use std::time::{Duration, Instant};

use lepus_examples::{ExampleBroker, ExampleError, logs};

#[lepus::service(name = "search")]
trait Search {
    /// Takes as long as its caller waits, a minute at most.
    #[rpc(timeout = "60s")]
    async fn find(&self, text: String) -> Vec<String>;
}

struct Library {
    started: Instant,
}

/// Is dropped with the handler that holds it.
struct Running<'a>(&'a Library);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let elapsed = self.0.started.elapsed();
        println!(" [.] {:>4} ms: stopped", elapsed.as_millis());
    }
}

impl Search for Library {
    async fn find(&self, text: String) -> Vec<String> {
        println!(
            " [.] {:>4} ms: looking for {text}",
            self.started.elapsed().as_millis()
        );
        let _running = Running(self);
        let mut found = Vec::new();
        for shelf in 1..=600 {
            // It ends at one of these awaits.
            tokio::time::sleep(Duration::from_millis(100)).await;
            found.push(format!("{text} is not on shelf {shelf}"));
        }
        found
    }
}

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let broker = ExampleBroker::start().await?;
    let builder = lepus::Connection::builder(&broker.uri).namespace("lepus-example");
    let connection = builder.open().await?;
    let started = Instant::now();
    let server = lepus::Server::new(&connection)
        .serve(SearchServer::new(Library { started }))
        .start()
        .await?;

    let search = SearchClient::new(&connection);
    tokio::select! {
        found = search.find("hare".to_owned()) => println!("{} shelves", found?.len()),
        () = tokio::time::sleep(Duration::from_millis(1000)) => {
            println!("     {:>4} ms: not waiting any longer", started.elapsed().as_millis());
        }
    }

    // The only handler of the server is free at once, not a minute later.
    server.stop().await?;
    println!("     {:>4} ms: the end", started.elapsed().as_millis());
    connection.close().await;
    Ok(())
}
