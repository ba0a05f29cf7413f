//! A worker in a process of its own, for tests that stop and kill it.
//!
//!     jobs_worker URI NAMESPACE QUEUE quorum|classic CONCURRENCY GRACE_MS ATTEMPTS
//!
//! Prints `ready`, and a line for whatever it does. A job is a text that says what to do: `hold`
//! waits for the signal to stop and is done then, `forever` never ends, `abort` takes the process
//! down, anything else is done after a few milliseconds.

use lepus::{Connection, Job, RetryPolicy, WorkQueue};
use std::time::Duration;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stop = lepus::shutdown_signal();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [uri, namespace, queue, kind, concurrency, grace, attempts] = arguments.as_slice() else {
        return Err("jobs_worker URI NAMESPACE QUEUE KIND CONCURRENCY GRACE_MS ATTEMPTS".into());
    };
    let connection = Connection::builder(uri)
        .namespace(namespace)
        .heartbeat(Duration::from_secs(1))
        .backoff(Duration::from_millis(10), Duration::from_millis(100))
        .open()
        .await?;
    let (first, longest) = (Duration::from_millis(10), Duration::from_secs(60));
    let policy = RetryPolicy::default()
        .attempts(attempts.parse()?)
        .backoff(first, longest)
        .jitter(0.0);
    let mut queue = WorkQueue::<String>::new(queue).retry(policy);
    if kind == "classic" {
        queue = queue.classic();
    }
    let (ready, up) = watch::channel(false);
    let running = queue
        .worker(&connection)
        .concurrency(concurrency.parse()?)
        .grace(Duration::from_millis(grace.parse()?))
        .start(move |job| {
            let mut up = up.clone();
            async move {
                // Not before its reader knows.
                up.wait_for(|up| *up).await.expect("main goes on");
                work(job).await;
            }
        })
        .await?;
    println!("ready");
    ready.send_replace(true);
    running.until(stop).await?;
    println!("drained");
    connection.close().await;
    Ok(())
}

async fn work(job: Job<String>) {
    let text = job.payload();
    match text.as_str().trim_end() {
        "hold" => {
            println!("holding, attempt {}", job.attempt());
            job.cancelled().wait().await;
            println!("held");
        }
        "forever" => {
            println!("forever, attempt {}", job.attempt());
            job.cancelled().wait().await;
            println!("told");
            std::future::pending::<()>().await;
        }
        "abort" => {
            println!("aborting, attempt {}", job.attempt());
            std::process::abort();
        }
        text => {
            // Pretends to work, so that kills at random find jobs in hand. No test relies on one that does.
            tokio::time::sleep(Duration::from_millis(3)).await;
            println!("done {text}");
        }
    }
}
