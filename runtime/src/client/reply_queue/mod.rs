//! The reply queue of a connection, the channel for requests beside it, and the calls that wait for their
//! replies.

mod in_flight;
mod replies;
mod task;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot, watch};

use super::correlation::{CorrelationId, ReplyAddress};
use crate::error::{Error, Kind};
use crate::link::{BurstDetector, Channel, Connection, Flush, Session, WriteOffset};
use crate::policy::refusal::Traits;
use crate::random::{self, Secret};
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::message::Outgoing;
pub(super) use in_flight::{CallCompletion, CallMessage, ReceivedReply};
use in_flight::{InFlightCalls, PublishedMessage};
use task::ReplyQueueTask;

/// The part that all clients of a connection share: the current reply queue.
#[derive(Debug)]
pub(super) struct ReplyRouter {
    queue: watch::Receiver<Option<Arc<ReplyQueue>>>,
    /// The start of every idempotency key (`message_id`) of this process.
    pub(super) identity: String,
}

/// One generation of the reply queue: it lives as long as its session.
#[derive(Debug)]
pub(super) struct ReplyQueue {
    session: Arc<Session>,
    /// The channel that requests are published on. It is replaced if the broker closes it.
    request_channel: Mutex<Arc<Channel>>,
    /// The queue's name on the broker.
    name: String,
    /// The key of the marks in correlation ids.
    secret: Secret,
    in_flight: InFlightCalls,
    burst: BurstDetector,
    /// The number of messages that were published on channels for requests.
    published: AtomicU64,
    /// Notified when the channel for requests is closed.
    request_channel_closed: Notify,
    counters: Arc<Counters>,
}

/// A registered call. Dropping it removes the call from the table of calls in flight.
#[derive(Debug)]
pub(super) struct PendingCall {
    queue: Arc<ReplyQueue>,
    pub(super) id: u64,
    completion: oneshot::Receiver<CallCompletion>,
}

impl ReplyRouter {
    /// The router of a connection. The first call starts the task that keeps a reply queue.
    pub(super) fn of(connection: &Connection) -> Arc<Self> {
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
    pub(super) async fn wait(&self) -> Result<Arc<ReplyQueue>, Error> {
        let mut queues = self.queue.clone();
        loop {
            let current = queues.borrow_and_update().clone();
            match current {
                Some(queue) if queue.session.is_up() => {
                    if queue.session.takes_messages() {
                        return Ok(queue);
                    }
                    queue.session.message_taken().await;
                }
                _ => {
                    if queues.changed().await.is_err() {
                        return Err(Error::new(Kind::Closed));
                    }
                }
            }
        }
    }

    /// The reply queue, if a request can be published now.
    pub(super) fn ready(&self) -> Option<Arc<ReplyQueue>> {
        let queue = self.queue.borrow().clone();
        queue.filter(|queue| queue.session.is_up() && queue.session.takes_messages())
    }

    /// The broker's reason for blocking the connection (`connection.blocked`), if it does.
    pub(super) fn blocked(&self) -> Option<String> {
        let queue = self.queue.borrow().clone();
        queue.and_then(|queue| queue.session.blocked().borrow().clone())
    }
}

impl ReplyQueue {
    /// Registers a call, before its request is published: the reply may come at once. `None` if no reply
    /// can come to this queue any more; the router will have another one.
    pub(super) fn register(self: &Arc<Self>, message: CallMessage) -> Option<PendingCall> {
        let (id, completion) = self.in_flight.register(message)?;
        Some(PendingCall {
            queue: Arc::clone(self),
            id,
            completion,
        })
    }

    /// Publishes the request of a call.
    ///
    /// # Errors
    /// The channel is closed, and the request was not sent.
    pub(super) fn publish(&self, message: &Outgoing, id: u64) -> Result<(), Error> {
        self.publish_with(message, id, self.burst.next()).map(drop)
    }

    /// Publishes a message whose first call is `id`. The message is flushed when the result is awaited,
    /// together with others that were published before; the result completes when the message is written
    /// to the socket, or is lost with its session.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), at once.
    pub(super) fn publish_deferred(
        &self,
        message: &Outgoing,
        id: u64,
    ) -> Result<impl Future<Output = ()> + use<>, Error> {
        let (channel, offset) = self.publish_with(message, id, Flush::Deferred)?;
        Ok(async move {
            channel.send(Flush::IoTask);
            // An error means that the session has ended, which completes all its calls.
            drop(channel.written(offset).await);
        })
    }

    fn publish_with(
        &self,
        message: &Outgoing,
        id: u64,
        flush: Flush,
    ) -> Result<(Arc<Channel>, WriteOffset), Error> {
        let channel = self.request_channel();
        let traits = Traits::of(message);
        // Runs under the lock of the write buffer, so that positions have the order of the messages on
        // the wire, which is the order in which the broker handles them.
        let note = || {
            let position = self.published.fetch_add(1, Ordering::Relaxed);
            let published = PublishedMessage { position, traits };
            self.in_flight.set_published(id, published);
            Ok(())
        };
        match channel.publish_noted(message, flush, note) {
            Ok(offset) => Ok((channel, offset)),
            Err(error) => {
                self.request_channel_closed.notify_one();
                Err(error)
            }
        }
    }

    /// Puts queued calls into one message, as [`InFlightCalls::assign_message`] does.
    pub(super) fn assign_message<T>(
        &self,
        calls: &mut Vec<T>,
        id: impl Fn(&T) -> u64,
    ) -> Option<u64> {
        self.in_flight.assign_message(calls, id)
    }

    /// Completes a call of a batch that was not sent, so that it is sent in a message of its own.
    pub(super) fn send_alone(&self, id: u64) {
        let completion = CallCompletion::SendAlone {
            batch_refused: false,
        };
        self.in_flight.complete(id, completion);
    }

    /// The queue's name on the broker.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The address of the reply to a call.
    pub(super) fn address(&self, id: u64) -> ReplyAddress<'_> {
        ReplyAddress {
            reply_to: &self.name,
            id,
            secret: &self.secret,
        }
    }

    /// The correlation id of a batch.
    pub(super) fn batch_correlation_id(&self, batch: u64) -> Vec<u8> {
        CorrelationId::Batch(batch).encode(&self.secret)
    }

    pub(super) fn has_calls(&self) -> bool {
        !self.in_flight.is_empty()
    }

    fn request_channel(&self) -> Arc<Channel> {
        Arc::clone(&lock(&self.request_channel))
    }

    fn set_request_channel(&self, channel: Arc<Channel>) {
        *lock(&self.request_channel) = channel;
    }
}

impl PendingCall {
    pub(super) fn address(&self) -> ReplyAddress<'_> {
        self.queue.address(self.id)
    }

    /// Whether the call waits to be put into a message.
    pub(super) fn is_queued(&self) -> bool {
        self.queue.in_flight.is_queued(self.id)
    }

    /// The call's completion. Cancel-safe.
    pub(super) async fn completion(&mut self) -> CallCompletion {
        match (&mut self.completion).await {
            Ok(completion) => completion,
            Err(_) => CallCompletion::Lost(Error::new(Kind::Disconnected)),
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        // The receiver is closed before the entry is removed, so that no completion is sent to it in
        // between and lost in the channel.
        self.completion.close();
        self.queue.in_flight.remove(self.id);
    }
}
