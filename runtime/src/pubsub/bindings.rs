//! What a subscription is bound by: changed while it runs, put back on every connection.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::Mutex as Turn;

use super::kind::Kind;
use crate::error::{Error, Kind as ErrorKind};
use crate::link::{self, Connection, Namespace, Session};
use crate::sync::lock;
use crate::wire::name::Name;
use crate::wire::topology::{Binding, Destination};

/// The bindings of one subscription: a handle to change them while it runs. Cheap to clone.
///
/// They belong to the subscription and not to a connection: after a reconnect they are as they
/// were last. On a shared or singleton subscription they are those of the group's queue, which
/// every member hears by; what one member unbinds, another one may bind again when it
/// reconnects.
pub struct Bindings<K: Kind> {
    inner: Arc<Inner<K>>,
}

struct Inner<K: Kind> {
    exchange: String,
    namespace: Namespace,
    io: Handle,
    wanted: Mutex<Vec<K::Binding>>,
    /// The queue that is bound, held while the broker is asked to change something.
    now: Turn<Option<Bound>>,
}

struct Bound {
    session: Arc<Session>,
    queue: Name,
}

impl<K: Kind> Bindings<K> {
    pub(super) fn new(connection: &Connection, exchange: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                exchange: exchange.to_owned(),
                namespace: connection.namespace().clone(),
                io: connection.io().clone(),
                wanted: Mutex::new(K::at_first()),
                now: Turn::new(None),
            }),
        }
    }

    /// Adds a binding. Returns when the broker has it: matching events arrive from then on. While
    /// the connection is down it is only noted, and made with the next one. Binding twice the
    /// same is binding once.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) for a key, pattern or match that makes no sense; or the
    /// broker refuses. The bindings are then as they were.
    ///
    /// Cancel-safe: once begun, it goes on.
    pub async fn bind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: TryInto<K::Binding, Error: Into<Error>>,
    {
        let binding = binding.try_into().map_err(Into::into)?;
        K::route(&binding)?;
        self.change(Change::Add, binding).await
    }

    /// Removes a binding: what is published once it returns arrives no more, unless another
    /// binding matches. What was routed before may still come. Unbinding what is not bound is no
    /// error.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    ///
    /// Cancel-safe: once begun, it goes on.
    pub async fn unbind<B>(&self, binding: B) -> Result<(), Error>
    where
        B: TryInto<K::Binding, Error: Into<Error>>,
    {
        let binding = binding.try_into().map_err(Into::into)?;
        self.change(Change::Remove, binding).await
    }

    /// What the subscription is bound by now.
    #[must_use]
    pub fn list(&self) -> Vec<K::Binding> {
        self.inner.wanted().clone()
    }

    /// Before anything is declared.
    pub(super) fn note(&self, binding: K::Binding) {
        self.inner.note(binding);
    }

    /// Declares with the bindings as they are, while nobody changes them.
    pub(super) async fn with<F>(
        &self,
        session: &Arc<Session>,
        queue: &Name,
        declare: impl FnOnce(Vec<Binding>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let mut now = self.inner.now.lock().await;
        *now = None;
        let wanted = self.list();
        let wire: Result<Vec<_>, _> = wanted
            .iter()
            .map(|binding| self.inner.wire(queue, binding))
            .collect();
        declare(wire?).await?;
        *now = Some(Bound {
            session: Arc::clone(session),
            queue: queue.clone(),
        });
        Ok(())
    }

    /// In a task of its own: what is dropped half-way would leave the broker and the list at odds.
    async fn change(&self, change: Change, binding: K::Binding) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let changing = self.inner.io.spawn(async move {
            let now = inner.now.lock().await;
            if let Some(bound) = now.as_ref().filter(|bound| bound.session.is_up()) {
                let wire = inner.wire(&bound.queue, &binding)?;
                let (session, namespace) = (&bound.session, &inner.namespace);
                let changed = match change {
                    Change::Add => link::bind(session, &wire, namespace).await,
                    Change::Remove => link::unbind(session, &wire, namespace).await,
                };
                changed.or_else(later)?;
            }
            match change {
                Change::Add => inner.note(binding),
                Change::Remove => inner.wanted().retain(|wanted| *wanted != binding),
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

/// A connection or a queue that went in the meantime takes nothing away: the next one is bound
/// by the list.
fn later(error: Error) -> Result<(), Error> {
    let queue_is_gone = match error.kind() {
        ErrorKind::Broker { code: 404, text } => text.contains("no queue"),
        _ => false,
    };
    if queue_is_gone || (error.is_disconnected() && !error.is_closed()) {
        return Ok(());
    }
    Err(error)
}

impl<K: Kind> Inner<K> {
    fn wanted(&self) -> MutexGuard<'_, Vec<K::Binding>> {
        lock(&self.wanted)
    }

    fn note(&self, binding: K::Binding) {
        let mut wanted = self.wanted();
        if !wanted.contains(&binding) {
            wanted.push(binding);
        }
    }

    fn wire(&self, queue: &Name, binding: &K::Binding) -> Result<Binding, Error> {
        let route = K::route(binding)?;
        Ok(Binding {
            exchange: Name::parse(&self.exchange)?,
            destination: Destination::Queue(queue.clone()),
            routing_key: route.key,
            arguments: route.arguments,
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
