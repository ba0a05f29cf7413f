//! A service, its server and a client that calls it, in one process.
//!
//! `cargo run --example fib` starts a broker of its own, unless `AMQP_URL` names one.

use lepus_examples::{
    ExampleBroker, ExampleError, FibonacciClient, FibonacciServer, Iterative, logs,
};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let broker = ExampleBroker::start().await?;
    let connection = lepus::Connection::open(&broker.uri).await?;

    let server = lepus::Server::new(&connection)
        .serve(FibonacciServer::new(Iterative).concurrency(4))
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
