//! The dead-letter queue of a work queue.

use std::sync::Arc;

use crate::error::Error;
use crate::link::{self, Connection, Namespace, QueueCounts, Session};
use crate::publish;
use crate::queue::QueueSpec;
use crate::wire::topology::Topology;

/// A dead-letter queue and the connection that it is used on.
pub(super) struct DeadQueue {
    pub(super) connection: Connection,
    /// The work queue.
    pub(super) spec: QueueSpec,
    /// Whether the payload is an enum, and the task of a job names its variant.
    pub(super) is_by_task: bool,
}

impl DeadQueue {
    /// A session on which the queue is declared.
    pub(super) async fn declared_session(&self) -> Result<Arc<Session>, Error> {
        let topology = Topology::queue(self.spec.dead()?);
        publish::declare(self.connection.consuming(), &topology, self.namespace()).await
    }

    pub(super) fn namespace(&self) -> &Namespace {
        self.connection.namespace()
    }

    /// The number of letters that are ready for delivery.
    pub(super) async fn ready_count(&self, session: &Arc<Session>) -> Result<u32, Error> {
        let dead = self.spec.dead()?;
        let QueueCounts { messages, .. } = link::count(session, &dead, self.namespace()).await?;
        Ok(messages)
    }

    /// Removes all letters for good, and returns their number.
    pub(super) async fn purge(&self) -> Result<u32, Error> {
        let session = self.declared_session().await?;
        link::purge(&session, &self.spec.dead()?, self.namespace()).await
    }
}
