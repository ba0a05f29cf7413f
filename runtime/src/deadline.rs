//! Deadlines of futures that run inside one another: those inside share the timer of the outermost, as a handler
//! does with the layers around it.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, RawWakerVTable, Waker};

use tokio::time::Instant;

use crate::clock::{self, Timer};

thread_local! {
    /// The deadline of the future that is being polled on this thread.
    static ENCLOSING: Cell<Option<Enclosing>> = const { Cell::new(None) };
}

/// The deadline of a future that is being polled, and the waker that it is polled with.
#[derive(Clone, Copy)]
struct Enclosing {
    at: Instant,
    waker: (*const (), &'static RawWakerVTable),
}

/// Restores the enclosing deadline, also after a panic.
struct Restore(Option<Enclosing>);

impl Drop for Restore {
    fn drop(&mut self) {
        ENCLOSING.set(self.0);
    }
}

/// Polls a future that ends at this time at the latest. Futures inside it that end no earlier need no timer.
pub(crate) fn enclose<R>(
    at: Instant,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> R,
) -> R {
    let waker = (cx.waker().data(), cx.waker().vtable());
    let _restore = Restore(ENCLOSING.replace(Some(Enclosing { at, waker })));
    poll(cx)
}

/// Whether a future around the one that is being polled ends at this time or before, and polls it again then. That is
/// so if it is polled with the same waker: whoever is woken has to poll all futures that were given this waker. A
/// future in a task of its own, or in a set that polls its members one by one, has another one.
fn is_enclosed(at: Instant, waker: &Waker) -> bool {
    ENCLOSING.get().is_some_and(|outer| {
        let (data, vtable) = outer.waker;
        outer.at <= at && data == waker.data() && std::ptr::eq(vtable, waker.vtable())
    })
}

/// Whether a future around this one ends at this time or before, as it is polled now.
pub(crate) fn enclosed(at: Instant) -> impl Future<Output = bool> + Send {
    poll_fn(move |cx| Poll::Ready(is_enclosed(at, cx.waker())))
}

/// The time at which a future ends. While the future is polled inside another one that ends no later, it only looks at
/// the clock; otherwise, it has a timer.
pub(crate) struct Deadline {
    at: Instant,
    timer: Option<Timer>,
}

impl Deadline {
    pub(crate) fn new(at: Instant) -> Self {
        Self { at, timer: None }
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Is ready once the time has come. It is to be polled after the future, because many are ready at once and need
    /// no timer.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_none() && is_enclosed(self.at, cx.waker()) {
            return if Instant::now() < self.at {
                Poll::Pending
            } else {
                Poll::Ready(())
            };
        }
        let timer = self.timer.get_or_insert_with(|| clock::timer(self.at));
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// Ends at a deadline, inside of a future with another one.
    async fn ends_inside(outer: Instant, inner: Instant) -> (Instant, bool) {
        let (mut outer, mut inner) = (Deadline::new(outer), Deadline::new(inner));
        poll_fn(|cx| {
            let polled = enclose(outer.at(), cx, |cx| inner.poll(cx));
            if polled.is_ready() {
                return polled;
            }
            outer.poll(cx)
        })
        .await;
        (Instant::now(), inner.timer.is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_inside_another_one_has_a_timer_only_if_it_is_earlier() {
        let now = Instant::now();
        let ends = ends_inside(now + SECOND, now + SECOND).await;
        assert_eq!(ends, (now + SECOND, false));
        let ends = ends_inside(now + SECOND * 3, now + SECOND * 2).await;
        assert_eq!(ends, (now + SECOND * 2, true));
        let ends = ends_inside(now + SECOND * 4, now + SECOND * 5).await;
        assert_eq!(ends, (now + SECOND * 4, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_moves_to_another_task_has_a_timer_there() {
        let at = Instant::now() + SECOND;
        let mut inner = Deadline::new(at);
        let polled = poll_fn(|cx| Poll::Ready(enclose(at, cx, |cx| inner.poll(cx)))).await;
        assert!(polled.is_pending() && inner.timer.is_none());
        let ended = tokio::spawn(async move {
            poll_fn(|cx| inner.poll(cx)).await;
            Instant::now()
        });
        assert_eq!(ended.await.unwrap(), at);
    }

    #[tokio::test]
    async fn a_panic_leaves_no_deadline_behind() {
        let at = Instant::now() + SECOND;
        let is_enclosed = poll_fn(|cx| {
            let polling = AssertUnwindSafe(|| enclose(at, cx, |_| panic!("inside")));
            assert!(catch_unwind(polling).is_err());
            Poll::Ready(is_enclosed(at, cx.waker()))
        });
        assert!(!is_enclosed.await);
    }
}
