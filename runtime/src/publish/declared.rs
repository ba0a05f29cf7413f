//! Declarations (`exchange.declare`, `queue.declare`, `queue.bind`) made when they are needed: once on
//! each connection, or after a publish for which the broker had no queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock;
use crate::error::Error;
use crate::link::{self, Link, Namespace, Session};
use crate::wire::reply_code;
use crate::wire::topology::Topology;

/// The time a broker gets to close the connection after such an error.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// One more attempt at a declaration, on the next connection, after an internal error of the broker.
///
/// RabbitMQ 4.3 answers 541 to a declaration of an auto-delete exchange that was deleted and declared
/// again a moment ago; the next attempt succeeds.
#[derive(Debug, Default)]
pub(crate) struct InternalErrorRetry {
    is_used_up: bool,
}

impl InternalErrorRetry {
    /// Whether a declaration that failed with this error is to be attempted once more. Returns when
    /// the session it failed on is down, so that the next attempt gets another one.
    pub(crate) async fn is_due(&mut self, error: &Error, session: &Session) -> bool {
        let is_internal = error.amqp_code() == Some(reply_code::INTERNAL_ERROR);
        // Without a runtime there is no timer to bound the wait with.
        if self.is_used_up || !is_internal || !clock::is_in_runtime() {
            return false;
        }
        self.is_used_up = true;
        tracing::warn!(%error, "declaration failed with an internal error of the broker, retrying once");
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, session.down()).await;
        if closed.is_err() {
            tracing::debug!("the broker keeps the connection open after an internal error");
        }
        true
    }
}

/// Declares a topology on the session that is up, or on the next one if that is lost meanwhile, and
/// returns the session. Dropping the future may leave a part of the topology declared.
///
/// # Errors
/// The connection was closed, or the broker refuses.
pub(crate) async fn declare(
    link: &Link,
    topology: &Topology,
    namespace: &Namespace,
) -> Result<Arc<Session>, Error> {
    let mut retry = InternalErrorRetry::default();
    loop {
        let session = link.session().await?;
        if declare_on(&session, topology, namespace, &mut retry).await? {
            return Ok(session);
        }
    }
}

/// Declares on one session. `false` if it is to be tried again on the next one.
async fn declare_on(
    session: &Arc<Session>,
    topology: &Topology,
    namespace: &Namespace,
    retry: &mut InternalErrorRetry,
) -> Result<bool, Error> {
    match link::declare(session, topology, namespace).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_disconnected() => Ok(false),
        Err(error) if retry.is_due(&error, session).await => Ok(false),
        Err(error) => Err(error),
    }
}

/// A topology that is declared before it is used, once on each connection.
#[derive(Debug, Default)]
pub(crate) struct DeclaredPerSession {
    /// The generation of the session on which it was declared last; 0 for none.
    generation: AtomicU64,
    /// Held while it is declared.
    declaring: Mutex<()>,
}

impl DeclaredPerSession {
    /// Whether it was declared on this session.
    pub(crate) fn is_on(&self, session: &Session) -> bool {
        self.generation.load(Ordering::Acquire) == session.generation()
    }

    /// Forgets the declaration: the broker has the topology no longer, and it is to be declared
    /// again.
    pub(crate) async fn forget(&self) {
        // A declaration that is under way may have reached the broker before the deletion did, so
        // that its result must not overwrite the 0 below.
        let _declaring = self.declaring.lock().await;
        self.generation.store(0, Ordering::Release);
    }

    /// The session that is up, once the topology is declared on it.
    ///
    /// # Errors
    /// Those of [`declare`] and of `topology`.
    pub(crate) async fn ensure(
        &self,
        link: &Link,
        namespace: &Namespace,
        topology: impl Fn() -> Result<Topology, Error>,
    ) -> Result<Arc<Session>, Error> {
        let mut retry = InternalErrorRetry::default();
        loop {
            // Without the lock: a session may be long in coming, and `forget` has to return.
            let session = link.session().await?;
            if self.is_on(&session) {
                return Ok(session);
            }
            let _declaring = self.declaring.lock().await;
            // Another caller may have declared it while this one waited for the lock.
            if self.is_on(&session) {
                return Ok(session);
            }
            if declare_on(&session, &topology()?, namespace, &mut retry).await? {
                self.generation
                    .store(session.generation(), Ordering::Release);
                return Ok(session);
            }
        }
    }
}

/// Topologies that were declared because a publish found no queue, and the moment of each.
#[derive(Debug, Default)]
pub(crate) struct DeclaredOnMiss {
    /// Locked while one is declared: publishes that missed the same queue wait for each other, and
    /// the first of them declares it for all.
    declared: Mutex<Vec<(Topology, Instant)>>,
}

impl DeclaredOnMiss {
    /// Declares the topology for a publish that began at `since`, unless that was done after it
    /// began: such a publish may have been routed before the queue was there.
    ///
    /// # Errors
    /// Those of [`declare`].
    pub(crate) async fn declare(
        &self,
        link: &Link,
        namespace: &Namespace,
        topology: &Topology,
        since: Instant,
    ) -> Result<(), Error> {
        let mut declared = self.declared.lock().await;
        if is_declared_since(&declared, topology, since) {
            return Ok(());
        }
        declare(link, topology, namespace).await?;
        declared.retain(|(known, _)| known != topology);
        declared.push((topology.clone(), Instant::now()));
        Ok(())
    }

    /// Whether the topology was declared here after `since`. Waits for a declaration that is under
    /// way.
    pub(crate) async fn is_declared_since(&self, topology: &Topology, since: Instant) -> bool {
        is_declared_since(&self.declared.lock().await, topology, since)
    }
}

fn is_declared_since(
    declared: &[(Topology, Instant)],
    topology: &Topology,
    since: Instant,
) -> bool {
    let mut declared = declared.iter();
    declared.any(|(known, at)| *at >= since && known == topology)
}
