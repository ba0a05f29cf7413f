//! Calls `fib` on the queue `rpc_queue`: `fib_client [n]`, 30 unless given.
//!
//! Its counterpart is `fib_server`, or the RabbitMQ tutorial's `rpc_server.py`.

use std::process::ExitCode;

use lepus_examples::{FibonacciClient, logs, shared_uri};

#[tokio::main]
async fn main() -> ExitCode {
    logs();
    let n = match std::env::args().nth(1).map(|text| text.parse()) {
        None => 30,
        Some(Ok(n)) => n,
        Some(Err(error)) => {
            eprintln!("usage: fib_client [n]: {error}");
            return ExitCode::FAILURE;
        }
    };
    match call(n).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn call(n: u64) -> Result<(), Box<dyn std::error::Error>> {
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let fibonacci = FibonacciClient::new(&connection);
    println!(" [x] Requesting fib({n})");
    println!("fib({n}) = {}", fibonacci.fib(n).await?);
    connection.close().await;
    Ok(())
}
