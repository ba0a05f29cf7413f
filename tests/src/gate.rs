//! A gate in a handler: the test knows who has come to it and decides when they go on.

use crate::eventually::eventually;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Closed at first. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    come: AtomicUsize,
    gone: AtomicUsize,
    places: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            shared: Arc::new(Shared {
                come: AtomicUsize::new(0),
                gone: AtomicUsize::new(0),
                places: Semaphore::new(0),
            }),
        }
    }
}

impl Gate {
    /// Waits until the test lets it pass.
    pub async fn pass(&self) {
        let shared = &*self.shared;
        shared.come.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(shared);
        // An error is a gate that stands open.
        if let Ok(place) = shared.places.acquire().await {
            place.forget();
        }
        std::mem::forget(waiting);
    }

    /// The number of handlers that have come to it, passed or not.
    pub fn count(&self) -> usize {
        self.shared.come.load(Ordering::SeqCst)
    }

    /// The number of handlers that were dropped while they waited.
    pub fn dropped(&self) -> usize {
        self.shared.gone.load(Ordering::SeqCst)
    }

    /// Waits until so many have come.
    pub async fn entered(&self, count: usize) {
        eventually(&format!("{count} at the gate"), || async {
            let come = self.count();
            if come >= count { Ok(()) } else { Err(come) }
        })
        .await;
    }

    /// Waits until so many were dropped while they waited.
    pub async fn left(&self, count: usize) {
        eventually(&format!("{count} gone from the gate"), || async {
            let gone = self.dropped();
            if gone >= count { Ok(()) } else { Err(gone) }
        })
        .await;
    }

    /// Lets so many pass, now or when they come.
    pub fn open(&self, count: usize) {
        self.shared.places.add_permits(count);
    }

    /// Lets everybody pass from now on.
    pub fn open_for_good(&self) {
        self.shared.places.close();
    }
}

struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.gone.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_holds_lets_pass_and_counts() {
        let gate = Gate::default();
        let pass = |gate: Gate| tokio::spawn(async move { gate.pass().await });
        let (first, second) = (pass(gate.clone()), pass(gate.clone()));
        gate.entered(2).await;
        gate.open(1);
        eventually("one through", || async {
            first.is_finished() != second.is_finished()
        })
        .await;
        first.abort();
        second.abort();
        gate.left(1).await;
        assert_eq!((gate.count(), gate.dropped()), (2, 1));
        gate.open_for_good();
        gate.pass().await;
    }
}
