//! Prints the lines of the given severities: `receive_logs_direct severity…`, from the direct exchange
//! `direct_logs`, until Ctrl-C.
//!
//! Its counterpart is `emit_log_direct`, or the RabbitMQ tutorial's `emit_log_direct.py`.

use lepus::{Direct, Event};
use lepus_examples::{ExampleError, logs, required_arguments, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let severities = required_arguments("[info] [warning] [error]");
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    let exchange = Direct::text("direct_logs").transient();
    let mut subscribe = exchange.subscribe(&connection);
    for severity in severities {
        subscribe = subscribe.bind(severity);
    }
    let print = async |event: Event<String>| println!(" [x] {}:{}", event.key(), event.payload());
    let running = subscribe.start(print).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    running.until(stop).await?;
    connection.close().await;
    Ok(())
}
