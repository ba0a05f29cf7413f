//! Coalescing: calls that are made at the same time are sent as one batch.
//!
//! There is no timer. A batch is sent as soon as no other task is about to add a call, and the batch
//! before it is written to the socket.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::reply_queue::{CallMessage, CurrentReplyQueue, PendingCall, ReplyQueue};
use super::request::CallRequest;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;
use crate::wire::batch;
use crate::wire::envelope::{CALLS_TYPE, ReplyForm, RequestHead, milliseconds};
use crate::wire::message::Outgoing;

/// Calls with more bytes of arguments and headers are not put into batches: the cost of a message is small
/// beside theirs.
const MAX_CALL_BYTES: usize = 16 * 1024;
/// The most bytes of arguments and headers in one batch.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// The times left of the calls of a batch differ by less than this part of them, because the message
/// expires with the first of its calls.
const MAX_DEADLINE_SPREAD: u32 = 100;
/// After a server has refused a batch, none is sent to its service for this long. The service's servers
/// may run different versions, and the next one may refuse as well.
const REFUSAL_COOLDOWN: Duration = Duration::from_secs(60);

/// Collects the calls of a client and its clones into batches.
pub(super) struct Coalescer {
    queued: mpsc::UnboundedSender<QueuedCall>,
    /// Whether the service's servers accept batches.
    is_accepted: AtomicBool,
    /// Whether the latest batch had a single call. Then a call that is alone in flight is not queued, since
    /// no other would join it.
    was_single: Arc<AtomicBool>,
    refused_at: Mutex<Option<Instant>>,
}

/// A call that waits to be put into a batch.
struct QueuedCall {
    queue: Arc<ReplyQueue>,
    id: u64,
    request: Arc<CallRequest>,
    /// The bytes of its arguments and headers.
    size: usize,
}

impl Coalescer {
    /// Starts the task that sends batches of up to `max_calls` calls. `app_id` names the client.
    pub(super) fn start(max_calls: usize, app_id: Option<String>, tasks: &Handle) -> Self {
        let (queued, incoming) = mpsc::unbounded_channel();
        let was_single = Arc::new(AtomicBool::new(false));
        let task = send_batches(incoming, max_calls, app_id, Arc::clone(&was_single));
        tasks.spawn(task);
        Self {
            queued,
            was_single,
            is_accepted: AtomicBool::new(false),
            refused_at: Mutex::new(None),
        }
    }

    /// Queues a call for a batch. `None` if it is to be sent in a message of its own.
    pub(super) fn enqueue(
        &self,
        current: &CurrentReplyQueue,
        request: &Arc<CallRequest>,
    ) -> Option<PendingCall> {
        let may_share = self.is_accepted.load(Ordering::Relaxed)
            && request.method().own_queue().is_none()
            && !request.method().is_at_most_once()
            && request.options.window == 0;
        if !may_share {
            return None;
        }
        let headers = batch::size_of_headers(&request.options.headers, &request.trace)?;
        let size = request.options.body.len() + headers;
        if size > MAX_CALL_BYTES {
            return None;
        }
        let queue = current.ready()?;
        if self.was_single.load(Ordering::Relaxed) && !queue.has_calls() {
            return None;
        }
        let call = queue.register(CallMessage::Queued, 0)?;
        let queued = QueuedCall {
            queue,
            id: call.id,
            request: Arc::clone(request),
            size,
        };
        // An error means that the task has ended with its runtime. The call is dropped then, which
        // removes its registration.
        self.queued.send(queued).ok().map(|()| call)
    }

    /// Whether the next request is to ask if the server accepts batches.
    pub(super) fn should_ask(&self) -> bool {
        if self.is_accepted.load(Ordering::Relaxed) {
            return false;
        }
        let refused_at = lock(&self.refused_at);
        refused_at.is_none_or(|at| at.elapsed() >= REFUSAL_COOLDOWN)
    }

    /// Notes the form of a reply, which may tell that the server accepts batches.
    pub(super) fn reply_received(&self, form: ReplyForm) {
        if form == ReplyForm::AcceptsBatches && self.should_ask() {
            self.is_accepted.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that a server has refused a batch.
    pub(super) fn batch_refused(&self) {
        *lock(&self.refused_at) = Some(Instant::now());
        self.is_accepted.store(false, Ordering::Relaxed);
    }
}

/// Sends queued calls in batches until the client is dropped.
async fn send_batches(
    mut incoming: mpsc::UnboundedReceiver<QueuedCall>,
    max_calls: usize,
    app_id: Option<String>,
    was_single: Arc<AtomicBool>,
) {
    let mut calls = Vec::new();
    while incoming.recv_many(&mut calls, usize::MAX).await > 0 {
        // Other tasks that are ready may be about to call. They run when this task yields; as long as
        // they add calls, there may be more.
        loop {
            tokio::task::yield_now().await;
            let before = calls.len();
            while let Ok(call) = incoming.try_recv() {
                calls.push(call);
            }
            if calls.len() == before || calls.len() >= max_calls {
                break;
            }
        }
        was_single.store(calls.len() == 1, Ordering::Relaxed);
        let mut batches: Vec<Batch> = Vec::new();
        let now = Instant::now();
        for call in calls.drain(..) {
            // From the latest to the earliest, because the earlier ones are mostly full.
            let mut latest_first = batches.iter_mut().rev();
            match latest_first.find(|batch| batch.accepts(&call, max_calls, now)) {
                Some(batch) => batch.push(call),
                None => batches.push(Batch::of(call)),
            }
        }
        // All are published before the first is awaited, and so written to the socket together.
        let sent = batches
            .into_iter()
            .filter_map(|batch| batch.send(app_id.as_deref()));
        for written in sent.collect::<Vec<_>>() {
            written.await;
        }
    }
}

/// Calls that are sent in one message.
struct Batch {
    calls: Vec<QueuedCall>,
    /// The bytes of their arguments and headers.
    size: usize,
    earliest_deadline: Instant,
    latest_deadline: Instant,
}

impl Batch {
    fn of(call: QueuedCall) -> Self {
        let (size, deadline) = (call.size, call.request.deadline);
        Self {
            calls: vec![call],
            size,
            earliest_deadline: deadline,
            latest_deadline: deadline,
        }
    }

    fn accepts(&self, call: &QueuedCall, max_calls: usize, now: Instant) -> bool {
        let Some(first) = self.calls.first() else {
            return false;
        };
        let (ours, other) = (&first.request, &call.request);
        let earliest = self.earliest_deadline.min(other.deadline);
        let spread = self.latest_deadline.max(other.deadline) - earliest;
        self.calls.len() < max_calls
            && self.size + call.size <= MAX_BATCH_BYTES
            && Arc::ptr_eq(&first.queue, &call.queue)
            && ours.codec == other.codec
            && ours.options.priority == other.options.priority
            && spread * MAX_DEADLINE_SPREAD <= earliest.saturating_duration_since(now)
    }

    fn push(&mut self, call: QueuedCall) {
        let deadline = call.request.deadline;
        self.size += call.size;
        self.earliest_deadline = self.earliest_deadline.min(deadline);
        self.latest_deadline = self.latest_deadline.max(deadline);
        self.calls.push(call);
    }

    /// Publishes the calls that are still waited for. The result completes when the message is written
    /// to the socket; `None` if nothing was published.
    fn send(mut self, app_id: Option<&str>) -> Option<impl Future<Output = ()> + use<>> {
        let queue = Arc::clone(&self.calls.first()?.queue);
        let now = Instant::now();
        // Calls past their deadline end by themselves, as not sent.
        self.calls.retain(|call| call.request.deadline > now);
        let batch = queue.assign_message(&mut self.calls, |call| call.id)?;
        let message = self.message(&queue, batch, app_id, now);
        let mut ids = self.calls.iter().map(|call| call.id);
        let error = match message.and_then(|message| queue.publish_deferred(&message, &mut ids)) {
            Ok(written) => {
                if let Some(first) = self.calls.first() {
                    first.request.sent(self.calls.len());
                }
                return Some(written);
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "a batch cannot be sent, sending its calls one by one");
        for call in &self.calls {
            queue.send_alone(call.id);
        }
        None
    }

    fn message(
        &self,
        queue: &ReplyQueue,
        batch: u64,
        app_id: Option<&str>,
        now: Instant,
    ) -> Result<Outgoing, Error> {
        let first = match self.calls.as_slice() {
            [] => return Err(Error::new(ErrorKind::Closed)),
            [QueuedCall { request, id, .. }] => {
                return Ok(request.message(app_id, Some(queue.address(*id)), false));
            }
            [QueuedCall { request, .. }, ..] => request,
        };
        let calls = self
            .calls
            .iter()
            .map(|QueuedCall { id, request, .. }| batch::BatchedCall {
                id: *id,
                method: request.method().name(),
                time_left: milliseconds(request.deadline.saturating_duration_since(now)).into(),
                message_id: request.message_id.get().map(String::as_str),
                arguments: &request.options.body,
                headers: Cow::Borrowed(&request.options.headers),
                trace: Cow::Borrowed(&request.trace),
            });
        let body = batch::encode_calls(calls)
            .map_err(|error| Error::new(ErrorKind::Encode).caused_by(error))?;
        let time_left = self.earliest_deadline.saturating_duration_since(now);
        let head = RequestHead {
            method: Some(CALLS_TYPE.to_owned()),
            reply_to: Some(queue.name().to_owned()),
            correlation_id: Some(queue.batch_correlation_id(batch)),
            content_type: Some(first.codec.content_type().to_owned()),
            time_left: Some(time_left),
            priority: first.options.priority,
            caller: app_id.map(str::to_owned),
            stamp: first.stamp(),
            ..RequestHead::default()
        };
        Ok(first.message_with(head, body))
    }
}
