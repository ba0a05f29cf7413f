//! The tasks of the work queue, and their implementation.

use std::collections::BTreeMap;
use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lepus::WorkQueue;
use lepus::jobs::{Failure, Retry};

/// Work on images.
#[lepus::tasks(name = "{{project-name}}")]
pub trait Images {
    /// Makes an image this wide. A job is run again if its worker dies, so it may run twice.
    #[task(timeout = "5m", strict)]
    async fn resize(&self, id: u64, width: u32) -> Result<(), ResizeError>;

    /// Deletes an image.
    async fn delete(&self, id: u64);
}

/// Error of [`Images::resize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// No attempt can help: the job becomes a dead letter.
    #[error("there is no such image")]
    NoImage,
    /// Another attempt is made after a while.
    #[error("the store is busy")]
    Busy,
}

impl Failure for ResizeError {
    fn retry(&self) -> Retry {
        match self {
            Self::NoImage => Retry::Never,
            Self::Busy => Retry::Backoff,
        }
    }
}

/// The implementation: images and their widths, in memory.
#[derive(Debug, Default)]
pub struct Store {
    widths: Mutex<BTreeMap<u64, u32>>,
}

impl Store {
    /// A store with these images.
    pub fn new(ids: impl IntoIterator<Item = u64>) -> Self {
        let widths = ids.into_iter().map(|id| (id, 1024)).collect();
        Self {
            widths: Mutex::new(widths),
        }
    }

    /// The width of an image.
    pub fn width(&self, id: u64) -> Option<u32> {
        self.widths().get(&id).copied()
    }

    fn widths(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.widths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images for Store {
    async fn resize(&self, id: u64, width: u32) -> Result<(), ResizeError> {
        let mut widths = self.widths();
        let image = widths.get_mut(&id).ok_or(ResizeError::NoImage)?;
        *image = width;
        Ok(())
    }

    async fn delete(&self, id: u64) {
        self.widths().remove(&id);
    }
}

/// The queue of the tasks, for a look at it: how many jobs wait, how many dead letters there are.
pub fn queue() -> WorkQueue<()> {
    WorkQueue::new("{{project-name}}")
}

/// The address of the broker: `AMQP_URL`, or a broker on this machine.
pub fn broker_uri() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned())
}

/// Logs to stderr: warnings, or what `RUST_LOG` selects.
pub fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
}
