//! Prints the texts of the queue `hello`, until Ctrl-C.
//!
//! Its counterpart is `producer`, or the RabbitMQ tutorial's `send.py`.

use lepus::{Job, WorkQueue};
use lepus_examples::{ExampleError, logs, shared_uri};

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    let connection = lepus::Connection::open(&shared_uri()).await?;
    // Before the program reports that it runs: a signal that arrives earlier would end it at once.
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
