//! Makes a topology be there, on a channel that is thrown away: a refusal closes it.

use std::sync::Arc;

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::{Channel, ExchangeKind as LapinKind};

use super::convert::{short, table};
use super::namespace::Namespace;
use super::session::Session;
use crate::error::Error;
use crate::topology::{Binding, Destination, Exchange, ExchangeKind, Queue, Topology};

/// How many messages and consumers a queue had when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueCounts {
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// Declares exchanges, queues and bindings, in this order.
///
/// # Errors
/// The broker's refusal; a mismatch names entity, argument and both values.
pub(crate) async fn declare(
    session: &Arc<Session>,
    topology: &Topology,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = session.channel().await?;
    for exchange in &topology.exchanges {
        declare_exchange(session, &channel, exchange, namespace).await?;
    }
    for queue in &topology.queues {
        let counts = declare_queue(session, &channel, queue, namespace).await?;
        tracing::debug!(queue = %queue.name, ?counts, "queue is there");
    }
    for binding in &topology.bindings {
        bind_on(session, &channel, binding, namespace).await?;
    }
    close(session, &channel).await;
    Ok(())
}

/// Asks for a queue's counts (a passive `queue.declare`).
///
/// # Errors
/// 404 when there is no such queue, 405 when it is exclusive to another connection.
pub(crate) async fn count(
    session: &Arc<Session>,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<QueueCounts, Error> {
    let channel = session.channel().await?;
    let counts = declare_queue(session, &channel, &queue.clone().passive(), namespace).await?;
    close(session, &channel).await;
    Ok(counts)
}

/// Removes every message that waits in a queue, and says how many there were.
pub(crate) async fn purge(
    session: &Arc<Session>,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<u32, Error> {
    let channel = session.channel().await?;
    let name = short(namespace.scope(queue.name.as_str()))?;
    let removed = session
        .race(channel.queue_purge(name, QueuePurgeOptions::default()))
        .await?;
    close(session, &channel).await;
    Ok(removed)
}

/// Deletes a queue with what is in it.
pub(crate) async fn delete(
    session: &Arc<Session>,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = session.channel().await?;
    let name = short(namespace.scope(queue.name.as_str()))?;
    session
        .race(channel.queue_delete(name, QueueDeleteOptions::default()))
        .await?;
    close(session, &channel).await;
    Ok(())
}

/// Adds one binding.
pub(crate) async fn bind(
    session: &Arc<Session>,
    binding: &Binding,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = session.channel().await?;
    bind_on(session, &channel, binding, namespace).await?;
    close(session, &channel).await;
    Ok(())
}

/// Removes one binding of a queue.
pub(crate) async fn unbind(
    session: &Arc<Session>,
    binding: &Binding,
    namespace: &Namespace,
) -> Result<(), Error> {
    let channel = session.channel().await?;
    let Destination::Queue(queue) = &binding.destination else {
        return Err(Error::invalid("only a queue's bindings can be removed"));
    };
    let queue = short(namespace.scope(queue.as_str()))?;
    let exchange = short(namespace.scope(binding.exchange.as_str()))?;
    let key = short(binding.routing_key.clone())?;
    let arguments = table(binding.arguments.clone())?;
    session
        .race(channel.queue_unbind(queue, exchange, key, arguments))
        .await?;
    close(session, &channel).await;
    Ok(())
}

async fn declare_exchange(
    session: &Session,
    channel: &Channel,
    exchange: &Exchange,
    namespace: &Namespace,
) -> Result<(), Error> {
    let kind = match exchange.kind {
        ExchangeKind::Fanout => LapinKind::Fanout,
        ExchangeKind::Direct => LapinKind::Direct,
        ExchangeKind::Topic => LapinKind::Topic,
        ExchangeKind::Headers => LapinKind::Headers,
    };
    let options = ExchangeDeclareOptions {
        passive: exchange.passive,
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        nowait: false,
    };
    let name = short(namespace.scope(exchange.name.as_str()))?;
    let arguments = table(namespace.arguments(&exchange.arguments))?;
    session
        .race(channel.exchange_declare(name, kind, options, arguments))
        .await
}

async fn declare_queue(
    session: &Session,
    channel: &Channel,
    queue: &Queue,
    namespace: &Namespace,
) -> Result<QueueCounts, Error> {
    let options = QueueDeclareOptions {
        passive: queue.passive,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
    };
    let name = short(namespace.scope(queue.name.as_str()))?;
    let arguments = table(namespace.arguments(&queue.arguments))?;
    let declared = session
        .race(channel.queue_declare(name, options, arguments))
        .await?;
    Ok(QueueCounts {
        messages: declared.message_count(),
        consumers: declared.consumer_count(),
    })
}

async fn bind_on(
    session: &Session,
    channel: &Channel,
    binding: &Binding,
    namespace: &Namespace,
) -> Result<(), Error> {
    let exchange = short(namespace.scope(binding.exchange.as_str()))?;
    let key = short(binding.routing_key.clone())?;
    let arguments = table(binding.arguments.clone())?;
    match &binding.destination {
        Destination::Queue(queue) => {
            let queue = short(namespace.scope(queue.as_str()))?;
            let options = QueueBindOptions::default();
            session
                .race(channel.queue_bind(queue, exchange, key, options, arguments))
                .await
        }
        Destination::Exchange(destination) => {
            let destination = short(namespace.scope(destination.as_str()))?;
            let options = ExchangeBindOptions::default();
            let bind = channel.exchange_bind(destination, exchange, key, options, arguments);
            session.race(bind).await
        }
    }
}

async fn close(session: &Session, channel: &Channel) {
    let text = lapin::types::ShortString::try_new("done").unwrap_or_default();
    // Its work is done; a session that goes down now says so to everybody else.
    let _ = session.race(channel.close(200, text)).await;
}
