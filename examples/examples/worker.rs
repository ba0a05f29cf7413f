//! Works on the queue `task_queue`, a second for each dot, until Ctrl-C. Run several of them.
//!
//! Its counterpart is `new_task`, or the RabbitMQ tutorial's `new_task.py`.

use std::time::Duration;

use lepus::{Job, WorkQueue};
use lepus_examples::{Trouble, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), Trouble> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before anything says that it runs: from here on a signal is a request.
    let stop = lepus::shutdown_signal();
    let work = async |job: Job<String>| {
        let text = job.payload();
        println!(" [x] Received {text}");
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        tokio::time::sleep(Duration::from_secs(dots as u64)).await;
        println!(" [x] Done");
    };
    println!(" [*] Waiting for messages. To exit press CTRL+C");
    // One job at a time, acknowledged when it is done: a worker that dies gives its job to another.
    WorkQueue::text("task_queue")
        .worker(&connection)
        .run(work, stop)
        .await?;
    connection.close().await;
    Ok(())
}
