//! Thread of one connection, with a tokio runtime on which its sockets are read and written.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::Error;

/// The limit for the close of a dropped connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

type Close = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The thread, which ends after [`end`](Self::end) was called or when this is dropped.
///
/// The runtime has one thread and no scheduler of several (tokio's `current_thread`): it has little to
/// run beside the I/O tasks, and each wake-up of an I/O task costs less than with `multi_thread`. It
/// belongs to the thread and is dropped there, because tokio panics when a runtime is dropped inside
/// another one, where the last clone of a connection may be dropped.
pub(super) struct IoThread {
    handle: Handle,
    close: oneshot::Sender<Close>,
}

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) if the operating system gives no thread or no event queue.
    pub(super) fn start() -> Result<Self, Error> {
        let failed = |error: std::io::Error| {
            Error::invalid("the connection's I/O thread cannot be started").caused_by(error)
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (close, closing) = oneshot::channel::<Close>();
        let thread = std::thread::Builder::new().name("lepus-io".into());
        // If no thread can be started, the closure is dropped here and the runtime with it.
        let work = RunOnThread {
            runtime: Some(runtime),
        };
        thread
            .spawn(move || {
                work.run(async {
                    // Without a close, nothing is left to be told to the broker.
                    if let Ok(close) = closing.await
                        && tokio::time::timeout(CLOSE_TIMEOUT, close).await.is_err()
                    {
                        tracing::debug!("the broker did not answer connection.close in time");
                    }
                });
            })
            .map_err(failed)?;
        Ok(Self { handle, close })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `close` for at most three seconds, then drops all tasks and ends the thread. Returns at once.
    pub(super) fn end(self, close: impl Future<Output = ()> + Send + 'static) {
        // Fails only if the thread has panicked, and its tasks were dropped with it.
        let _ = self.close.send(Box::pin(close));
    }
}

/// A runtime that is dropped without a panic wherever it is dropped.
struct RunOnThread {
    runtime: Option<tokio::runtime::Runtime>,
}

impl RunOnThread {
    fn run(mut self, work: impl Future<Output = ()>) {
        if let Some(runtime) = &mut self.runtime {
            runtime.block_on(work);
        }
    }
}

impl Drop for RunOnThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that runs until it is dropped, and the receiver that notices it.
    fn task(handle: &Handle) -> oneshot::Receiver<()> {
        let (alive, ended) = oneshot::channel::<()>();
        handle.spawn(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        ended
    }

    #[tokio::test]
    async fn tasks_are_dropped_after_the_close() {
        let thread = IoThread::start().unwrap();
        let ended = task(thread.handle());
        let (sender, receiver) = oneshot::channel();
        thread.end(async move {
            assert!(sender.send(()).is_ok());
        });
        assert!(receiver.await.is_ok());
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn a_dropped_thread_drops_its_tasks() {
        let thread = IoThread::start().unwrap();
        let ended = task(thread.handle());
        drop(thread);
        assert!(ended.await.is_err());
    }

    /// A plain runtime would panic when it is dropped inside the test's.
    #[tokio::test]
    async fn a_runtime_without_a_thread_is_dropped_anywhere() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let ended = task(runtime.handle());
        drop(RunOnThread {
            runtime: Some(runtime),
        });
        assert!(ended.await.is_err());
    }
}
