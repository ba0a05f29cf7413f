//! Requests that carry a batch of calls. Each call is executed by itself, and replies that are ready at the
//! same time are sent as a batch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::dispatch::{Dispatcher, ReceivedRequest};
use super::execution::RunOn;
use super::reply::{AckMode, ReplyRoute, ReplySender};
use super::sent_replies::ReplyOrigin;
use crate::cancel_table::BatchKey;
use crate::context::{Invocation, Times};
use crate::link::{Channel, Flush};
use crate::meter::Arrived;
use crate::service::Reply;
use crate::wire::batch::{self, BatchedCall, BatchedReply};
use crate::wire::codec::Codec;
use crate::wire::envelope::{ReplyForm, ReplyStatus};
use crate::wire::message::MessageInfo;
use crate::wire::status::{Code, Status};
use crate::worker::{INLINE_BUDGET, Settlement};

/// The size at which a batch of replies is sent, in bytes.
const MAX_BATCH_SIZE: usize = 64 * 1024;
/// The most bytes of a batch that belong to a reply, besides its body and the text of its status, and
/// including its share of the rest of the message.
const REPLY_OVERHEAD: usize = 64;

impl Dispatcher {
    /// Answers all calls of a request, which is acknowledged when they are done.
    pub(super) async fn answer_batch(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        mut request: ReceivedRequest,
    ) -> Settlement {
        if !self.replies.may_reply(channel, &request.head) {
            return Settlement::Ack;
        }
        let calls = self.check_size(request.size).and_then(|()| {
            let codec = self.codec(request.head.content_type.as_deref())?;
            Ok((codec, decode_calls(&request.body)?))
        });
        let origin = ReplyOrigin::single(None, request.size);
        let mut route = self
            .replies
            .route(&mut request.head, request.redelivered, origin);
        let is_acked = self.replies.ack_redelivered(channel, tag, &mut route);
        let ack = AckMode::last(tag, is_acked);
        let settlement = match calls {
            Ok((codec, calls)) => {
                let cancels = self.batch_key(&route);
                let mut replies = ReplyBatch::new(&self.replies, channel, route);
                self.execute_calls(calls, codec, (&request, cancels.as_ref()), &mut replies)
                    .await;
                replies.finish(ack)
            }
            Err(status) => {
                let arrived = request.arrived();
                let method = request.head.method.as_deref();
                let trace = &request.head.trace;
                let reply = self.refuse(status, method, None, trace, arrived);
                self.replies.send(channel, route, reply, ack)
            }
        };
        match settlement {
            _ if is_acked => Settlement::Settled,
            // A client that gets several replies at once makes its next calls at once. So the replies to
            // several batches are written together.
            Settlement::Ack => Settlement::AckAndBatch,
            other => other,
        }
    }

    /// Runs as many handlers at once as there are permits, and at least one.
    async fn execute_calls(
        &self,
        calls: Vec<BatchedCall<'_>>,
        codec: Codec,
        (request, cancels): (&ReceivedRequest, Option<&BatchKey>),
        replies: &mut ReplyBatch<'_>,
    ) {
        let mut calls = calls.into_iter().peekable();
        let mut running = FuturesUnordered::new();
        let mut run_on = RunOn::Inline;
        let mut next_permit = None;
        loop {
            while calls.peek().is_some() {
                let free = next_permit
                    .take()
                    .or_else(|| self.permits.try_acquire().ok());
                let Some(permit) = free else { break };
                let Some(call) = calls.next() else { return };
                running.push(self.execute_call(call, codec, (request, cancels), run_on, permit));
                let polled = Instant::now();
                let done = running.next().now_or_never().flatten();
                // After a handler that blocked this task, the others run on tasks of their own, so that
                // several may run at once.
                if self.is_concurrent && polled.elapsed() > INLINE_BUDGET {
                    run_on = RunOn::Task;
                }
                replies.push(done.flatten());
            }
            match running.next().now_or_never() {
                Some(Some(done)) => {
                    replies.push(done);
                    continue;
                }
                Some(None) if calls.peek().is_none() => return,
                Some(None) | None => {}
            }
            // No other handler is ready, so the replies that are there are sent.
            replies.flush(AckMode::None(Flush::IoTask));
            tokio::select! {
                biased;
                Some(done) = running.next(), if !running.is_empty() => replies.push(done),
                permit = self.permits.acquire(), if calls.peek().is_some() => match permit {
                    Ok(permit) => next_permit = Some(permit),
                    // The semaphore is never closed.
                    Err(_) => return,
                },
                else => return,
            }
        }
    }

    /// Executes one call. `None` if its caller has stopped waiting, or has given it up.
    async fn execute_call(
        &self,
        call: BatchedCall<'_>,
        codec: Codec,
        (request, cancels): (&ReceivedRequest, Option<&BatchKey>),
        run_on: RunOn,
        _permit: SemaphorePermit<'_>,
    ) -> Option<BatchedReply> {
        let id = call.id;
        let deadline = request
            .received_at
            .checked_add(Duration::from_millis(call.time_left));
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.expired(Some(call.method));
            return None;
        }
        let arrived = Arrived {
            at: now,
            ..request.arrived()
        };
        let reply = match self.method(Some(call.method)) {
            Err(status) => {
                let (method, id) = (Some(call.method), call.message_id);
                self.refuse(status, method, id, &call.trace, arrived)
            }
            Ok(method)
                if method.is_oneway() || method.is_at_most_once() || method.is_streaming() =>
            {
                let text = format!("`{}` does not share a message", method.name());
                let status = Status::new(Code::InvalidArgument, text);
                let (method, id) = (Some(call.method), call.message_id);
                self.refuse(status, method, id, &call.trace, arrived)
            }
            Ok(method) if !Self::may_run(method, request.redelivered) => {
                self.not_run_again(method, call.message_id, arrived)
            }
            Ok(method) => {
                let message = MessageInfo {
                    headers: call.headers.into_owned(),
                    trace: call.trace.into_owned(),
                    app_id: request.head.caller.clone(),
                    message_id: call.message_id.map(str::to_owned),
                    redelivered: request.redelivered,
                    attempt: 1,
                    ..MessageInfo::default()
                };
                let (service, times) = (self.service_name(), Times::new(now, deadline));
                let facts = Invocation {
                    cancel: cancels.map(|cancels| cancels.call(id, method.is_cancellable())),
                    ..Invocation::request(service, method.name(), times, message)
                };
                let body = request.body.slice_ref(call.arguments);
                let metered = self.meter(Some(method)).start(arrived);
                let execution = self
                    .executor
                    .prepare(method, codec, body, facts, metered, None);
                self.executor.execute(execution, run_on).await?
            }
        };
        let reply = self.replies.fit(Some(call.method), reply, REPLY_OVERHEAD);
        Some(batched(id, reply))
    }
}

/// A reply as a part of a batch. Headers that a batch cannot carry are left out, with a warning.
fn batched(id: u64, reply: Reply) -> BatchedReply {
    let (status, body, headers) = reply.into_parts();
    let mut reply = BatchedReply {
        id,
        status,
        body,
        headers,
    };
    if reply.size_of_headers().is_none() {
        tracing::warn!("the headers of a reply cannot be put into a batch, left out");
        reply.headers.clear();
    }
    reply
}

fn decode_calls(body: &Bytes) -> Result<Vec<BatchedCall<'_>>, Status> {
    batch::decode_calls(body).map_err(|error| {
        let text = format!("the calls do not decode: {error}");
        Status::new(Code::InvalidArgument, text)
    })
}

impl ReplySender {
    /// Sends the replies of a batch again in smaller batches, if it was too large; otherwise `failed` in
    /// place of each.
    pub(super) fn resend_batch(
        &self,
        channel: &Arc<Channel>,
        route: ReplyRoute,
        body: &Bytes,
        failed: &Reply,
    ) {
        let method = route.origin.method;
        let replies = match batch::decode_replies(body) {
            Ok(replies) => replies,
            Err(error) => {
                let service = self.service();
                tracing::error!(service, %error, "a batch of replies that was kept does not decode");
                return;
            }
        };
        let is_too_large = body.len() > self.max_body();
        let mut batch = ReplyBatch::new(self, channel, route);
        for BatchedReply {
            id,
            status,
            body,
            headers,
        } in replies
        {
            let reply = if is_too_large {
                let reply = Reply::new(status, body).with_headers(headers);
                self.fit(method, reply, REPLY_OVERHEAD)
            } else {
                failed.clone()
            };
            batch.push(Some(batched(id, reply)));
        }
        batch.finish(AckMode::None(Flush::Inline));
    }
}

/// The replies to the calls of one request, which are sent in one or several messages.
struct ReplyBatch<'a> {
    sender: &'a ReplySender,
    channel: &'a Arc<Channel>,
    /// The route of the next message.
    route: ReplyRoute,
    replies: Vec<BatchedReply>,
    size: usize,
    /// The settlement of the last message. All are written in order to one channel, so it holds for the
    /// earlier ones.
    settlement: Settlement,
}

impl<'a> ReplyBatch<'a> {
    fn new(sender: &'a ReplySender, channel: &'a Arc<Channel>, route: ReplyRoute) -> Self {
        let origin = ReplyOrigin {
            is_last: false,
            is_batch: true,
            ..route.origin
        };
        Self {
            sender,
            channel,
            route: ReplyRoute {
                form: ReplyForm::Batch,
                origin,
                ..route
            },
            replies: Vec::new(),
            size: 0,
            settlement: Settlement::Ack,
        }
    }

    fn push(&mut self, reply: Option<BatchedReply>) {
        let Some(reply) = reply else { return };
        let (_, text) = reply.status.parts();
        let headers = reply.size_of_headers().unwrap_or_default();
        let text = text.map_or(0, |text| text.len());
        let size = reply.body.len() + text + headers + REPLY_OVERHEAD;
        if self.size + size > MAX_BATCH_SIZE.min(self.sender.max_body()) {
            // Flushed with the next message, so that the client gets both at once and makes its next
            // calls at once.
            self.flush(AckMode::None(Flush::Deferred));
        }
        self.size += size;
        self.replies.push(reply);
    }

    /// Sends the replies that are left.
    fn finish(mut self, ack: AckMode) -> Settlement {
        self.route.origin.is_last = true;
        self.flush(ack);
        self.settlement
    }

    fn flush(&mut self, ack: AckMode) {
        if self.replies.is_empty() {
            return;
        }
        let body = match batch::encode_replies(&self.replies) {
            Ok(body) => body,
            Err(error) => {
                let service = self.sender.service();
                tracing::error!(service, %error, "a batch of replies cannot be encoded");
                Bytes::new()
            }
        };
        self.replies.clear();
        self.size = 0;
        let reply = Reply::new(ReplyStatus::Success, body);
        let route = self.route.clone();
        self.settlement = self.sender.send(self.channel, route, reply, ack);
        self.route.origin.part += 1;
    }
}
