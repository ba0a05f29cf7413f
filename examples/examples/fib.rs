//! The main job in one process: a service, its server, and a client that calls it.
//!
//! `cargo run --example fib` needs no broker: it brings one along.

use lepus_examples::{FibonacciClient, FibonacciServer, Iterative, Trouble, TryOut, logs};

#[tokio::main]
async fn main() -> Result<(), Trouble> {
    logs();
    let broker = TryOut::start().await?;
    let connection = lepus::Connection::open(&broker.uri).await?;

    let server = lepus::Server::new(&connection)
        .serve(FibonacciServer::new(Iterative))
        .concurrency(4)
        .start()
        .await?;

    let fibonacci = FibonacciClient::new(&connection);
    println!("fib(30) = {}", fibonacci.fib(30).await?);

    // Several at once: each call is sent before the first reply is awaited.
    let mut pending = Vec::new();
    for n in [10, 20, 40, 50] {
        pending.push((n, fibonacci.fib(n).send().await?));
    }
    for (n, reply) in pending {
        println!("fib({n}) = {}", reply.await?);
    }

    server.stop().await?;
    connection.close().await;
    Ok(())
}
