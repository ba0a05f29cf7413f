//! One generation of the reply queue, and the channel for requests beside it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::sync::{Notify, oneshot};

use super::in_flight::{CallCompletion, CallMessage, InFlightCalls, PublishedMessage};
use super::open_streams::OpenStreams;
use crate::client::correlation::{CorrelationId, ReplyAddress};
use crate::error::{Error, ErrorKind};
use crate::link::{BurstDetector, Channel, Flush, Session, WriteOffset};
use crate::policy::refusal::Traits;
use crate::random::Secret;
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::batch::id_in_batch;
use crate::wire::message::Outgoing;

/// One generation of the reply queue: it lives as long as its session.
#[derive(Debug)]
pub(in crate::client) struct ReplyQueue {
    pub(super) session: Arc<Session>,
    /// The channel that requests are published on. It is replaced if the broker closes it.
    pub(super) request_channel: Mutex<Arc<Channel>>,
    /// The queue's name on the broker.
    pub(super) name: String,
    /// The key of the marks in correlation ids.
    pub(super) secret: Secret,
    pub(super) in_flight: InFlightCalls,
    pub(super) streams: OpenStreams,
    pub(super) burst: BurstDetector,
    /// The number of messages that were published on channels for requests.
    pub(super) published: AtomicU64,
    /// Notified when the channel for requests is closed.
    pub(super) request_channel_closed: Notify,
    /// The channel that items are sent on, with the first upload.
    pub(super) upload_channel: tokio::sync::Mutex<Option<Arc<Channel>>>,
    /// The largest message, in bytes.
    pub(super) max_message: usize,
    pub(super) counters: Arc<Counters>,
}

/// The status of the reply queue of a connection.
#[derive(Clone, Debug)]
pub(super) enum ReplyQueueStatus {
    /// There is none yet, or it was lost. There will be another one.
    Absent,
    /// The broker refuses to let this user declare or consume one. It is attempted again.
    Refused(Error),
    Current(Arc<ReplyQueue>),
}

/// A registered call. Dropping it removes the call from the table of calls in flight.
#[derive(Debug)]
pub(in crate::client) struct PendingCall {
    queue: Arc<ReplyQueue>,
    pub(in crate::client) id: u64,
    completion: oneshot::Receiver<CallCompletion>,
}

impl ReplyQueue {
    /// Registers a call, before its request is published: the reply may come at once. It asks for a stream if
    /// `window` is not 0. `None` if no reply can come to this queue any more; there will be another current one.
    pub(in crate::client) fn register(
        self: &Arc<Self>,
        message: CallMessage,
        window: u32,
    ) -> Option<PendingCall> {
        let (id, completion) = self.in_flight.register(message, window)?;
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
    pub(in crate::client) fn publish(&self, message: &Outgoing, id: u64) -> Result<(), Error> {
        self.publish_with(message, &mut std::iter::once(id), self.burst.next())
            .map(drop)
    }

    /// Publishes the message of these calls. The message is flushed when the result is awaited,
    /// together with others that were published before; the result completes when the message is written
    /// to the socket, or is lost with its session.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), at once.
    pub(in crate::client) fn publish_deferred(
        &self,
        message: &Outgoing,
        ids: &mut dyn Iterator<Item = u64>,
    ) -> Result<impl Future<Output = ()> + use<>, Error> {
        let (channel, offset) = self.publish_with(message, ids, Flush::Deferred)?;
        Ok(async move {
            channel.flush(Flush::IoTask);
            // An error means that the session has ended, which completes all its calls.
            drop(channel.flushed(offset).await);
        })
    }

    fn publish_with(
        &self,
        message: &Outgoing,
        ids: &mut dyn Iterator<Item = u64>,
        flush: Flush,
    ) -> Result<(Arc<Channel>, WriteOffset), Error> {
        let channel = self.request_channel();
        let traits = Traits::of(message);
        // Runs under the lock of the write buffer, so that positions have the order of the messages on
        // the wire, which is the order in which the broker handles them.
        let note = || {
            let position = self.published.fetch_add(1, Ordering::Relaxed);
            let published = PublishedMessage { position, traits };
            self.in_flight.set_published(ids, published);
            Ok(())
        };
        match channel.publish_recorded(message, flush, note) {
            Ok(offset) => Ok((channel, offset)),
            Err(error) => {
                self.request_channel_closed.notify_one();
                Err(error)
            }
        }
    }

    /// Publishes a message about an open stream on the channel for requests.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub(super) fn publish_for_stream(
        &self,
        message: &Outgoing,
        flush: Flush,
    ) -> Result<Arc<Channel>, Error> {
        let published = self.publish_with(message, &mut std::iter::empty(), flush);
        published.map(|(channel, _)| channel)
    }

    /// Completes all calls as lost, and ends all streams. None can be registered after this.
    pub(super) fn fail_all(&self, reason: &Error) {
        self.in_flight.fail_all(reason);
        self.streams.fail_all(reason);
    }

    /// The correlation id of a call.
    pub(super) fn correlation_id(&self, id: u64) -> Vec<u8> {
        CorrelationId::Call(id).encode(&self.secret)
    }

    /// Puts queued calls into one message, as [`InFlightCalls::assign_message`] does.
    pub(in crate::client) fn assign_message<T>(
        &self,
        calls: &mut Vec<T>,
        id: impl Fn(&T) -> u64,
    ) -> Option<u64> {
        self.in_flight.assign_message(calls, id)
    }

    /// Completes a call of a batch that was not sent, so that it is sent in a message of its own.
    pub(in crate::client) fn send_alone(&self, id: u64) {
        let completion = CallCompletion::SendAlone {
            batch_refused: false,
        };
        self.in_flight.complete(id, completion);
    }

    /// Whether replies can still come.
    pub(in crate::client) fn is_up(&self) -> bool {
        self.session.is_up()
    }

    /// The queue's name on the broker.
    pub(in crate::client) fn name(&self) -> &str {
        &self.name
    }

    /// The address of the reply to a call.
    pub(in crate::client) fn address(&self, id: u64) -> ReplyAddress<'_> {
        ReplyAddress {
            reply_to: &self.name,
            id,
            secret: &self.secret,
        }
    }

    /// The correlation id of a batch.
    pub(in crate::client) fn batch_correlation_id(&self, batch: u64) -> Vec<u8> {
        CorrelationId::Batch(batch).encode(&self.secret)
    }

    pub(in crate::client) fn has_calls(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn request_channel(&self) -> Arc<Channel> {
        Arc::clone(&lock(&self.request_channel))
    }

    pub(super) fn set_request_channel(&self, channel: Arc<Channel>) {
        *lock(&self.request_channel) = channel;
    }
}

impl PendingCall {
    pub(in crate::client) fn address(&self) -> ReplyAddress<'_> {
        self.queue.address(self.id)
    }

    pub(in crate::client) fn queue(&self) -> &Arc<ReplyQueue> {
        &self.queue
    }

    /// Whether its completion was taken, so that it is no longer in flight.
    pub(in crate::client) fn is_completed(&self) -> bool {
        self.completion.is_terminated()
    }

    /// Notes that the request was published on another channel than that for requests.
    pub(in crate::client) fn set_sent(&self) {
        self.queue.in_flight.set_sent(self.id);
    }

    /// Ends the wait for the reply to a request that no server has.
    pub(in crate::client) fn remove(&self) {
        self.queue.in_flight.remove(self.id);
    }

    /// Ends the wait for the reply. Returns the id by which a server knows the call; `None` if its request was not
    /// sent, or if it is completed already.
    pub(in crate::client) fn give_up(&self) -> Option<Vec<u8>> {
        let encode = |id: CorrelationId| id.encode(&self.queue.secret);
        match self.queue.in_flight.give_up(self.id)? {
            CallMessage::Queued => None,
            CallMessage::Own => Some(encode(CorrelationId::Call(self.id))),
            CallMessage::Batch(batch) => {
                let message = self.queue.batch_correlation_id(batch);
                Some(id_in_batch(&message, self.id))
            }
        }
    }

    /// Whether the call waits to be put into a message.
    pub(in crate::client) fn is_queued(&self) -> bool {
        self.queue.in_flight.is_queued(self.id)
    }

    /// The call's completion. Cancel-safe.
    pub(in crate::client) async fn completion(&mut self) -> CallCompletion {
        poll_fn(|cx| self.poll_completion(cx)).await
    }

    /// Polls [`completion`](Self::completion).
    pub(in crate::client) fn poll_completion(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<CallCompletion> {
        let completion = Pin::new(&mut self.completion).poll(cx);
        completion.map(|completion| match completion {
            Ok(completion) => completion,
            Err(_) => CallCompletion::Lost(Error::new(ErrorKind::Disconnected)),
        })
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.is_completed() {
            return;
        }
        // The receiver is closed before the entry is removed, so that no completion is sent to it in
        // between and lost in the channel.
        self.completion.close();
        self.queue.in_flight.remove(self.id);
    }
}
