//! Handlers that panic or outlast their deadline: neither ends the task they run in.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How a handler ended.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    Done(T),
    /// It was dropped at its deadline.
    Late,
    /// With what the panic said.
    Panicked(String),
}

/// Runs a handler to its end or its deadline. A destructor that panics when its handler is dropped
/// is a panic like any other.
pub(crate) async fn catch<T>(
    deadline: Option<Instant>,
    handler: impl Future<Output = T>,
) -> Ended<T> {
    // In one expression: what has a name has a place of its own in this future.
    let ended = AssertUnwindSafe(async move {
        match deadline {
            None => Ended::Done(handler.await),
            Some(deadline) => match timeout_at(deadline, handler).await {
                Ok(value) => Ended::Done(value),
                Err(_) => Ended::Late,
            },
        }
    })
    .catch_unwind()
    .await;
    ended.unwrap_or_else(|panic| Ended::Panicked(text(&*panic).to_owned()))
}

/// A handler that was made.
pub(crate) type Made<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Makes a handler here and now: if that panics, it panics when it is awaited instead.
pub(crate) fn defer<T: Send + 'static>(make: impl FnOnce() -> Made<T>) -> Made<T> {
    std::panic::catch_unwind(AssertUnwindSafe(make))
        .unwrap_or_else(|panic| Box::pin(async move { std::panic::resume_unwind(panic) }))
}

/// A handler on a task of its own, which ends with whoever waits for it.
pub(crate) struct Apart<T>(JoinSet<Ended<T>>);

impl<T: Send + 'static> Apart<T> {
    /// Starts what [`catch`] has made of a handler.
    pub(crate) fn start(handler: impl Future<Output = Ended<T>> + Send + 'static) -> Self {
        // A set of one: it is aborted when it is dropped.
        let mut task = JoinSet::new();
        task.spawn(handler);
        Self(task)
    }

    pub(crate) async fn ended(&mut self) -> Ended<T> {
        match self.0.join_next().await {
            Some(Ok(ended)) => ended,
            // Its runtime has ended.
            Some(Err(_)) | None => Ended::Late,
        }
    }
}

/// The text of a panic, if it was one.
pub(crate) fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
