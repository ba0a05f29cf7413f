//! Messages that are written before a connection closes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The longest time for which a close waits for messages. A broker that has stalled takes none.
const LIMIT: Duration = Duration::from_millis(500);

/// The messages for which the close of a connection waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct CloseGate {
    pending: watch::Sender<usize>,
}

/// A message that is to be written before the connection closes, until this is dropped.
#[derive(Debug)]
pub(crate) struct CloseGuard {
    pending: watch::Sender<usize>,
}

impl CloseGate {
    /// Makes a close wait until the guard is dropped.
    pub(crate) fn hold(&self) -> CloseGuard {
        self.pending.send_modify(|pending| *pending += 1);
        CloseGuard {
            pending: self.pending.clone(),
        }
    }

    /// Whether a close has to wait.
    pub(super) fn is_held(&self) -> bool {
        *self.pending.borrow() > 0
    }

    /// Waits until all guards are dropped, or for half a second.
    pub(super) async fn released(&self) {
        let mut pending = self.pending.subscribe();
        // The sender is this gate's, so that only the time can end the wait early.
        let _ = timeout(LIMIT, pending.wait_for(|pending| *pending == 0)).await;
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        let release = |pending: &mut usize| *pending = pending.saturating_sub(1);
        self.pending.send_modify(release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_close_waits_for_all_guards_and_not_for_ever() {
        let gate = CloseGate::default();
        assert!(!gate.is_held());
        let (first, second) = (gate.hold(), gate.hold());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.released().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(gate.is_held() && !waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert!(!gate.is_held());
        let _kept = gate.hold();
        // The clock moves on to the limit.
        gate.released().await;
        assert!(gate.is_held());
    }
}
