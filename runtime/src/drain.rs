//! The signal that a server shuts down, for the streams that it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// The state of a server's shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DrainState {
    #[default]
    Serving,
    /// Streams should end.
    Draining,
    /// Streams that are left are ended.
    Over,
}

/// The shutdown of a server, as one of its streams sees it. Its context has it among the extensions.
#[derive(Clone, Debug)]
pub(crate) struct DrainSignal {
    state: watch::Receiver<DrainState>,
    /// Whether the handler has asked for it, and so ends the stream itself.
    is_awaited: Arc<AtomicBool>,
}

impl DrainSignal {
    pub(crate) fn new(state: watch::Receiver<DrainState>) -> Self {
        Self {
            state,
            is_awaited: Arc::default(),
        }
    }

    /// Completes when the server shuts down.
    pub(crate) async fn draining(&self) {
        self.is_awaited.store(true, Ordering::Relaxed);
        self.reached(DrainState::Draining).await;
    }

    /// Completes when the stream is to be ended: when the server shuts down, or at the end of its grace period if the
    /// handler ends the stream itself.
    pub(crate) async fn over(&self) {
        self.reached(DrainState::Draining).await;
        if self.is_awaited.load(Ordering::Relaxed) {
            self.reached(DrainState::Over).await;
        }
    }

    async fn reached(&self, state: DrainState) {
        let mut current = self.state.clone();
        // An error means that the server is gone.
        let _ = current.wait_for(|current| *current >= state).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_stream_that_asks_has_the_grace_period() {
        let state = watch::Sender::new(DrainState::Serving);
        let (asks, does_not) = [(); 2].map(|()| DrainSignal::new(state.subscribe())).into();
        let is_over = |signal: &DrainSignal| signal.over().now_or_never().is_some();
        assert!(asks.draining().now_or_never().is_none());
        assert!(!is_over(&asks) && !is_over(&does_not));
        state.send_replace(DrainState::Draining);
        assert!(asks.draining().now_or_never().is_some());
        assert!(!is_over(&asks) && is_over(&does_not));
        state.send_replace(DrainState::Over);
        assert!(is_over(&asks));
    }
}
