//! Connection state, which a user can watch.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::sync::lock;

/// The role of one of a connection's two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Publishes requests, jobs and events, and receives replies.
    Publishing,
    /// Receives deliveries, and sends their replies and acknowledgements.
    Consuming,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a connection: the worse of the states of its AMQP connections.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Every AMQP connection in use is up.
    Connected,
    /// The broker has blocked an AMQP connection because of a memory or disk alarm: calls and publishes
    /// wait within their deadlines. Deliveries go on, and so do the acknowledgements of worker pools and
    /// subscriptions, unless a server runs on the same connection. In that case RabbitMQ also stops
    /// reading from the AMQP connection that they consume from, as soon as the server replies.
    Blocked {
        /// When it was blocked.
        since: Instant,
        /// The broker's reason.
        reason: String,
    },
    /// An AMQP connection is down. It is attempted again until the connection is closed.
    Reconnecting {
        /// When it was lost.
        since: Instant,
        /// The reason of the loss, or of the last failed attempt.
        error: Error,
    },
    /// The connection was closed.
    Closed,
}

impl ConnectionState {
    /// Whether the state is [`Connected`](Self::Connected).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }

    /// The time since the connection was blocked or lost; `None` in the other states.
    #[must_use]
    pub fn trouble(&self) -> Option<Duration> {
        match self {
            Self::Blocked { since, .. } | Self::Reconnecting { since, .. } => Some(since.elapsed()),
            Self::Connected | Self::Closed => None,
        }
    }

    fn severity(&self) -> u8 {
        match self {
            Self::Connected => 0,
            Self::Blocked { .. } => 1,
            Self::Reconnecting { .. } => 2,
            Self::Closed => 3,
        }
    }
}

/// The states of both links, and a watch of the worse one.
#[derive(Debug)]
pub(super) struct StateTracker {
    roles: Mutex<[ConnectionState; 2]>,
    state: watch::Sender<ConnectionState>,
}

impl StateTracker {
    pub(super) fn new() -> Self {
        Self {
            roles: Mutex::new([ConnectionState::Connected, ConnectionState::Connected]),
            state: watch::Sender::new(ConnectionState::Connected),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    pub(super) fn connected(&self, role: Role) {
        self.set(role, |_| ConnectionState::Connected);
    }

    pub(super) fn blocked(&self, role: Role, reason: String) {
        self.set(role, |_| ConnectionState::Blocked {
            since: Instant::now(),
            reason,
        });
    }

    /// Sets the state of a lost link. Failed attempts keep the time of the loss.
    pub(super) fn reconnecting(&self, role: Role, error: Error) {
        self.set(role, |before| match before {
            ConnectionState::Reconnecting { since, .. } => ConnectionState::Reconnecting {
                since: *since,
                error,
            },
            _ => ConnectionState::Reconnecting {
                since: Instant::now(),
                error,
            },
        });
    }

    pub(super) fn closed(&self, role: Role) {
        self.set(role, |_| ConnectionState::Closed);
    }

    pub(super) fn closed_all(&self) {
        self.closed(Role::Publishing);
        self.closed(Role::Consuming);
    }

    fn set(&self, role: Role, next: impl FnOnce(&ConnectionState) -> ConnectionState) {
        let mut roles = lock(&self.roles);
        let [publishing, consuming] = &mut *roles;
        let state = match role {
            Role::Publishing => &mut *publishing,
            Role::Consuming => &mut *consuming,
        };
        *state = next(state);
        // If both links have the same trouble, the one that has had it longer counts, so that `since`
        // does not change when the second link gets into the same trouble.
        let rank = |state: &ConnectionState| (state.severity(), state.trouble());
        let worse = if rank(consuming) > rank(publishing) {
            consuming
        } else {
            publishing
        };
        self.state.send_replace(worse.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn trouble_counts_from_the_first_link_that_has_it() {
        let tracker = StateTracker::new();
        let state = tracker.watch();
        let since = || match &*state.borrow() {
            ConnectionState::Reconnecting { since, .. } => *since,
            other => panic!("{other:?}"),
        };
        tracker.reconnecting(Role::Consuming, Error::new(ErrorKind::Disconnected));
        let first = since();
        while Instant::now() <= first {}
        tracker.reconnecting(Role::Publishing, Error::new(ErrorKind::Disconnected));
        assert_eq!(since(), first);
        tracker.reconnecting(Role::Consuming, Error::new(ErrorKind::Timeout));
        assert_eq!(since(), first);
    }

    #[test]
    fn the_worse_state_counts() {
        let tracker = StateTracker::new();
        let state = tracker.watch();
        tracker.blocked(Role::Publishing, "memory".into());
        assert!(matches!(*state.borrow(), ConnectionState::Blocked { .. }));
        tracker.reconnecting(Role::Consuming, Error::new(ErrorKind::Disconnected));
        assert!(matches!(
            *state.borrow(),
            ConnectionState::Reconnecting { .. }
        ));
        tracker.connected(Role::Consuming);
        tracker.connected(Role::Publishing);
        assert!(state.borrow().is_connected());
    }
}
