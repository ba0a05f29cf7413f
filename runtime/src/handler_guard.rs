//! Handlers of users, run so that a panic or a missed deadline ends the handler and not the task it
//! runs in.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// The end of a handler.
#[derive(Debug)]
pub(crate) enum HandlerEnd<T> {
    /// It returned a value.
    Returned(T),
    /// It was dropped at its deadline, or its runtime ended.
    TimedOut,
    /// It panicked, with this text.
    Panicked(String),
}

/// Runs a handler until it returns, panics or reaches its deadline. A destructor that panics when the
/// handler is dropped counts as a panic of the handler.
pub(crate) async fn guard<T>(
    deadline: Option<Instant>,
    handler: impl Future<Output = T>,
) -> HandlerEnd<T> {
    // One expression, because each local variable would take room of its own in this future.
    let end = AssertUnwindSafe(async move {
        match deadline {
            None => HandlerEnd::Returned(handler.await),
            Some(deadline) => match timeout_at(deadline, handler).await {
                Ok(value) => HandlerEnd::Returned(value),
                Err(_) => HandlerEnd::TimedOut,
            },
        }
    })
    .catch_unwind()
    .await;
    end.unwrap_or_else(|panic| HandlerEnd::Panicked(panic_text(&*panic).to_owned()))
}

/// The future of a handler, on the heap.
pub(crate) type HandlerFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Calls the function that makes a handler's future. If the function panics, the panic is raised again
/// when the future is awaited, where [`guard`] catches it.
pub(crate) fn defer_panic<T: Send + 'static>(
    make: impl FnOnce() -> HandlerFuture<T>,
) -> HandlerFuture<T> {
    std::panic::catch_unwind(AssertUnwindSafe(make))
        .unwrap_or_else(|panic| Box::pin(async move { std::panic::resume_unwind(panic) }))
}

/// A handler on a task of its own. Dropping this aborts the task.
pub(crate) struct AbortOnDropTask<T>(JoinSet<HandlerEnd<T>>);

impl<T: Send + 'static> AbortOnDropTask<T> {
    /// Spawns a handler that runs under [`guard`].
    pub(crate) fn spawn(guarded: impl Future<Output = HandlerEnd<T>> + Send + 'static) -> Self {
        // A `JoinSet` of one task, because it aborts its tasks when it is dropped.
        let mut task = JoinSet::new();
        task.spawn(guarded);
        Self(task)
    }

    pub(crate) async fn join(&mut self) -> HandlerEnd<T> {
        match self.0.join_next().await {
            Some(Ok(end)) => end,
            // The runtime has ended.
            Some(Err(_)) | None => HandlerEnd::TimedOut,
        }
    }
}

/// The text of a panic's payload, if it has one.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
