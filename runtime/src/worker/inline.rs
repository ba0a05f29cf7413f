//! Inline polling of handlers: whether a handler is polled on the consumer's own task first, which saves
//! a spawn, or gets a task of its own at once.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

/// The longest that the first poll of a handler may take without being counted as slow. While a handler
/// is polled inline, no other delivery of the consumer is started.
pub(crate) const INLINE_BUDGET: Duration = Duration::from_micros(100);

/// After a slow handler, this many are spawned at once. One queue may carry quick and slow requests.
const SPAWNED_AFTER_SLOW: u32 = 1000;

/// The decision for the handlers of one consumer.
#[derive(Clone, Debug)]
pub(super) struct InlinePolicy {
    /// The number of handlers that are still to be spawned. `None` with a concurrency of 1, where a slow handler
    /// holds up no other.
    spawn_next: Option<Arc<AtomicU32>>,
}

impl InlinePolicy {
    pub(super) fn new(concurrency: u16) -> Self {
        // The first handler is spawned and measured.
        let spawn_next = (concurrency > 1).then(|| Arc::new(AtomicU32::new(1)));
        Self { spawn_next }
    }

    /// Whether the next handler is polled inline.
    pub(super) fn is_inline(&self) -> bool {
        let Some(spawn_next) = &self.spawn_next else {
            return true;
        };
        let decrement = |left: u32| left.checked_sub(1);
        let updated = spawn_next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, decrement);
        updated.is_err()
    }

    /// Polls a handler for the first time, and notes whether that took longer than [`INLINE_BUDGET`].
    pub(super) fn measure<T>(&self, poll: impl FnOnce() -> T) -> T {
        let Some(spawn_next) = &self.spawn_next else {
            return poll();
        };
        let started = Instant::now();
        let polled = poll();
        if started.elapsed() > INLINE_BUDGET {
            spawn_next.store(SPAWNED_AFTER_SLOW, Ordering::Relaxed);
        }
        polled
    }

    /// Wraps a handler so that its first poll is measured.
    pub(super) fn measured<F: Future + Unpin>(
        &self,
        mut handler: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let mut policy = Some(self.clone());
        poll_fn(move |context| {
            let mut poll = || handler.poll_unpin(context);
            match policy.take() {
                Some(policy) => policy.measure(poll),
                None => poll(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_concurrency_of_one_every_handler_is_inline() {
        let policy = InlinePolicy::new(1);
        assert!((0..3).all(|_| policy.is_inline()));
    }

    #[tokio::test]
    async fn after_a_slow_handler_the_next_ones_are_spawned() {
        let policy = InlinePolicy::new(2);
        assert!(!policy.is_inline());
        assert!(policy.is_inline() && policy.is_inline());
        let slow = Box::pin(async { std::thread::sleep(2 * INLINE_BUDGET) });
        policy.measured(slow).await;
        assert!((0..SPAWNED_AFTER_SLOW).all(|_| !policy.is_inline()));
        assert!(policy.is_inline());
        // Time spent waiting does not block the thread, and does not count.
        let waiting = Box::pin(tokio::time::sleep(2 * INLINE_BUDGET));
        policy.measured(waiting).await;
        assert!(policy.is_inline());
    }
}
