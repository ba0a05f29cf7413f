//! The broker's state as tests read it.

use std::{collections::BTreeMap, time::Duration};

use amq_protocol::types::FieldTable;

use crate::{arguments::display, core::Core, exchange::Destination, id::ConnectionId};

/// One queue, at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueInfo {
    /// The virtual host it is in.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Declared durable. (Nothing outlives this broker.)
    pub durable: bool,
    /// The connection it is exclusive to, if it is.
    pub exclusive_to: Option<ConnectionId>,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// Declared with `x-queue-type: quorum`.
    pub quorum: bool,
    /// Messages waiting to be delivered.
    pub ready: usize,
    /// Bytes of the bodies of those.
    pub ready_bytes: usize,
    /// Messages delivered and not yet settled.
    pub unacked: usize,
    /// How many consumers it has.
    pub consumers: usize,
    /// The arguments it was declared with, as text.
    pub arguments: BTreeMap<String, String>,
}

/// One exchange, at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeInfo {
    /// The virtual host it is in.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: &'static str,
    /// Declared durable.
    pub durable: bool,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Not to be published to by clients.
    pub internal: bool,
    /// Its bindings: the name of the queue or exchange bound, and the key.
    pub bindings: Vec<(String, String)>,
    /// The arguments it was declared with, as text.
    pub arguments: BTreeMap<String, String>,
}

/// One client connection, at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its identity, for faults.
    pub id: ConnectionId,
    /// The name the client gave it (`connection_name`), if any.
    pub name: Option<String>,
    /// The client library, as it names itself.
    pub product: Option<String>,
    /// The user logged in.
    pub user: String,
    /// The virtual host opened.
    pub vhost: String,
    /// The client's address and port.
    pub address: String,
    /// Open channels.
    pub channels: usize,
    /// Messages delivered over it and not yet settled.
    pub unacked: usize,
    /// The heartbeat agreed on; zero if none.
    pub heartbeat: Duration,
    /// The largest frame agreed on, in bytes.
    pub frame_max: usize,
    /// The most channels agreed on.
    pub channel_max: u16,
    /// Publishing is blocked: by the memory cap or by a fault.
    pub blocked: bool,
}

/// One consumer, at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its channel.
    pub channel: u16,
    /// Its tag.
    pub tag: String,
    /// The virtual host of its queue.
    pub vhost: String,
    /// Its queue.
    pub queue: String,
    /// Whether it acknowledges.
    pub acknowledges: bool,
    /// Whether it is the only one allowed on its queue.
    pub exclusive: bool,
    /// The most unsettled deliveries it may have; zero for no limit.
    pub prefetch: u16,
    /// Its priority (`x-priority`).
    pub priority: i64,
    /// Deliveries it has not settled.
    pub unacked: usize,
    /// Whether it receives: false for those waiting behind a single active consumer.
    pub active: bool,
    /// The arguments it consumes with, as text.
    pub arguments: BTreeMap<String, String>,
}

impl Core {
    pub(crate) fn queue_infos(&self) -> Vec<QueueInfo> {
        self.vhosts
            .values()
            .flat_map(|vhost| vhost.queues.values())
            .filter_map(|id| self.queues.get(id))
            .map(|queue| QueueInfo {
                vhost: queue.vhost.to_string(),
                name: queue.name.to_string(),
                durable: queue.durable,
                exclusive_to: queue.owner,
                auto_delete: queue.auto_delete,
                quorum: queue.settings.quorum,
                ready: queue.ready(),
                ready_bytes: queue.ready_bytes(),
                unacked: queue.unacked,
                consumers: queue.consumers.len(),
                arguments: readable(&queue.arguments),
            })
            .collect()
    }

    pub(crate) fn exchange_infos(&self) -> Vec<ExchangeInfo> {
        self.vhosts
            .values()
            .flat_map(|vhost| {
                vhost
                    .exchanges
                    .values()
                    .map(move |exchange| (vhost, exchange))
            })
            .map(|(vhost, exchange)| ExchangeInfo {
                vhost: vhost.name.to_string(),
                name: exchange.name.to_string(),
                kind: exchange.kind.name(),
                durable: exchange.durable,
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                bindings: exchange
                    .bindings()
                    .filter_map(|(destination, key, _)| {
                        let name = match destination {
                            Destination::Queue(id) => &self.queues.get(id)?.name,
                            Destination::Exchange(name) => name,
                        };
                        Some((name.to_string(), key.to_owned()))
                    })
                    .collect(),
                arguments: readable(&exchange.arguments),
            })
            .collect()
    }

    pub(crate) fn connection_infos(&self) -> Vec<ConnectionInfo> {
        let mut all: Vec<_> = self
            .connections
            .iter()
            .map(|(id, connection)| ConnectionInfo {
                id: *id,
                name: connection.client.name.clone(),
                product: connection.client.product.clone(),
                user: connection.client.user.to_string(),
                vhost: connection.client.vhost.to_string(),
                address: connection.client.address.clone(),
                channels: connection.channels.len(),
                unacked: connection
                    .channels
                    .values()
                    .map(|channel| channel.unacked.len())
                    .sum(),
                heartbeat: Duration::from_secs(connection.client.heartbeat.into()),
                frame_max: connection.client.frame_max,
                channel_max: connection.client.channel_max,
                blocked: connection.block.fault.is_some() || connection.block.paused,
            })
            .collect();
        all.sort_by_key(|info| info.id);
        all
    }

    pub(crate) fn consumer_infos(&self) -> Vec<ConsumerInfo> {
        let mut ids: Vec<_> = self.consumers.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter()
            .filter_map(|id| {
                let consumer = self.consumers.get(&id)?;
                let queue = self.queues.get(&consumer.queue)?;
                Some(ConsumerInfo {
                    connection: consumer.connection,
                    channel: consumer.channel,
                    tag: consumer.tag.to_string(),
                    vhost: queue.vhost.to_string(),
                    queue: queue.name.to_string(),
                    acknowledges: !consumer.no_ack,
                    exclusive: consumer.exclusive,
                    prefetch: consumer.prefetch,
                    priority: consumer.priority,
                    unacked: consumer.unacked,
                    active: !queue.settings.single_active || queue.active == Some(id),
                    arguments: readable(&consumer.arguments),
                })
            })
            .collect()
    }
}

fn readable(arguments: &FieldTable) -> BTreeMap<String, String> {
    arguments
        .into_iter()
        .map(|(name, value)| (name.to_string(), display(value)))
        .collect()
}
