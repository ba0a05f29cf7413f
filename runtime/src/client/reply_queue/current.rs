//! The current reply queue of a connection, for all of its clients.

use std::sync::Arc;

use tokio::sync::watch;

use super::queue::{ReplyQueue, ReplyQueueStatus};
use super::task::ReplyQueueTask;
use crate::error::{Error, ErrorKind};
use crate::link::Connection;
use crate::random;

/// The part that all clients of a connection share: the current reply queue.
#[derive(Debug)]
pub(in crate::client) struct CurrentReplyQueue {
    status: watch::Receiver<ReplyQueueStatus>,
    /// The start of every idempotency key (`message_id`) of this process.
    pub(in crate::client) identity: String,
}

impl CurrentReplyQueue {
    /// The current reply queue of a connection. The first call starts the task that keeps a reply queue.
    pub(in crate::client) fn of(connection: &Connection) -> Arc<Self> {
        connection.shared(|| {
            let (sender, status) = watch::channel(ReplyQueueStatus::Absent);
            let task = ReplyQueueTask::new(connection);
            connection.tasks().spawn(task.run(sender));
            Self {
                status,
                identity: random::identity(),
            }
        })
    }

    /// The reply queue, once a request can be published.
    ///
    /// # Errors
    /// The connection was closed, or the broker refuses the reply queue.
    pub(in crate::client) async fn wait(&self) -> Result<Arc<ReplyQueue>, Error> {
        let mut statuses = self.status.clone();
        loop {
            let status = statuses.borrow_and_update().clone();
            match status {
                ReplyQueueStatus::Refused(error) => return Err(error),
                ReplyQueueStatus::Current(queue) if queue.session.is_up() => {
                    if queue.session.takes_messages() {
                        return Ok(queue);
                    }
                    queue.session.writable().await;
                }
                _ => {
                    if statuses.changed().await.is_err() {
                        return Err(Error::new(ErrorKind::Closed));
                    }
                }
            }
        }
    }

    /// The reply queue, if a request can be published now.
    pub(in crate::client) fn ready(&self) -> Option<Arc<ReplyQueue>> {
        self.current()
            .filter(|queue| queue.session.is_up() && queue.session.takes_messages())
    }

    /// The broker's reason for blocking the connection (`connection.blocked`), if it does.
    pub(in crate::client) fn blocked(&self) -> Option<String> {
        let queue = self.current();
        queue.and_then(|queue| queue.session.blocked().borrow().clone())
    }

    fn current(&self) -> Option<Arc<ReplyQueue>> {
        match &*self.status.borrow() {
            ReplyQueueStatus::Current(queue) => Some(Arc::clone(queue)),
            ReplyQueueStatus::Absent | ReplyQueueStatus::Refused(_) => None,
        }
    }
}
