//! Prints what comes on the queue `hello`, until Ctrl-C.
//!
//! Its counterpart is `producer`, or the RabbitMQ tutorial's `send.py`.

use lepus::{Job, WorkQueue};
use lepus_examples::{Trouble, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), Trouble> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before anything says that it runs: from here on a signal is a request.
    let stop = lepus::shutdown_signal();
    let print = async |job: Job<String>| println!(" [x] Received {}", job.payload());
    println!(" [*] Waiting for messages. To exit press CTRL+C");
    WorkQueue::text("hello")
        .transient()
        .worker(&connection)
        .run(print, stop)
        .await?;
    connection.close().await;
    Ok(())
}
