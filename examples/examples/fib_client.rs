//! Calls `fib` on the queue `rpc_queue`: `fib_client [n]`. Default: 30.
//!
//! Its counterpart is `fib_server`, or the RabbitMQ tutorial's `rpc_server.py`.

use std::process::ExitCode;

use lepus_examples::{ExampleError, FibonacciClient, logs, shared_uri};

#[tokio::main]
async fn main() -> ExitCode {
    logs();
    let mut arguments = std::env::args().skip(1);
    let n = arguments.next().map_or(Ok(30), |n| n.parse());
    let (Ok(n), None) = (n, arguments.next()) else {
        eprintln!("usage: fib_client [n], where n is a whole number and not negative");
        return ExitCode::FAILURE;
    };
    match call(n).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn call(n: u64) -> Result<(), ExampleError> {
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let fibonacci = FibonacciClient::new(&connection);
    println!(" [x] Requesting fib({n})");
    println!("fib({n}) = {}", fibonacci.fib(n).await?);
    connection.close().await;
    Ok(())
}
