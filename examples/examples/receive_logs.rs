//! Prints every line that is published to the fanout exchange `logs`, until Ctrl-C.
//!
//! Its counterpart is `emit_log`, or the RabbitMQ tutorial's `emit_log.py`.

use lepus::{Event, Fanout};
use lepus_examples::{Trouble, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), Trouble> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before anything says that it runs: from here on a signal is a request.
    let stop = lepus::shutdown_signal();
    let exchange = Fanout::text("logs").transient();
    let print = async |event: Event<String>| println!(" [x] {}", event.payload);
    let running = exchange.subscribe(&connection).start_each(1, print).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    running.until(stop).await?;
    connection.close().await;
    Ok(())
}
