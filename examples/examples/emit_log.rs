//! Publishes a line to all subscribers: `emit_log [text…]`, on the fanout exchange `logs`.
//!
//! Its counterpart is `receive_logs`, or the RabbitMQ tutorial's `receive_logs.py`.

use lepus::Fanout;
use lepus_examples::{ExampleError, arguments_or, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let text = arguments_or("info: Hello World!");
    // The tutorial declares a transient exchange, and sends plain text.
    let exchange = Fanout::text("logs").transient();
    exchange.publisher(&connection).publish(&text).await?;
    println!(" [x] Sent {text}");
    connection.close().await;
    Ok(())
}
