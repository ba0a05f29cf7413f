//! Requests sent through the broker (`basic.publish`), and what replaces one whose connection or channel
//! is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::cancel::Canceller;
use super::coalesce::Coalescer;
use super::presence::ConsumerPresence;
use super::reply_queue::{CallMessage, CurrentReplyQueue, PendingCall, ReplyQueue};
use super::request::CallRequest;
use crate::error::{Error, ErrorKind, Outcome};
use crate::link::Connection;
use crate::publish::{MAX_UNCONFIRMED, Publisher};
use crate::stats::HandlerOutcome;
use crate::wire::message::Outgoing;

/// The pause before a request that was not sent is tried again, while its channel is replaced.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// The number of the next idempotency key of this process.
static NEXT_MESSAGE: AtomicU64 = AtomicU64::new(1);

/// The part of a client that sends requests through the broker.
pub(super) struct BrokerBackend {
    pub(super) current: Arc<CurrentReplyQueue>,
    pub(super) connection: Connection,
    /// For one-way requests, and for requests that are sent alone on a channel.
    pub(super) publisher: Publisher,
    pub(super) coalescer: Option<Arc<Coalescer>>,
    presence: Arc<ConsumerPresence>,
    /// Tells servers of calls that are given up. `None` if the control plane is off.
    canceller: Option<Arc<Canceller>>,
}

/// A call whose request is sent through the broker. Dropping it before its completion gives the call up: the servers are
/// told if the request was sent.
pub(super) struct BrokerCall {
    pub(super) backend: Arc<BrokerBackend>,
    pub(super) request: Arc<CallRequest>,
    pub(super) pending: PendingCall,
}

impl Drop for BrokerCall {
    fn drop(&mut self) {
        if self.pending.is_completed() {
            return;
        }
        let Some(canceller) = &self.backend.canceller else {
            return;
        };
        // The servers stop at the deadline by themselves.
        if self.request.time_left().is_zero() {
            return;
        }
        if let Some(id) = self.pending.give_up() {
            canceller.cancel(&self.request, self.pending.queue(), id);
        }
    }
}

impl BrokerBackend {
    pub(super) fn new(connection: &Connection, coalescer: Option<Arc<Coalescer>>) -> Self {
        Self {
            current: CurrentReplyQueue::of(connection),
            connection: connection.clone(),
            publisher: Publisher::new(connection, MAX_UNCONFIRMED),
            coalescer,
            presence: ConsumerPresence::of(connection),
            canceller: Canceller::of(connection),
        }
    }

    /// A new idempotency key.
    pub(super) fn next_message_id(&self) -> String {
        let number = NEXT_MESSAGE.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.current.identity)
    }

    /// Queues or publishes a request, if nothing has to be waited for.
    pub(super) fn send_now(self: &Arc<Self>, request: &Arc<CallRequest>) -> Option<BrokerCall> {
        let coalescer = self.coalescer.as_ref();
        match coalescer.and_then(|coalescer| coalescer.enqueue(&self.current, request)) {
            Some(pending) => Some(self.call(request, pending)),
            None => self.publish_on(&self.current.ready()?, request)?.ok(),
        }
    }

    fn call(self: &Arc<Self>, request: &Arc<CallRequest>, pending: PendingCall) -> BrokerCall {
        BrokerCall {
            backend: Arc::clone(self),
            request: Arc::clone(request),
            pending,
        }
    }

    /// Publishes a request in a message of its own, on the first session that accepts it.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: &Arc<CallRequest>,
    ) -> Result<BrokerCall, Error> {
        loop {
            let queue = self.reply_queue(request).await?;
            match self.publish_on(&queue, request) {
                Some(Ok(call)) => return Ok(call),
                Some(Err(error)) if !error.is_disconnected_or_closed() => {
                    return Err(request.not_sent(error));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "request not sent, waiting for the next connection or channel");
                }
                None => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The error of a request that could not be sent before its deadline: blocked, with the broker's reason,
    /// if that is the cause; otherwise with the reason why there is no connection as its source.
    fn waited_in_vain(&self, request: &CallRequest) -> Error {
        match self.current.blocked() {
            Some(reason) => request.failed(ErrorKind::Blocked(reason), Outcome::NotSent),
            None => request
                .failed(ErrorKind::Timeout, Outcome::NotSent)
                .caused_by_trouble(self.connection.publishing().trouble()),
        }
    }

    /// Registers a call with a reply queue and publishes its request. `None` if no reply can come to this
    /// queue any more.
    fn publish_on(
        self: &Arc<Self>,
        queue: &Arc<ReplyQueue>,
        request: &Arc<CallRequest>,
    ) -> Option<Result<BrokerCall, Error>> {
        let call = self.call(
            request,
            queue.register(CallMessage::Own, request.options.window)?,
        );
        let asks_for_batches = self
            .coalescer
            .as_ref()
            .is_some_and(|coalescer| coalescer.should_ask());
        let app_id = self.connection.given_name();
        let message = request.message(app_id, Some(call.pending.address()), asks_for_batches);
        let published = queue.publish(&message, call.pending.id);
        Some(published.map(|()| {
            request.sent(1);
            call
        }))
    }

    /// Waits until the queue of a call that is to fail fast has a consumer. Any other call need not wait.
    ///
    /// # Errors
    /// It had none for as long as the call allows, or until the deadline.
    pub(super) async fn until_served(&self, request: &CallRequest) -> Result<(), Error> {
        let Some(absence) = request.options.fail_fast else {
            return Ok(());
        };
        let served = self
            .presence
            .until_served(&request.queue, absence.duration());
        match timeout_at(request.deadline, served).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(request.failed(ErrorKind::Unserved, Outcome::NotSent)),
            Err(_) => Err(self.waited_in_vain(request)),
        }
    }

    /// Publishes a request with a confirm, so that the broker tells if the queue is full.
    ///
    /// The channel is shared with other publishes. If the broker closes it over one of them, the request may or may
    /// not be in its queue, and the reply is waited for as usual.
    pub(super) async fn send_confirmed(
        self: &Arc<Self>,
        request: &Arc<CallRequest>,
    ) -> Result<BrokerCall, Error> {
        let (call, message) = self.register(request).await?;
        let (now, left) = (Instant::now(), request.time_left());
        let published = match self.publisher.send(message, now, left).await {
            Ok(unconfirmed) => {
                call.pending.set_sent();
                unconfirmed.wait().await
            }
            Err(failure) => Err(failure),
        };
        match published {
            Err(failure) if !failure.error.is_unconfirmed() => {
                // No queue has the request: there is no server to tell.
                call.pending.remove();
                let error = failure.into_error(&request.target());
                request.ended(HandlerOutcome::Status(error.grpc_code()));
                Err(error)
            }
            Ok(()) | Err(_) => {
                request.sent(1);
                Ok(call)
            }
        }
    }

    /// Publishes a request with a confirm and without other requests on its channel. If the broker closes
    /// that channel, this request is the reason.
    pub(super) async fn send_isolated(
        self: &Arc<Self>,
        request: &Arc<CallRequest>,
    ) -> Result<BrokerCall, Error> {
        let (call, message) = self.register(request).await?;
        let published = self.publisher.publish(message, request.time_left()).await;
        published.map_err(|failure| failure.into_error(&request.target()))?;
        call.pending.set_sent();
        request.sent(1);
        Ok(call)
    }

    /// Registers a call with the next reply queue that takes it, and makes its message.
    async fn register(
        self: &Arc<Self>,
        request: &Arc<CallRequest>,
    ) -> Result<(BrokerCall, Arc<Outgoing>), Error> {
        loop {
            let queue = self.reply_queue(request).await?;
            if let Some(pending) = queue.register(CallMessage::Own, request.options.window) {
                let app_id = self.connection.given_name();
                let message = request.message(app_id, Some(pending.address()), false);
                return Ok((self.call(request, pending), Arc::new(message)));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The reply queue, once there is one whose session takes messages.
    ///
    /// # Errors
    /// There was none before the deadline, or it is refused.
    async fn reply_queue(&self, request: &CallRequest) -> Result<Arc<ReplyQueue>, Error> {
        let queue = match timeout_at(request.deadline, self.current.wait()).await {
            Ok(Ok(queue)) => queue,
            Ok(Err(error)) => return Err(request.not_sent(error)),
            Err(_) => return Err(self.waited_in_vain(request)),
        };
        if request.time_left().is_zero() {
            return Err(request.failed(ErrorKind::Timeout, Outcome::NotSent));
        }
        Ok(queue)
    }
}
