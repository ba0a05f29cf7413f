//! Topology declarations (`exchange.declare`, `queue.declare`, `queue.bind` and their opposites). Each
//! runs on a channel of its own, because the broker closes the channel of a declaration it refuses.

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, exchange, queue};

use super::Channel;
use crate::error::{Error, ErrorKind};
use crate::link::convert::{short, table};
use crate::link::namespace::{Namespace, ScopedEntity};
use crate::link::session::Session;
use crate::link::socket::channels::unexpected_reply;
use crate::wire::name::Name;
use crate::wire::topology::{Binding, Destination, Exchange, QUEUE_TYPE, Queue, Topology};

/// The message and consumer counts of a queue (`queue.declare-ok`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounts {
    /// The messages that are ready for delivery. Those that consumers have and did not settle yet do not count.
    pub messages: u32,
    /// The consumers of the queue, of all programs.
    pub consumers: u32,
}

/// Declares exchanges, queues and bindings, in this order.
///
/// A queue declared as classic may exist as a quorum queue: it was declared without a type, in a
/// virtual host whose default type is quorum. It is declared again with the type that it has, and used
/// as it is.
///
/// # Errors
/// The broker refused a declaration; a mismatch names the entity, the argument and both values.
pub(crate) async fn declare(
    session: &Arc<Session>,
    topology: &Topology,
    namespace: &Namespace,
) -> Result<(), Error> {
    let Err(error) = declare_once(session, topology, namespace).await else {
        return Ok(());
    };
    let ErrorKind::Mismatch(mismatch) = error.kind() else {
        return Err(error);
    };
    let is_it = |queue: &Queue| {
        let name = namespace.scope(queue.name.as_str());
        mismatch.argument == QUEUE_TYPE && mismatch.entity == format!("queue `{name}`")
    };
    let Some(other) = topology.of_any_kind(is_it) else {
        return Err(error);
    };
    // Recursive, and therefore boxed: another queue of the topology may have a mismatch, too.
    match Box::pin(declare(session, &other, namespace)).await {
        Ok(()) => {
            tracing::warn!(%error, "queue exists with another type and is used as it is");
            Ok(())
        }
        Err(again) if again.is_disconnected_or_closed() => Err(again),
        Err(_) => Err(error),
    }
}

async fn declare_once(
    session: &Arc<Session>,
    topology: &Topology,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = Channel::open(session).await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange, namespace).await?;
    }
    for queue in &topology.queues {
        let counts = declare_queue(&channel, queue, namespace).await?;
        tracing::debug!(queue = %queue.name, ?counts, "queue declared");
    }
    for binding in &topology.bindings {
        bind_on(&channel, binding, namespace).await?;
    }
    Ok(())
}

/// Reads a queue's message and consumer counts (a passive `queue.declare`).
///
/// # Errors
/// The broker's 404 when the queue does not exist, its 405 when it is exclusive to another connection.
pub(crate) async fn count(
    session: &Arc<Session>,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<QueueCounts, Error> {
    let channel = Channel::open(session).await?;
    let counts = declare_queue(&channel, &queue.clone().passive(), namespace).await?;
    Ok(counts)
}

/// As [`count`], for a queue given by its name on the broker.
///
/// # Errors
/// As [`count`].
pub(super) async fn count_by_name(
    session: &Arc<Session>,
    queue: &str,
) -> Result<QueueCounts, Error> {
    let queue = Queue::new(Name::parse(queue)?);
    count(session, &queue, &Namespace::default()).await
}

/// Removes all ready messages from a queue and returns their number (`queue.purge`).
pub(crate) async fn purge(
    session: &Arc<Session>,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<u32, Error> {
    let channel = Channel::open(session).await?;
    let name = short(namespace.scope(queue.name.as_str()))?;
    let purge = queue::AMQPMethod::Purge(queue::Purge {
        queue: name,
        nowait: false,
    });
    match channel.call(AMQPClass::Queue(purge)).await? {
        AMQPClass::Queue(queue::AMQPMethod::PurgeOk(purged)) => Ok(purged.message_count),
        _ => Err(unexpected_reply()),
    }
}

/// Deletes queues and their messages (`queue.delete`). Those that do not exist are no error.
pub(crate) async fn delete(
    session: &Arc<Session>,
    queues: &[Name],
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = Channel::open(session).await?;
    for queue in queues {
        let delete = queue::AMQPMethod::Delete(queue::Delete {
            queue: short(namespace.scope(queue.as_str()))?,
            if_unused: false,
            if_empty: false,
            nowait: false,
        });
        channel.call(AMQPClass::Queue(delete)).await?;
    }
    Ok(())
}

/// Deletes the queues and exchanges that were declared in the namespace (`queue.delete`, `exchange.delete`).
pub(in crate::link) async fn delete_declared(
    session: &Arc<Session>,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = Channel::open(session).await?;
    for entity in namespace.recorded() {
        let delete = match &entity {
            ScopedEntity::Queue(name) => {
                AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
                    queue: short(name.clone())?,
                    if_unused: false,
                    if_empty: false,
                    nowait: false,
                }))
            }
            ScopedEntity::Exchange(name) => {
                AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
                    exchange: short(name.clone())?,
                    if_unused: false,
                    nowait: false,
                }))
            }
        };
        channel.call(delete).await?;
        namespace.forget(&entity);
    }
    Ok(())
}

/// Adds one binding (`queue.bind`, `exchange.bind`).
pub(crate) async fn bind(
    session: &Arc<Session>,
    binding: &Binding,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = Channel::open(session).await?;
    bind_on(&channel, binding, namespace).await?;
    Ok(())
}

/// Removes one binding of a queue (`queue.unbind`).
pub(crate) async fn unbind(
    session: &Arc<Session>,
    binding: &Binding,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = Channel::open(session).await?;
    let Destination::Queue(queue) = &binding.destination else {
        return Err(Error::invalid("only a queue's bindings can be removed"));
    };
    let unbind = queue::AMQPMethod::Unbind(queue::Unbind {
        queue: short(namespace.scope(queue.as_str()))?,
        exchange: short(namespace.scope(binding.exchange.as_str()))?,
        routing_key: short(binding.routing_key.clone())?,
        arguments: table(binding.arguments.clone())?,
    });
    channel.call(AMQPClass::Queue(unbind)).await.map(drop)
}

async fn declare_exchange(
    channel: &Channel,
    exchange: &Exchange,
    namespace: &Namespace,
) -> Result<(), Error> {
    let declare = exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: short(namespace.scope(exchange.name.as_str()))?,
        kind: short(exchange.kind.as_str())?,
        passive: exchange.passive,
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        nowait: false,
        arguments: table(namespace.arguments(&exchange.arguments))?,
    });
    channel.call(AMQPClass::Exchange(declare)).await?;
    if !exchange.passive {
        namespace.record(ScopedEntity::Exchange(
            namespace.scope(exchange.name.as_str()),
        ));
    }
    Ok(())
}

async fn declare_queue(
    channel: &Channel,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<QueueCounts, Error> {
    let declare = queue::AMQPMethod::Declare(queue::Declare {
        queue: short(namespace.scope(queue.name.as_str()))?,
        passive: queue.passive,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
        arguments: table(namespace.arguments(&queue.arguments))?,
    });
    let AMQPClass::Queue(queue::AMQPMethod::DeclareOk(declared)) =
        channel.call(AMQPClass::Queue(declare)).await?
    else {
        return Err(unexpected_reply());
    };
    // The broker deletes an exclusive queue with its connection.
    if !queue.passive && !queue.exclusive {
        namespace.record(ScopedEntity::Queue(namespace.scope(queue.name.as_str())));
    }
    Ok(QueueCounts {
        messages: declared.message_count,
        consumers: declared.consumer_count,
    })
}

async fn bind_on(channel: &Channel, binding: &Binding, namespace: &Namespace) -> Result<(), Error> {
    let source = short(namespace.scope(binding.exchange.as_str()))?;
    let routing_key = short(binding.routing_key.clone())?;
    let arguments = table(binding.arguments.clone())?;
    let bind = match &binding.destination {
        Destination::Queue(queue) => AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: short(namespace.scope(queue.as_str()))?,
            exchange: source,
            routing_key,
            nowait: false,
            arguments,
        })),
        Destination::Exchange(destination) => {
            AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                destination: short(namespace.scope(destination.as_str()))?,
                source,
                routing_key,
                nowait: false,
                arguments,
            }))
        }
    };
    channel.call(bind).await.map(drop)
}
