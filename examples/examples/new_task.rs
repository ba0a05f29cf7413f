//! Puts a task on the queue `task_queue`: `new_task [text…]`, a second of work for each dot.
//!
//! Its counterpart is `worker`, or the RabbitMQ tutorial's `worker.py`.

use lepus::WorkQueue;
use lepus_examples::{ExampleError, arguments_or, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    let text = arguments_or("Hello World!");
    WorkQueue::text("task_queue")
        .producer(&connection)
        .push(&text)
        .await?;
    println!(" [x] Sent {text}");
    connection.close().await;
    Ok(())
}
