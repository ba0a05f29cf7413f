//! How a broker is set up.

use std::{collections::BTreeMap, time::Duration};

use crate::id::Name;

/// The bounds within which a broker stays.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) channels: u16,
    pub(crate) queues: usize,
    pub(crate) exchanges: usize,
    pub(crate) bindings: usize,
    pub(crate) consumers: usize,
    pub(crate) frame: u32,
    pub(crate) message: usize,
    pub(crate) memory: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            channels: 2047,
            queues: 100_000,
            exchanges: 100_000,
            bindings: 100_000,
            consumers: 100_000,
            frame: 131_072,
            message: 128 * 1024 * 1024,
            memory: 1024 * 1024 * 1024,
            heartbeat: Duration::from_secs(60),
            handshake: Duration::from_secs(10),
        }
    }
}

/// The broker that this one stands in for, as it tells its clients.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Default for Product {
    fn default() -> Self {
        Self {
            name: "RabbitMQ".into(),
            version: "3.10.8".into(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) password: String,
    /// The virtual hosts it may open; all of them if absent.
    pub(crate) vhosts: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) vhosts: Vec<Name>,
    pub(crate) limits: Limits,
    pub(crate) product: Product,
    pub(crate) seed: u64,
}

impl Config {
    pub(crate) fn vhosts(&self) -> impl Iterator<Item = &Name> {
        self.vhosts.iter()
    }

    /// Whether a user may log in with this password.
    pub(crate) fn authenticates(&self, user: &[u8], password: &[u8]) -> bool {
        std::str::from_utf8(user)
            .ok()
            .and_then(|user| self.users.get(user))
            .is_some_and(|known| known.password.as_bytes() == password)
    }

    pub(crate) fn may_open(&self, user: &str, vhost: &str) -> bool {
        self.users.get(user).is_some_and(|known| {
            known
                .vhosts
                .as_ref()
                .is_none_or(|allowed| allowed.iter().any(|name| name == vhost))
        })
    }
}
