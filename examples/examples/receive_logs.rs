//! Prints every line that is published to the fanout exchange `logs`, until Ctrl-C.
//!
//! Its counterpart is `emit_log`, or the RabbitMQ tutorial's `emit_log.py`.

use lepus::{Event, Fanout};
use lepus_examples::{ExampleError, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    let exchange = Fanout::text("logs").transient();
    let print = async |event: Event<String>| println!(" [x] {}", event.payload());
    let running = exchange.subscribe(&connection).start(print).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    running.until(stop).await?;
    connection.close().await;
    Ok(())
}
