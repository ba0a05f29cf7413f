//! Publishes a line to every log reader: `emit_log [text…]`, on the fanout exchange `logs`.
//!
//! Its counterpart is `receive_logs`, or the RabbitMQ tutorial's `receive_logs.py`.

use lepus::Fanout;
use lepus_examples::{Trouble, arguments_or, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), Trouble> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let text = arguments_or("info: Hello World!");
    // Transient and plain text, as the tutorial has it.
    let exchange = Fanout::text("logs").transient();
    exchange.publisher(&connection).publish(&text).await?;
    println!(" [x] Sent {text}");
    connection.close().await;
    Ok(())
}
