//! The mails that orders send: a queue of jobs, and its workers, which have the layers of the services.

use lepus::middleware::{AccessLog, from_fn};
use lepus::{Connection, Error, Job, Running, WorkQueue};

use crate::layers::{auth, tenant};

/// The queue of mails.
#[must_use]
pub fn queue() -> WorkQueue<String> {
    WorkQueue::new("gateway.mails")
}

// ANCHOR: start
/// Starts the workers.
///
/// # Errors
/// The broker refuses the queue.
pub async fn start(connection: &Connection) -> Result<Running, Error> {
    let send = async |mail: Job<String>| tracing::info!("a mail: {}", mail.payload());
    // The layer that is added last sees a job first.
    let pool = queue().worker(connection).concurrency(4);
    let pool = pool.layer(from_fn(tenant::job_layer)).layer(auth::layer());
    pool.layer(AccessLog::new()).start(send).await
}
// ANCHOR_END: start
