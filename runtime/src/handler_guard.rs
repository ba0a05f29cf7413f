//! Handlers of users, run so that a panic or a missed deadline ends the handler and not the task it
//! runs in.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::deadline::{Deadline, enclose};

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
pub(crate) fn guard<F: Future + Unpin>(deadline: Option<Instant>, handler: F) -> Guarded<F> {
    Guarded {
        handler: Some(handler),
        deadline: deadline.map(Deadline::new),
    }
}

/// A handler under [`guard`].
#[must_use = "the handler runs when this is awaited"]
pub(crate) struct Guarded<F> {
    /// `None` once it has ended.
    handler: Option<F>,
    deadline: Option<Deadline>,
}

impl<F: Future + Unpin> Guarded<F> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<HandlerEnd<F::Output>> {
        let mut poll = |cx: &mut Context<'_>| match &mut self.handler {
            Some(handler) => Pin::new(handler).poll(cx),
            None => Poll::Pending,
        };
        let polled = match &self.deadline {
            Some(deadline) => enclose(deadline.at(), cx, poll),
            None => poll(cx),
        };
        let end = match (polled, &mut self.deadline) {
            (Poll::Ready(value), _) => HandlerEnd::Returned(value),
            (Poll::Pending, Some(deadline)) => {
                ready!(deadline.poll(cx));
                HandlerEnd::TimedOut
            }
            (Poll::Pending, None) => return Poll::Pending,
        };
        self.handler = None;
        Poll::Ready(end)
    }
}

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = HandlerEnd<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll_end(cx)));
        polled.unwrap_or_else(|panic| {
            let text = panic_text(&*panic).to_owned();
            // The text of the first panic tells more than that of a destructor which runs because of it.
            let _ = catch_unwind(AssertUnwindSafe(|| self.handler = None));
            Poll::Ready(HandlerEnd::Panicked(text))
        })
    }
}

/// The future of a handler, on the heap.
pub(crate) type HandlerFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Calls the function that makes a handler's future. If the function panics, the panic is raised again
/// when the future is awaited, where [`guard`] catches it.
pub(crate) fn defer_panic<T: Send + 'static>(
    make: impl FnOnce() -> HandlerFuture<T>,
) -> HandlerFuture<T> {
    catch_unwind(AssertUnwindSafe(make))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Panics when it is dropped.
    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }

    fn text<T>(end: HandlerEnd<T>) -> String {
        match end {
            HandlerEnd::Panicked(text) => text,
            HandlerEnd::Returned(_) | HandlerEnd::TimedOut => panic!("it did not panic"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_ends_at_its_deadline_at_the_latest() {
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let waiting = Box::pin(tokio::time::sleep(Duration::from_secs(2)));
        let end = guard(deadline, waiting).await;
        assert!(matches!(end, HandlerEnd::TimedOut), "{end:?}");
        assert_eq!(Some(Instant::now()), deadline);
        // One that is ready at once is done, even after its deadline.
        let end = guard(deadline, std::future::ready(7)).await;
        assert!(matches!(end, HandlerEnd::Returned(7)), "{end:?}");
    }

    /// As layers have it, which see the end of their handler.
    #[tokio::test(start_paused = true)]
    async fn the_inner_one_of_two_guards_ends_first() {
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let inner = guard(deadline, std::future::pending::<()>());
        let end = guard(deadline, Box::pin(inner)).await;
        let HandlerEnd::Returned(HandlerEnd::TimedOut) = end else {
            panic!("{end:?}");
        };
        assert_eq!(Some(Instant::now()), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_never_lets_others_run_ends_as_well() {
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let greedy = Box::pin(async {
            loop {
                tokio::task::coop::consume_budget().await;
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        });
        let end = guard(deadline, greedy).await;
        assert!(matches!(end, HandlerEnd::TimedOut), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_destructor_that_panics_is_a_panic_of_the_handler() {
        let returns = Box::pin(async {
            let _guard = PanicsOnDrop;
        });
        assert_eq!(text(guard(None, returns).await), "in a destructor");
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let waits = Box::pin(async {
            let _guard = PanicsOnDrop;
            std::future::pending::<()>().await;
        });
        assert_eq!(text(guard(deadline, waits).await), "in a destructor");
    }

    #[tokio::test]
    async fn the_first_panic_is_told() {
        struct Handler(PanicsOnDrop);

        impl Future for Handler {
            type Output = ();

            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                panic!("in the handler")
            }
        }

        let end = guard(None, Handler(PanicsOnDrop)).await;
        assert_eq!(text(end), "in the handler");
    }
}
