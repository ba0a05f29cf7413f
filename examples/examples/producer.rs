//! Puts a text on the queue `hello`: `producer [text…]`. Default: "Hello World!".
//!
//! Its counterpart is `consumer`, or the RabbitMQ tutorial's `receive.py`.

use lepus::WorkQueue;
use lepus_examples::{ExampleError, arguments_or, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let text = arguments_or("Hello World!");
    WorkQueue::text("hello")
        .transient()
        .producer(&connection)
        .push(&text)
        .await?;
    println!(" [x] Sent '{text}'");
    connection.close().await;
    Ok(())
}
