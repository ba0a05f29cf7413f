//! Bindings of a running subscription (`queue.bind`, `queue.unbind`), declared again on every
//! connection.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;

use super::super::binding::{IntoBinding, Kind};
use crate::error::{Error, ErrorKind};
use crate::link::{self, Connection, Namespace, Session};
use crate::sync::lock;
use crate::wire::name::Name;
use crate::wire::reply_code;
use crate::wire::topology::{Binding, Destination, Topology};

/// A handle to change the bindings of a subscription while it runs. Cheap to clone.
///
/// Bindings belong to the subscription, not to a connection: they are declared again after a
/// reconnect. They are also declared again while no event arrives, every three heartbeats, because
/// they are lost without a notice when the exchange is deleted. On a shared or singleton subscription
/// they are the bindings of the group's queue, which all members share: a binding that one member
/// removes is declared again by another member that has it, when that one reconnects or is idle.
pub struct Bindings<K: Kind> {
    inner: Arc<Inner<K>>,
}

struct Inner<K: Kind> {
    exchange: String,
    namespace: Namespace,
    io: Handle,
    bindings: Mutex<Vec<K::Binding>>,
    /// The queue on the current connection. Its lock is held while the broker changes a binding, so
    /// that changes are made one after the other.
    queue: AsyncMutex<Option<BoundQueue>>,
}

struct BoundQueue {
    session: Arc<Session>,
    name: Name,
}

impl<K: Kind> Bindings<K> {
    pub(super) fn new(connection: &Connection, exchange: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                exchange: exchange.to_owned(),
                namespace: connection.namespace().clone(),
                io: connection.io().clone(),
                bindings: Mutex::new(K::default_bindings()),
                queue: AsyncMutex::new(None),
            }),
        }
    }

    /// Adds a binding. Returns when the broker has made it: matching events are received from then
    /// on. While the connection is down, the binding is only recorded, and made on the next
    /// connection. Adding the same binding twice has no further effect.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) for an invalid key, pattern or match; or the broker refuses.
    /// The bindings are unchanged then.
    ///
    /// # Cancel safety
    /// A change that has begun is completed even if the future is dropped.
    pub async fn bind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: IntoBinding<K::Binding>,
    {
        let binding = binding.into_binding()?;
        K::to_amqp(&binding)?;
        self.change(Change::Add, binding).await
    }

    /// Removes a binding. Events published after it returns are no longer received, unless another
    /// binding matches; events that were routed before may still be. Removing a binding that does
    /// not exist is not an error.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    ///
    /// # Cancel safety
    /// A change that has begun is completed even if the future is dropped.
    pub async fn unbind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: IntoBinding<K::Binding>,
    {
        let binding = binding.into_binding()?;
        self.change(Change::Remove, binding).await
    }

    /// The current bindings.
    #[must_use]
    pub fn list(&self) -> Vec<K::Binding> {
        self.inner.bindings().clone()
    }

    /// Records a binding before the subscription starts.
    pub(super) fn record(&self, binding: K::Binding) {
        self.inner.record(binding);
    }

    /// The bindings of a queue as they are declared.
    pub(super) fn of_queue(&self, queue: &Name) -> Result<Vec<Binding>, Error> {
        let bindings = self.list();
        let bindings = bindings.iter();
        bindings
            .map(|binding| self.inner.to_amqp(queue, binding))
            .collect()
    }

    /// Declares the queue with its current bindings, which nobody can change in the meantime.
    pub(super) async fn declare_with<F>(
        &self,
        session: &Arc<Session>,
        queue: &Name,
        declare: impl FnOnce(Vec<Binding>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let mut bound = self.inner.queue.lock().await;
        *bound = None;
        let bindings = self.list();
        let bindings: Result<Vec<_>, _> = bindings
            .iter()
            .map(|binding| self.inner.to_amqp(queue, binding))
            .collect();
        declare(bindings?).await?;
        *bound = Some(BoundQueue {
            session: Arc::clone(session),
            name: queue.clone(),
        });
        Ok(())
    }

    /// Declares the bindings again, after these of the exchange itself. The broker ignores those that
    /// exist, so this restores the ones that were lost with the exchange.
    pub(super) async fn restore(&self, of_exchange: Vec<Binding>) -> Result<(), Error> {
        let queue = self.inner.queue.lock().await;
        let Some(bound) = queue.as_ref().filter(|bound| bound.session.is_up()) else {
            return Ok(());
        };
        let mut bindings = of_exchange;
        for binding in self.list() {
            bindings.push(self.inner.to_amqp(&bound.name, &binding)?);
        }
        if bindings.is_empty() {
            return Ok(());
        }
        let topology = Topology {
            bindings,
            ..Topology::default()
        };
        link::declare(&bound.session, &topology, &self.inner.namespace).await
    }

    /// Runs in a task of its own: if the caller dropped it half-way, the broker and the recorded
    /// bindings would differ.
    async fn change(&self, change: Change, binding: K::Binding) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let changing = self.inner.io.spawn(async move {
            let queue = inner.queue.lock().await;
            if let Some(bound) = queue.as_ref().filter(|bound| bound.session.is_up()) {
                let amqp = inner.to_amqp(&bound.name, &binding)?;
                let (session, namespace) = (&bound.session, &inner.namespace);
                let changed = match change {
                    Change::Add => link::bind(session, &amqp, namespace).await,
                    Change::Remove => link::unbind(session, &amqp, namespace).await,
                };
                changed.or_else(ignore_if_gone)?;
            }
            match change {
                Change::Add => inner.record(binding),
                Change::Remove => inner.bindings().retain(|recorded| *recorded != binding),
            }
            Ok(())
        });
        changing
            .await
            .map_err(|ended| Error::new(ErrorKind::Closed).caused_by(ended))?
    }
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

/// If the connection or the queue is gone, the change is not lost: the queue is declared with the
/// recorded bindings on the next connection.
fn ignore_if_gone(error: Error) -> Result<(), Error> {
    let queue_is_gone = match error.kind() {
        ErrorKind::Broker {
            code: reply_code::NOT_FOUND,
            text,
        } => text.contains("no queue"),
        _ => false,
    };
    if queue_is_gone || error.is_disconnected() {
        return Ok(());
    }
    Err(error)
}

impl<K: Kind> Inner<K> {
    fn bindings(&self) -> MutexGuard<'_, Vec<K::Binding>> {
        lock(&self.bindings)
    }

    fn record(&self, binding: K::Binding) {
        let mut bindings = self.bindings();
        if !bindings.contains(&binding) {
            bindings.push(binding);
        }
    }

    fn to_amqp(&self, queue: &Name, binding: &K::Binding) -> Result<Binding, Error> {
        let amqp = K::to_amqp(binding)?;
        Ok(Binding {
            exchange: Name::parse(&self.exchange)?,
            destination: Destination::Queue(queue.clone()),
            routing_key: amqp.routing_key,
            arguments: amqp.arguments,
        })
    }
}

impl<K: Kind> Clone for Bindings<K> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K: Kind> fmt::Debug for Bindings<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bindings").field(&self.list()).finish()
    }
}
