//! Whether handlers are quick enough to run where they are started, without a task of their own.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

/// A handler that holds its thread for longer had better not hold up others.
pub(crate) const HEAVY: Duration = Duration::from_micros(100);

/// After one of those, so many get tasks of their own: handlers of one queue may be of both kinds.
const CAREFUL: u32 = 1000;

/// What is known of the handlers of one consumer.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// How many more get tasks of their own. With one at a time there is nobody to be held up.
    careful: Option<Arc<AtomicU32>>,
}

impl Pace {
    pub(super) fn of(concurrency: u16) -> Self {
        // The first one is only watched.
        let careful = (concurrency > 1).then(|| Arc::new(AtomicU32::new(1)));
        Self { careful }
    }

    /// Whether the next one may run where it is started.
    pub(super) fn is_quick(&self) -> bool {
        let Some(careful) = &self.careful else {
            return true;
        };
        let less = |left: u32| left.checked_sub(1);
        let spent = careful.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        spent.is_err()
    }

    /// Polls a handler for the first time, and takes note of how long that holds the thread.
    pub(super) fn time<T>(&self, poll: impl FnOnce() -> T) -> T {
        let Some(careful) = &self.careful else {
            return poll();
        };
        let began = Instant::now();
        let polled = poll();
        if began.elapsed() > HEAVY {
            careful.store(CAREFUL, Ordering::Relaxed);
        }
        polled
    }

    /// The handler, watched for how long it holds its thread until it first waits.
    pub(super) fn watch<F: Future + Unpin>(
        &self,
        mut handler: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let mut watching = Some(self.clone());
        poll_fn(move |context| {
            let mut poll = || handler.poll_unpin(context);
            match watching.take() {
                Some(pace) => pace.time(poll),
                None => poll(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_is_always_quick() {
        let pace = Pace::of(1);
        assert!((0..3).all(|_| pace.is_quick()));
    }

    #[tokio::test]
    async fn one_that_holds_its_thread_makes_careful() {
        let pace = Pace::of(2);
        assert!(!pace.is_quick());
        assert!(pace.is_quick() && pace.is_quick());
        let heavy = Box::pin(async { std::thread::sleep(2 * HEAVY) });
        pace.watch(heavy).await;
        assert!((0..CAREFUL).all(|_| !pace.is_quick()));
        assert!(pace.is_quick());
        // What it waits for holds nobody up.
        pace.watch(Box::pin(tokio::time::sleep(2 * HEAVY))).await;
        assert!(pace.is_quick());
    }
}
