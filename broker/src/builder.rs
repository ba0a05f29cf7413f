//! Setting up a broker.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    broker::{Broker, StartError},
    config::{Config, Limits, Product, User},
};

/// Settings of a [`Broker`]. Obtained from [`Broker::builder`].
///
/// Unless told otherwise: a free port on 127.0.0.1, the virtual host `/`, the user
/// `guest` with the password `guest`.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct BrokerBuilder {
    address: SocketAddr,
    users: BTreeMap<String, User>,
    vhosts: Vec<String>,
    limits: Limits,
    product: Product,
    seed: Option<u64>,
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            users: BTreeMap::new(),
            vhosts: Vec::new(),
            limits: Limits::default(),
            product: Product::default(),
            seed: None,
        }
    }
}

impl BrokerBuilder {
    /// The address and port to listen on; port 0 takes a free one.
    pub fn address(mut self, address: impl Into<SocketAddr>) -> Self {
        self.address = address.into();
        self
    }

    /// Adds a user who may open every virtual host. Once any user is added, `guest` is
    /// no longer there by itself.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.insert(
            name.to_owned(),
            User {
                password: password.to_owned(),
                vhosts: None,
            },
        );
        self
    }

    /// Adds a user who may open these virtual hosts only.
    pub fn user_in(mut self, name: &str, password: &str, vhosts: &[&str]) -> Self {
        let vhosts = Some(vhosts.iter().map(|&name| name.to_owned()).collect());
        self.users.insert(
            name.to_owned(),
            User {
                password: password.to_owned(),
                vhosts,
            },
        );
        self
    }

    /// Adds a virtual host. Once any is added, `/` is no longer there by itself.
    pub fn vhost(mut self, name: &str) -> Self {
        if !self.vhosts.iter().any(|known| known == name) {
            self.vhosts.push(name.to_owned());
        }
        self
    }

    /// The most connections at a time; further ones are closed at once. Default 1024.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.limits.connections = count;
        self
    }

    /// The most channels a connection. Default 2047, at least 1.
    pub fn max_channels(mut self, count: u16) -> Self {
        self.limits.channels = count.max(1);
        self
    }

    /// The most queues; declaring another is refused with 406. Default 100,000.
    pub fn max_queues(mut self, count: usize) -> Self {
        self.limits.queues = count;
        self
    }

    /// The most exchanges in one virtual host; declaring another is refused with 406.
    /// Default 100,000.
    pub fn max_exchanges(mut self, count: usize) -> Self {
        self.limits.exchanges = count;
        self
    }

    /// The most bindings of one exchange; a further one is refused with 406.
    /// Default 100,000.
    pub fn max_bindings(mut self, count: usize) -> Self {
        self.limits.bindings = count;
        self
    }

    /// The most consumers in all; a further one is refused with 406. Default 100,000.
    pub fn max_consumers(mut self, count: usize) -> Self {
        self.limits.consumers = count;
        self
    }

    /// The largest frame in bytes. Default 131,072, at least 4096.
    pub fn max_frame(mut self, bytes: u32) -> Self {
        self.limits.frame = bytes.max(4096);
        self
    }

    /// The largest body of a message in bytes; publishing a larger one closes the channel
    /// with 406. Default 128 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.limits.message = bytes;
        self
    }

    /// How many bytes messages may take, in queues and on their way to clients. Beyond it
    /// publishers are blocked (`connection.blocked`) until a tenth is free again.
    /// Default 1 GiB.
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.limits.memory = bytes;
        self
    }

    /// The heartbeat to propose, in whole seconds; zero proposes none. The client decides.
    /// Default 60 s.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.limits.heartbeat = interval;
        self
    }

    /// How long a client may take to log in. Default 10 s.
    pub fn handshake_timeout(mut self, limit: Duration) -> Self {
        self.limits.handshake = limit;
        self
    }

    /// The `product` that the broker names in its server properties (`connection.start`).
    /// Default `RabbitMQ`, for some clients decide by it what they may do: this broker stands in
    /// for RabbitMQ, and behaves as it does. Its own name and version are in the property
    /// `implementation`, and nothing changes that.
    pub fn product(mut self, name: &str) -> Self {
        name.clone_into(&mut self.product.name);
        self
    }

    /// The `version` that the broker names beside its product. Default `3.10.8`, the RabbitMQ
    /// whose behaviour it has. Another one changes what clients think of the broker, not what it
    /// does.
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.product.version);
        self
    }

    /// Makes the names that the broker makes up (`amq.gen-…`, `amq.ctag-…`) the same in
    /// every run.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Starts listening.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on, or the broker's thread cannot be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started.
    pub async fn start(self) -> Result<Broker, StartError> {
        Broker::run(self.address, self.config()).await
    }

    pub(crate) fn config(self) -> Config {
        let Self {
            mut users,
            mut vhosts,
            limits,
            product,
            seed,
            ..
        } = self;
        if users.is_empty() {
            users.insert(
                "guest".into(),
                User {
                    password: "guest".into(),
                    vhosts: None,
                },
            );
        }
        if vhosts.is_empty() {
            vhosts.push("/".into());
        }
        // Every `RandomState` has other keys, which is randomness enough for names.
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let vhosts = vhosts.into_iter().map(Into::into).collect();
        Config {
            users,
            vhosts,
            limits,
            product,
            seed,
        }
    }
}
