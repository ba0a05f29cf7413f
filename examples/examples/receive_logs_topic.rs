//! Prints the lines whose key matches a pattern: `receive_logs_topic pattern…`, from the topic
//! exchange `topic_logs`, until Ctrl-C. `*` is one word, `#` any number: `kern.*`, `*.critical`.
//!
//! Its counterpart is `emit_log_topic`, or the RabbitMQ tutorial's `emit_log_topic.py`.

use lepus::{Event, Topic};
use lepus_examples::{ExampleError, logs, required_arguments, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let patterns = required_arguments("[binding_key]...");
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    let exchange = Topic::text("topic_logs").transient();
    let mut subscribe = exchange.subscribe(&connection);
    for pattern in patterns {
        subscribe = subscribe.bind(pattern);
    }
    let print = async |event: Event<String>| println!(" [x] {}:{}", event.key(), event.payload());
    let running = subscribe.start(print).await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    running.until(stop).await?;
    connection.close().await;
    Ok(())
}
