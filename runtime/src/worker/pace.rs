//! Whether handlers are quick enough to run where they are started, without a task of their own.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A handler that holds its thread for longer had better not hold up others.
pub(crate) const HEAVY: Duration = Duration::from_micros(100);

/// After one of those, so many get tasks of their own: handlers of one queue may be of both kinds.
const CAREFUL: u32 = 1000;

/// What is known of the handlers of one consumer.
#[derive(Debug)]
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

    /// The handler, watched for how long it holds its thread until it first waits.
    pub(super) fn watch<F: Future>(&self, handler: F) -> impl Future<Output = F::Output> + use<F> {
        let mut careful = self.careful.clone();
        async move {
            let mut handler = pin!(handler);
            poll_fn(|context| {
                let Some(careful) = careful.take() else {
                    return handler.as_mut().poll(context);
                };
                let began = Instant::now();
                let polled = handler.as_mut().poll(context);
                if began.elapsed() > HEAVY {
                    careful.store(CAREFUL, Ordering::Relaxed);
                }
                polled
            })
            .await
        }
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
        pace.watch(async { std::thread::sleep(2 * HEAVY) }).await;
        assert!((0..CAREFUL).all(|_| !pace.is_quick()));
        assert!(pace.is_quick());
        // What it waits for holds nobody up.
        pace.watch(tokio::time::sleep(2 * HEAVY)).await;
        assert!(pace.is_quick());
    }
}
