//! Serves `fib` on the queue `rpc_queue`, as the RabbitMQ tutorial's `rpc_server.py` does.
//!
//! Its counterpart is `fib_client`, or the tutorial's `rpc_client.py`. Ctrl-C stops it.

use lepus_examples::{ExampleError, FibonacciServer, Iterative, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    let server = lepus::Server::new(&connection).serve(FibonacciServer::new(Iterative));
    let server = server.start().await?;
    println!(" [x] Awaiting RPC requests");
    server.until(stop).await?;
    connection.close().await;
    println!(" [x] Stopped");
    Ok(())
}
