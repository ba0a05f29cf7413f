//! The handler of a request whose caller may give the call up: it is dropped at its next await then, as it is at its
//! deadline.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use crate::cancel_table::CancelKey;
use crate::context::{Context, InContext};
use crate::handler_guard::HandlerFuture;

/// The future of a request's handler: `None` if it was stopped because its caller has given the call up.
///
/// The request is that of the handler's context. So this is as large as the handler alone, of which there is one for
/// each request that runs.
#[must_use = "the handler runs when this is awaited"]
pub(crate) struct Cancellable<T>(InContext<T>);

impl Context {
    /// Makes the handler of a request, as [`handler`](Self::handler) does. It is stopped if its caller gives the call
    /// up, unless its [`CancelKey`] tells otherwise.
    pub(crate) fn cancellable_handler<T: Send + 'static>(
        self,
        make: impl FnOnce() -> HandlerFuture<T>,
    ) -> Cancellable<T> {
        Cancellable(self.handler(make))
    }
}

impl<T> Cancellable<T> {
    /// `None` if the caller of the request cannot give it up.
    fn request(&self) -> Option<&CancelKey> {
        self.0.context().cancel_key()
    }
}

impl<T> Future for Cancellable<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<T>> {
        if self.request().is_some_and(CancelKey::is_stopped) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(value) = Pin::new(&mut self.0).poll(cx) {
            return Poll::Ready(Some(value));
        }
        // It may have been given up while it was polled.
        let wait = |request: &CancelKey| request.wait(cx.waker());
        if self.request().is_some_and(wait) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

impl<T> Drop for Cancellable<T> {
    fn drop(&mut self) {
        if let Some(request) = self.request() {
            request.leave();
        }
    }
}
