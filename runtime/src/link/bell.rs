//! What ends the wait of the thread that watches a socket.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long lapin's thread sleeps at the most: what it is to look at is rung for, and this is for
/// what was not.
pub(super) const NAP: Duration = Duration::from_millis(500);

/// Ends the wait of the thread that watches the socket.
#[derive(Clone, Default)]
pub(super) struct Bell(Arc<State>);

#[derive(Default)]
struct State {
    /// Since it was last looked at.
    is_rung: AtomicBool,
    /// The thread waits, or is about to.
    is_asleep: AtomicBool,
    /// Nobody is left to look after the connection.
    is_over: AtomicBool,
    alarm: Mutex<Option<mio::Waker>>,
}

impl Bell {
    /// Has lapin's thread look at what there is for it to do. Called after that is there.
    pub(super) fn ring(&self) {
        // In this order, and the other way round where it goes to sleep: one of the two sees what
        // the other has written.
        self.0.is_rung.store(true, Ordering::SeqCst);
        if self.0.is_asleep.load(Ordering::SeqCst) && self.0.is_asleep.swap(false, Ordering::SeqCst)
        {
            let alarm = self.0.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Err(error)) = alarm.as_ref().map(mio::Waker::wake) {
                tracing::debug!(%error, "the connection's thread sleeps on, for {NAP:?} at most");
            }
        }
    }

    /// A future of lapin's, which may leave it something to do each time it is polled.
    pub(super) async fn ringing<F: Future>(&self, operation: F) -> F::Output {
        let mut operation = pin!(operation);
        std::future::poll_fn(|context| {
            let polled = operation.as_mut().poll(context);
            self.ring();
            polled
        })
        .await
    }

    /// From now on it wakes up this thread.
    pub(super) fn hang(&self, alarm: mio::Waker) {
        *self.0.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
    }

    /// A wait that ends when it is rung. It is told for how long to wait. Gives whether it was rung,
    /// before or meanwhile.
    pub(super) fn sleep(&self, wait: impl FnOnce(Duration) -> io::Result<()>) -> io::Result<bool> {
        self.0.is_asleep.store(true, Ordering::SeqCst);
        let was_rung = self.was_rung();
        // However often it is rung, the socket is looked at as well.
        let waited = wait(if was_rung { Duration::ZERO } else { NAP });
        self.0.is_asleep.store(false, Ordering::SeqCst);
        let is_rung = self.was_rung();
        waited.map(|()| was_rung || is_rung)
    }

    /// Whether it was rung since it was last looked at: what there is for lapin's thread to do is to
    /// be looked at now.
    pub(super) fn was_rung(&self) -> bool {
        self.0.is_rung.swap(false, Ordering::SeqCst)
    }

    /// Whether the connection is to end.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::SeqCst)
    }

    /// Ends the connection, as if the broker had.
    fn hang_up(&self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Hangs up when it is dropped, unless it was released before.
    pub(super) fn lifeline(&self) -> Lifeline {
        Lifeline(Some(self.clone()))
    }
}

/// What a connection hangs on.
pub(super) struct Lifeline(Option<Bell>);

impl Lifeline {
    /// The connection does without it.
    pub(super) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if let Some(bell) = &self.0 {
            bell.hang_up();
        }
    }
}
