//! Publishes a line with its severity as the routing key: `emit_log_direct [severity] [text…]`, on the direct
//! exchange `direct_logs`.
//!
//! Its counterpart is `receive_logs_direct`, or the RabbitMQ tutorial's
//! `receive_logs_direct.py`.

use lepus::Direct;
use lepus_examples::{ExampleError, first_and_rest, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let (severity, text) = first_and_rest("info", "Hello World!");
    let exchange = Direct::text("direct_logs").transient();
    let publisher = exchange.publisher(&connection);
    publisher.publish(&severity, &text).await?;
    println!(" [x] Sent {severity}:{text}");
    connection.close().await;
    Ok(())
}
