//! The signal that a handler of jobs or events should stop.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::link::{Channel, Session};

/// The signal that a handler should stop: its connection is lost, or the broker has closed its
/// channel, so that the job will be delivered again whatever it does; or its worker is shutting down.
#[derive(Clone, Debug)]
pub struct Cancellation {
    /// Weak, because a handler may keep its job for long. The job would keep the channel open, and
    /// with it all unsettled deliveries there.
    channel: Weak<Channel>,
    session: Arc<Session>,
    stop: watch::Receiver<StopSignal>,
}

/// The state of a pool or a subscription that its handlers watch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StopSignal {
    pub(crate) is_draining: bool,
    /// The number of channels that were lost. A change wakes the handlers, and each checks its own
    /// channel.
    pub(crate) lost_channels: u64,
}

impl Cancellation {
    pub(crate) fn new(channel: &Arc<Channel>, stop: watch::Receiver<StopSignal>) -> Self {
        Self {
            channel: Arc::downgrade(channel),
            session: Arc::clone(channel.session()),
            stop,
        }
    }

    /// Completes when the handler should stop. Cancel-safe.
    pub async fn wait(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            _ = self.session.down() => {}
            // An error means that the worker has been dropped.
            _ = stop.wait_for(|stop| stop.is_draining || self.is_lost()) => {}
        }
    }

    /// Whether the channel is closed, so that the job cannot be settled and is delivered again.
    pub(crate) fn is_lost(&self) -> bool {
        self.channel
            .upgrade()
            .is_none_or(|channel| !channel.is_open())
    }

    /// Whether the handler should stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        // An error means that the worker has been dropped.
        let is_dropped = self.stop.has_changed().is_err();
        self.is_lost() || is_dropped || self.stop.borrow().is_draining
    }
}
