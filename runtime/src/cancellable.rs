//! The handler of a request whose caller may give the call up: it is dropped at its next await then, as it is at its
//! deadline.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use tokio::task::futures::TaskLocalFuture;

use crate::cancel_table::CancelKey;
use crate::context::{Context, InSpan};
use crate::handler_guard::HandlerFuture;

/// The future of a request's handler: `None` if it was stopped because its caller has given the call up.
///
/// The request is that of the context that the future is polled and dropped in. So this is as large as the handler
/// alone, of which there is one for each request that runs.
pub(crate) struct Cancellable<T>(InSpan<T>);

impl Context {
    /// Makes the handler of a request, as [`handler`](Self::handler) does. It is stopped if its caller gives the call
    /// up, unless its [`CancelKey`] tells otherwise.
    pub(crate) fn cancellable_handler<T: Send + 'static>(
        self,
        make: impl FnOnce() -> HandlerFuture<T>,
    ) -> TaskLocalFuture<Self, Cancellable<T>> {
        self.handler_in(make, Cancellable)
    }
}

/// The answer of the current request, and `false` if its caller cannot give it up.
fn ask_request(ask: impl FnOnce(&CancelKey) -> bool) -> bool {
    Context::with_cancel_key(ask).unwrap_or_default()
}

impl<T> Future for Cancellable<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<T>> {
        if ask_request(CancelKey::is_stopped) {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.0).poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            // It may have been given up while it was polled.
            Poll::Pending if ask_request(|request| request.wait(cx.waker())) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Cancellable<T> {
    fn drop(&mut self) {
        ask_request(|request| {
            request.leave();
            true
        });
    }
}
