//! Snapshots of the broker's state, for tests.

use std::{collections::BTreeMap, time::Duration};

use amq_protocol::types::FieldTable;

use crate::{arguments::display, core::Core, exchange::Destination, id::ConnectionId};

/// A snapshot of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueInfo {
    /// The virtual host it is in.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Whether it was declared durable. Nothing survives the end of this broker.
    pub durable: bool,
    /// The connection of an exclusive queue.
    pub exclusive_to: Option<ConnectionId>,
    /// Whether it is deleted when its last consumer ends.
    pub auto_delete: bool,
    /// Whether it was declared with `x-queue-type: quorum`.
    pub quorum: bool,
    /// The number of messages that wait for delivery.
    pub ready: usize,
    /// The bytes of the bodies of those messages.
    pub ready_bytes: usize,
    /// The number of messages that were delivered and are not settled yet.
    pub unacked: usize,
    /// The number of consumers.
    pub consumers: usize,
    /// The arguments of its declaration, as text.
    pub arguments: BTreeMap<String, String>,
}

/// A snapshot of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeInfo {
    /// The virtual host it is in.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// `direct`, `fanout`, `topic` or `headers`.
    pub kind: &'static str,
    /// Whether it was declared durable.
    pub durable: bool,
    /// Whether it is deleted when its last binding is removed.
    pub auto_delete: bool,
    /// Whether clients must not publish to it.
    pub internal: bool,
    /// Its bindings: the name of the destination queue or exchange, and the binding key.
    pub bindings: Vec<(String, String)>,
    /// The arguments of its declaration, as text.
    pub arguments: BTreeMap<String, String>,
}

/// A snapshot of a client connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its id, for fault injection.
    pub id: ConnectionId,
    /// The name that the client gave it (`connection_name`).
    pub name: Option<String>,
    /// The `product` in the client properties.
    pub product: Option<String>,
    /// The user who is logged in.
    pub user: String,
    /// The virtual host that it has opened.
    pub vhost: String,
    /// The client's address and port.
    pub address: String,
    /// The number of open channels.
    pub channels: usize,
    /// The number of messages that were delivered over it and are not settled yet.
    pub unacked: usize,
    /// The negotiated heartbeat interval; zero for none.
    pub heartbeat: Duration,
    /// The negotiated `frame_max`, in bytes.
    pub frame_max: usize,
    /// The negotiated `channel_max`.
    pub channel_max: u16,
    /// Whether publishing is blocked, by the memory limit or by an injected fault.
    pub blocked: bool,
}

/// A snapshot of a consumer.
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
    /// Whether it has to acknowledge deliveries (no `no-ack`).
    pub acknowledges: bool,
    /// Whether it is exclusive, so that its queue can have no other consumer.
    pub exclusive: bool,
    /// The limit of its unsettled deliveries; zero for no limit.
    pub prefetch: u16,
    /// Its priority (`x-priority`).
    pub priority: i64,
    /// The number of deliveries that it has not settled yet.
    pub unacked: usize,
    /// Whether it gets deliveries. With `x-single-active-consumer` only one consumer of a queue does.
    pub active: bool,
    /// The arguments of its `basic.consume`, as text.
    pub arguments: BTreeMap<String, String>,
}

impl Core {
    /// The number of messages that clients have published and that were not refused.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

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
