//! Publishes a line with a routing key of words: `emit_log_topic [key] [text…]`, on the topic exchange
//! `topic_logs`.
//!
//! Its counterpart is `receive_logs_topic`, or the RabbitMQ tutorial's `receive_logs_topic.py`.

use lepus::Topic;
use lepus_examples::{ExampleError, first_and_rest, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let (key, text) = first_and_rest("anonymous.info", "Hello World!");
    let exchange = Topic::text("topic_logs").transient();
    let publisher = exchange.publisher(&connection);
    publisher.publish(&key, &text).await?;
    println!(" [x] Sent {key}:{text}");
    connection.close().await;
    Ok(())
}
