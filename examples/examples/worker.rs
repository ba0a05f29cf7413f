//! Handles the tasks of the queue `task_queue`, a second for each dot, until Ctrl-C. Several can run
//! at once.
//!
//! Its counterpart is `new_task`, or the RabbitMQ tutorial's `new_task.py`.

use std::time::Duration;

use lepus::{Job, WorkQueue};
use lepus_examples::{ExampleError, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
    let stop = lepus::shutdown_signal();
    let work = async |job: Job<String>| {
        let text = job.payload();
        println!(" [x] Received {text}");
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        tokio::time::sleep(Duration::from_secs(dots as u64)).await;
        println!(" [x] Done");
    };
    println!(" [*] Waiting for messages. To exit press CTRL+C");
    // A job is acknowledged when it is done: if the worker dies, another one receives its job.
    WorkQueue::text("task_queue")
        .worker(&connection)
        .run(work, stop)
        .await?;
    connection.close().await;
    Ok(())
}
