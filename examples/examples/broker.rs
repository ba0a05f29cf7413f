//! Runs an in-memory AMQP broker until Ctrl-C: `broker [address:port]`. Default: 127.0.0.1:5672.
//!
//! With it, `fib_server` and `fib_client` run in two terminals without RabbitMQ.

use std::net::SocketAddr;
use std::process::ExitCode;

use lepus_broker::Broker;
use lepus_examples::{ExampleError, logs};

const RABBITMQS_OWN: &str = "127.0.0.1:5672";

#[tokio::main]
async fn main() -> ExitCode {
    logs();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| RABBITMQS_OWN.to_owned());
    let (Ok(address), None) = (address.parse::<SocketAddr>(), arguments.next()) else {
        eprintln!("usage: broker [address:port], such as {RABBITMQS_OWN}");
        return ExitCode::FAILURE;
    };
    let broker = match Broker::builder().address(address).start().await {
        Ok(broker) => broker,
        Err(error) if error.is_address_in_use() => {
            eprintln!(
                "{address} is in use: another broker listens there, or another program does. \
                 To listen elsewhere: broker [address:port]"
            );
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("{:?}", ExampleError::from(error));
            return ExitCode::FAILURE;
        }
    };
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    println!(
        "Listening on {} as {}",
        broker.address(),
        broker.uri_for("guest", "guest", "/")
    );
    println!("Everything is in memory, and gone when this stops. Ctrl-C stops it.");
    stop.await;
    broker.shutdown().await;
    println!("Stopped");
    ExitCode::SUCCESS
}
