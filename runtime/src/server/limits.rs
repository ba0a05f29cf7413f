//! Limits of the broker on replies, learned from its refusals and shared by all services of a connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::sync::lock;
use std::time::Duration;

use tokio::time::Instant;

/// After the broker has refused a reply for want of a permission, none is sent for this long. Each refusal
/// closes a channel, and ends the handlers of its other requests.
const WRITE_PAUSE: Duration = Duration::from_secs(60);

/// The limits that are known on the current session. They are forgotten with it, because the next one may be
/// with another node, or with a node whose configuration has changed.
#[derive(Debug)]
pub(super) struct BrokerLimits {
    max_body: AtomicUsize,
    /// Whether `session` has the time of a refusal, so that the lock is taken only then.
    is_write_refused: AtomicBool,
    session: Mutex<SessionLimits>,
}

#[derive(Debug, Default)]
struct SessionLimits {
    generation: u64,
    write_refused_at: Option<Instant>,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            max_body: AtomicUsize::new(usize::MAX),
            is_write_refused: AtomicBool::new(false),
            session: Mutex::default(),
        }
    }
}

impl BrokerLimits {
    /// A consumer has started on the session of this generation.
    pub(super) fn session_started(&self, generation: u64) {
        let mut session = self.session();
        if session.generation < generation {
            *session = SessionLimits {
                generation,
                write_refused_at: None,
            };
            self.max_body.store(usize::MAX, Ordering::Relaxed);
            self.is_write_refused.store(false, Ordering::Relaxed);
        }
    }

    /// The largest body that the broker accepts, in bytes; `usize::MAX` if that is not known.
    pub(super) fn max_body(&self) -> usize {
        self.max_body.load(Ordering::Relaxed)
    }

    /// The broker has named the largest body in a refusal.
    pub(super) fn set_max_body(&self, bytes: usize) {
        self.max_body.store(bytes, Ordering::Relaxed);
    }

    /// The broker has refused a reply, because the user may not write to the default exchange.
    pub(super) fn write_refused(&self, now: Instant) {
        self.session().write_refused_at = Some(now);
        self.is_write_refused.store(true, Ordering::Relaxed);
    }

    /// Whether a reply may be sent now.
    pub(super) fn may_write(&self, now: Instant) -> bool {
        if !self.is_write_refused.load(Ordering::Relaxed) {
            return true;
        }
        let mut session = self.session();
        let is_over = |at| now.saturating_duration_since(at) >= WRITE_PAUSE;
        if session.write_refused_at.is_none_or(is_over) {
            session.write_refused_at = None;
            self.is_write_refused.store(false, Ordering::Relaxed);
            return true;
        }
        false
    }

    fn session(&self) -> MutexGuard<'_, SessionLimits> {
        lock(&self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_forgotten_with_the_session() {
        let (limits, now) = (BrokerLimits::default(), Instant::now());
        limits.session_started(1);
        limits.set_max_body(100);
        limits.write_refused(now);
        limits.session_started(1);
        assert_eq!(limits.max_body(), 100);
        assert!(!limits.may_write(now));
        limits.session_started(2);
        assert_eq!(limits.max_body(), usize::MAX);
        assert!(limits.may_write(now));
    }

    #[test]
    fn a_reply_is_sent_again_after_a_pause() {
        let (limits, now) = (BrokerLimits::default(), Instant::now());
        limits.write_refused(now);
        assert!(!limits.may_write(now + WRITE_PAUSE / 2));
        assert!(limits.may_write(now + WRITE_PAUSE) && limits.may_write(now));
    }
}
