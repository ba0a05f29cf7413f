//! The broker's limits, as far as its refusals have told of them: shared by all services of a
//! connection.

use crate::sync::lock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// For so long no reply is tried after one was refused for want of a permission. Each try that
/// fails costs a channel, and with it the handlers at work on it.
const PAUSE: Duration = Duration::from_secs(60);

/// Known for the session that they were learned on: the next one may be with another node, or with
/// the same one set up anew.
#[derive(Debug)]
pub(super) struct BrokerLimits {
    largest: AtomicUsize,
    is_denied: AtomicBool,
    session: Mutex<Session>,
}

#[derive(Debug, Default)]
struct Session {
    generation: u64,
    denied_at: Option<Instant>,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            largest: AtomicUsize::new(usize::MAX),
            is_denied: AtomicBool::new(false),
            session: Mutex::default(),
        }
    }
}

impl BrokerLimits {
    /// A consumer begins on the session of this generation.
    pub(super) fn begin(&self, generation: u64) {
        let mut session = self.session();
        if session.generation < generation {
            *session = Session {
                generation,
                denied_at: None,
            };
            self.largest.store(usize::MAX, Ordering::Relaxed);
            self.is_denied.store(false, Ordering::Relaxed);
        }
    }

    /// The largest body that the broker takes, in bytes; `usize::MAX` where that is not known.
    pub(super) fn largest(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }

    /// The broker has named its limit.
    pub(super) fn learn_largest(&self, bytes: usize) {
        self.largest.store(bytes, Ordering::Relaxed);
    }

    /// The broker has refused a reply: this user may not write.
    pub(super) fn deny(&self, now: Instant) {
        self.session().denied_at = Some(now);
        self.is_denied.store(true, Ordering::Relaxed);
    }

    /// Whether a reply may be tried now.
    pub(super) fn may_write(&self, now: Instant) -> bool {
        if !self.is_denied.load(Ordering::Relaxed) {
            return true;
        }
        let mut session = self.session();
        let is_over = |at| now.saturating_duration_since(at) >= PAUSE;
        if session.denied_at.is_none_or(is_over) {
            session.denied_at = None;
            self.is_denied.store(false, Ordering::Relaxed);
            return true;
        }
        false
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_forgotten_with_the_session() {
        let (limits, now) = (BrokerLimits::default(), Instant::now());
        limits.begin(1);
        limits.learn_largest(100);
        limits.deny(now);
        limits.begin(1);
        assert_eq!(limits.largest(), 100);
        assert!(!limits.may_write(now));
        limits.begin(2);
        assert_eq!(limits.largest(), usize::MAX);
        assert!(limits.may_write(now));
    }

    #[test]
    fn a_reply_is_tried_again_after_a_pause() {
        let (limits, now) = (BrokerLimits::default(), Instant::now());
        limits.deny(now);
        assert!(!limits.may_write(now + PAUSE / 2));
        assert!(limits.may_write(now + PAUSE) && limits.may_write(now));
    }
}
