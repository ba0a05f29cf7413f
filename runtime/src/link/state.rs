//! The state of a connection, as its user may watch it.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::sync::lock;

/// Which of a connection's two sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests, jobs and events out; replies in.
    Publishing,
    /// Consumer in; their replies and acknowledgements out.
    Consuming,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publishing => "publishing",
            Self::Consuming => "consuming",
        })
    }
}

/// How a connection is doing: the worse of its two sessions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Every session in use is up.
    Connected,
    /// A session is up, but the broker takes no messages on it (memory or disk alarm): calls and
    /// publishes wait within their deadlines. Consumer, and the acknowledgements of worker pools
    /// and subscriptions, go on; but where a server runs on the connection, its first reply has
    /// RabbitMQ stop reading what it consumes on as well: replies and acknowledgements wait then.
    Blocked {
        /// Since when.
        since: Instant,
        /// The broker's reason.
        reason: String,
    },
    /// A session is down and being built again, for ever, until the connection is closed.
    Reconnecting {
        /// Since when.
        since: Instant,
        /// Why the session went down, or why the last attempt failed.
        error: Error,
    },
    /// Closed by its owner.
    Closed,
}

impl ConnectionState {
    /// Whether everything works.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }

    /// How long it has been blocked or reconnecting.
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

/// Both sessions' states, and the worse of them for whoever watches.
#[derive(Debug)]
pub(super) struct Board {
    roles: Mutex<[ConnectionState; 2]>,
    state: watch::Sender<ConnectionState>,
}

impl Board {
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

    /// Keeps the time of the loss over all failed attempts.
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
        let mine = match role {
            Role::Publishing => &mut *publishing,
            Role::Consuming => &mut *consuming,
        };
        *mine = next(mine);
        // Of two that are in the same trouble, the one that has been for longer: the time of it does
        // not change when the other one follows.
        let of = |state: &ConnectionState| (state.severity(), state.trouble());
        let worse = if of(consuming) > of(publishing) {
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
    use crate::error::Kind;

    #[test]
    fn trouble_lasts_since_the_first_session_has_it() {
        let board = Board::new();
        let state = board.watch();
        let since = || match &*state.borrow() {
            ConnectionState::Reconnecting { since, .. } => *since,
            other => panic!("{other:?}"),
        };
        board.reconnecting(Role::Consuming, Error::new(Kind::Disconnected));
        let first = since();
        while Instant::now() <= first {}
        board.reconnecting(Role::Publishing, Error::new(Kind::Disconnected));
        assert_eq!(since(), first);
        board.reconnecting(Role::Consuming, Error::new(Kind::Timeout));
        assert_eq!(since(), first);
    }

    #[test]
    fn the_worse_session_counts() {
        let board = Board::new();
        let state = board.watch();
        board.blocked(Role::Publishing, "memory".into());
        assert!(matches!(*state.borrow(), ConnectionState::Blocked { .. }));
        board.reconnecting(Role::Consuming, Error::new(Kind::Disconnected));
        assert!(matches!(
            *state.borrow(),
            ConnectionState::Reconnecting { .. }
        ));
        board.connected(Role::Consuming);
        board.connected(Role::Publishing);
        assert!(state.borrow().is_connected());
    }
}
