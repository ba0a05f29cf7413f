//! The current reply queue of a connection, for all of its clients.

use std::sync::Arc;

use tokio::sync::watch;

use super::queue::ReplyQueue;
use super::task::ReplyQueueTask;
use crate::error::{Error, ErrorKind};
use crate::link::Connection;
use crate::random;

/// The part that all clients of a connection share: the current reply queue.
#[derive(Debug)]
pub(in crate::client) struct CurrentReplyQueue {
    queue: watch::Receiver<Option<Arc<ReplyQueue>>>,
    /// The start of every idempotency key (`message_id`) of this process.
    pub(in crate::client) identity: String,
}

impl CurrentReplyQueue {
    /// The current reply queue of a connection. The first call starts the task that keeps a reply queue.
    pub(in crate::client) fn of(connection: &Connection) -> Arc<Self> {
        connection.shared(|| {
            let (sender, queue) = watch::channel(None);
            let task = ReplyQueueTask::new(connection);
            connection.tasks().spawn(task.run(sender));
            Self {
                queue,
                identity: random::identity(),
            }
        })
    }

    /// The reply queue, once a request can be published.
    ///
    /// # Errors
    /// The connection was closed.
    pub(in crate::client) async fn wait(&self) -> Result<Arc<ReplyQueue>, Error> {
        let mut queues = self.queue.clone();
        loop {
            let current = queues.borrow_and_update().clone();
            match current {
                Some(queue) if queue.session.is_up() => {
                    if queue.session.takes_messages() {
                        return Ok(queue);
                    }
                    queue.session.writable().await;
                }
                _ => {
                    if queues.changed().await.is_err() {
                        return Err(Error::new(ErrorKind::Closed));
                    }
                }
            }
        }
    }

    /// The reply queue, if a request can be published now.
    pub(in crate::client) fn ready(&self) -> Option<Arc<ReplyQueue>> {
        let queue = self.queue.borrow().clone();
        queue.filter(|queue| queue.session.is_up() && queue.session.takes_messages())
    }

    /// The broker's reason for blocking the connection (`connection.blocked`), if it does.
    pub(in crate::client) fn blocked(&self) -> Option<String> {
        let queue = self.queue.borrow().clone();
        queue.and_then(|queue| queue.session.blocked().borrow().clone())
    }
}
