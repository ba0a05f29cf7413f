//! Dispatch of requests (`basic.deliver`): each is accepted, executed and answered. Whether a redelivered one is run
//! again is decided by `may_run` in `refused.rs`.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::execution::{AbortUnlessChannelClosed, Execution, Executor, RunOn};
use super::method_meters::MethodMeters;
use super::method_table::MethodTable;
use super::reply::{AckMode, ReplyRoute, ReplySender};
use super::sent_replies::ReplyOrigin;
use super::stream::{StreamOpening, StreamQueues, StreamSettings, StreamTasks};
use crate::cancel_table::{BatchKey, CancelKey, CancelTable};
use crate::context::{Invocation, Times};
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::drain::DrainState;
use crate::error::Error;
use crate::escape::{Escaped, escaped};
use crate::handler_guard::guard;
use crate::link::{AckRange, Channel, Connection, Delivery, Flush};
use crate::meter::{Arrived, Meter};
use crate::observe::Hooks;
use crate::service::{Reply, Service};
use crate::stats::{Counters, HandlerKind};
use crate::wire::codec::Codec;
use crate::wire::envelope::{CALLS_TYPE, RequestHead, is_protocol_type, sent_at};
use crate::wire::message::{MessageInfo, SentAt};
use crate::wire::status::{Code, Status};
use crate::worker::{Handler, Settlement};

/// The default of [`Server::streams`](super::Server::streams).
const DEFAULT_STREAMS: usize = 64;

/// The options of a server that hold for all of its services.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerOptions {
    /// The prefixes of the queues that replies may be sent to; empty for all queues.
    pub(super) reply_to: Vec<String>,
    pub(super) tells_panics: bool,
    /// The permits of streams that may be open.
    pub(super) streams: StreamPermits,
}

/// The permits of a server for streams.
#[derive(Clone, Debug)]
pub(super) struct StreamPermits(pub(super) Arc<Semaphore>);

impl StreamPermits {
    pub(super) fn new(streams: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            streams.min(Semaphore::MAX_PERMITS),
        )))
    }
}

impl Default for StreamPermits {
    fn default() -> Self {
        Self::new(DEFAULT_STREAMS)
    }
}

/// Handles the requests of one queue.
pub(super) struct Dispatcher {
    descriptor: &'static ServiceDescriptor,
    pub(super) methods: MethodTable,
    meters: MethodMeters,
    pub(super) executor: Arc<Executor>,
    pub(super) replies: Arc<ReplySender>,
    max_message: usize,
    /// One permit for each handler that may run. The worker bounds the deliveries, but a batch may run
    /// several handlers.
    pub(super) permits: Semaphore,
    /// Whether there is more than one permit.
    pub(super) is_concurrent: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) hooks: Hooks,
    pub(super) stream_permits: Arc<Semaphore>,
    pub(super) stream_queues: Arc<StreamQueues>,
    pub(super) stream_settings: StreamSettings,
    pub(super) streams: StreamTasks,
    /// `None` if the connection has no control queue, where callers tell that they have given a call up.
    cancels: Option<Arc<CancelTable>>,
    pub(super) tasks: Handle,
}

/// A request as it was received: the message, with the times and facts that its delivery adds. It ends when
/// the handler begins. The handler gets a [`Request`](crate::service::Request); the reply keeps a [`ReplyRoute`].
pub(super) struct ReceivedRequest {
    pub(super) head: RequestHead,
    pub(super) body: Bytes,
    /// The body's size, even if the body was left out because it is too large.
    pub(super) size: usize,
    pub(super) received_at: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) redelivered: bool,
    /// The time at which it was sent, if it tells.
    pub(super) sent_at: Option<SentAt>,
}

impl ReceivedRequest {
    /// Its arrival, for the meter of its method.
    pub(super) fn arrived(&self) -> Arrived {
        Arrived::new(self.received_at, self.redelivered, self.sent_at)
    }
}

/// The step after a request was accepted.
enum Accepted {
    /// No handler is to run: the request is answered, or gets no reply.
    Done(Settlement),
    Other(OtherRequest),
    /// The handler of a request with one call.
    Execute(Execution, ReplyRoute),
}

/// A request that is not answered by one handler and one reply.
enum OtherRequest {
    Batch(Box<ReceivedRequest>),
    Stream(Box<StreamOpening>),
}

impl Dispatcher {
    /// A dispatcher for a queue of the service. Requests that name no method are for `default_method`.
    pub(super) fn new(
        connection: &Connection,
        service: Arc<dyn Service>,
        (queue, default_method): (&str, Option<&'static MethodDescriptor>),
        (concurrency, options): (u16, ServerOptions),
    ) -> Self {
        let descriptor = service.descriptor();
        let ServerOptions {
            reply_to,
            tells_panics,
            streams,
        } = options;
        Self {
            replies: Arc::new(ReplySender::new(
                connection,
                &*service,
                queue,
                concurrency,
                reply_to,
            )),
            executor: Arc::new(Executor::new(connection, service, tells_panics)),
            descriptor,
            methods: MethodTable::new(descriptor, default_method),
            meters: MethodMeters::new(
                connection.meters(),
                HandlerKind::Request,
                descriptor.name(),
                descriptor,
            ),
            max_message: connection.max_message(),
            permits: Semaphore::new(concurrency.max(1).into()),
            is_concurrent: concurrency > 1,
            counters: connection.counters(),
            hooks: connection.hooks().clone(),
            cancels: connection
                .has_control()
                .then(|| connection.shared(CancelTable::default)),
            tasks: connection.tasks().clone(),
            stream_permits: streams.0,
            stream_queues: connection.shared(StreamQueues::default),
            stream_settings: StreamSettings::new(connection),
            streams: StreamTasks::new(),
        }
    }

    pub(super) fn descriptor(&self) -> &'static ServiceDescriptor {
        self.descriptor
    }

    pub(super) fn service_name(&self) -> &'static str {
        self.replies.service()
    }

    /// The request that gets this reply, for its caller to give it up. `None` if nobody waits for a reply.
    fn cancel_key(&self, method: &MethodDescriptor, route: &ReplyRoute) -> Option<CancelKey> {
        let (table, address) = (self.cancels.as_ref()?, route.address()?);
        if method.is_oneway() {
            return None;
        }
        Some(CancelKey::new(table, address, method.is_cancellable()))
    }

    /// The message with several calls that gets these replies.
    pub(super) fn batch_key(&self, route: &ReplyRoute) -> Option<BatchKey> {
        let (table, (reply_to, id)) = (self.cancels.as_ref()?, route.address()?);
        Some(BatchKey::new(table, reply_to, id))
    }

    pub(super) fn check_size(&self, size: usize) -> Result<(), Status> {
        let limit = self.max_message;
        if size > limit {
            let text = format!("the request has {size} bytes, the limit is {limit}");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }

    pub(super) fn method(&self, name: Option<&str>) -> Result<&'static MethodDescriptor, Status> {
        self.methods.find(name).ok_or_else(|| {
            let (service, names) = (self.service_name(), self.methods.names());
            let asked = Escaped(name.unwrap_or("no method"));
            let text = format!("`{service}` has no method for `{asked}`; it has {names}");
            Status::new(Code::Unimplemented, text)
        })
    }

    /// The meter of a method, if the service has it, or the one for other methods.
    pub(super) fn meter(&self, method: Option<&MethodDescriptor>) -> &Arc<Meter> {
        self.meters.of(method)
    }

    pub(super) fn codec(&self, content_type: Option<&str>) -> Result<Codec, Status> {
        let default = self.descriptor.default_codec();
        default.for_content_type(content_type).map_err(|unknown| {
            let service = self.service_name();
            let text = format!(
                "{unknown}; `{service}` takes {default}, application/msgpack and application/json"
            );
            Status::new(Code::InvalidArgument, text)
        })
    }

    /// Parses a request, and answers it if no handler is to run.
    fn accept(&self, channel: &Arc<Channel>, delivery: Delivery) -> Accepted {
        let Delivery { tag, message } = delivery;
        let received_at = Instant::now();
        let sent_at = sent_at(&message.properties);
        let head = RequestHead::from_properties(message.properties);
        let size = message.size as usize;
        if message.redelivered
            && let Some(replies) = self.replies.earlier_replies(&head, size)
        {
            channel.ack_all([(tag, AckRange::One)], Flush::Deferred);
            for reply in replies {
                self.replies.resend(channel, reply);
            }
            return Accepted::Done(Settlement::Settled);
        }
        if head.time_left.is_some_and(|left| left.is_zero()) {
            self.expired(head.method.as_deref());
            return Accepted::Done(Settlement::Ack);
        }
        let request = ReceivedRequest {
            size,
            body: message.body,
            received_at,
            deadline: head.time_left.map(|left| received_at + left),
            redelivered: message.redelivered,
            sent_at,
            head,
        };
        match request.head.method.as_deref() {
            Some(CALLS_TYPE) => Accepted::Other(OtherRequest::Batch(Box::new(request))),
            Some(kind) if is_protocol_type(kind) => {
                Accepted::Done(self.refuse_type(channel, tag, request))
            }
            _ => self.prepare(channel, tag, request),
        }
    }

    /// Answers a message of a type that another version of the protocol defines. The reply tells what this
    /// server accepts, so that the peer can send its calls in another form. A message that expects no reply
    /// is dropped: its sender does without an answer.
    fn refuse_type(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        request: ReceivedRequest,
    ) -> Settlement {
        let ReceivedRequest {
            mut head,
            size,
            redelivered,
            ..
        } = request;
        let service = self.service_name();
        let kind = head.method.take().unwrap_or_default();
        let kind = Escaped(&*kind);
        let is_answered = head.reply_to.is_some() && head.correlation_id.is_some();
        tracing::debug!(service, %kind, is_answered, "message of an unknown type, refused");
        if !is_answered || !self.replies.may_reply(channel, &head) {
            return Settlement::Ack;
        }
        let text = format!("messages of type `{kind}` are not supported; {CALLS_TYPE} is");
        head.asks_for_batches = true;
        let reply = Reply::failed(Status::new(Code::Unimplemented, text));
        let origin = ReplyOrigin::single(None, size);
        let route = self.replies.route(&mut head, redelivered, origin);
        self.answer(channel, tag, reply, route)
    }

    /// Prepares the handler of a request with one call, or answers it if none is to run. It gets no reply if
    /// its reply queue is not allowed.
    ///
    /// All parts of the request that are not needed when the handler has ended are dropped here, which
    /// keeps the future of a request small.
    fn prepare(&self, channel: &Arc<Channel>, tag: u64, request: ReceivedRequest) -> Accepted {
        let arrived = request.arrived();
        let ReceivedRequest {
            mut head,
            body,
            size,
            received_at,
            deadline,
            redelivered,
            ..
        } = request;
        let resolved = self.resolve(&head, size);
        let is_oneway = resolved
            .as_ref()
            .is_ok_and(|(method, _)| method.is_oneway());
        if !is_oneway {
            self.check_reply_address(&head);
        }
        let may_reply = self.replies.may_reply(channel, &head);
        let method = resolved.as_ref().ok().map(|(method, _)| method.name());
        let origin = ReplyOrigin::single(method, size);
        let mut route = self.replies.route(&mut head, redelivered, origin);
        if !may_reply {
            if !is_oneway {
                return Accepted::Done(Settlement::Ack);
            }
            route.reply_to = None;
        }
        let (method, codec) = match resolved {
            Err(status) => {
                let (method, message_id) = (head.method.as_deref(), head.message_id.as_deref());
                let reply = self.refuse(status, method, message_id, &head.trace, arrived);
                return Accepted::Done(self.answer(channel, tag, reply, route));
            }
            Ok((method, _)) if !Self::may_run(method, redelivered) => {
                let reply = self.not_run_again(method, head.message_id.as_deref(), arrived);
                return Accepted::Done(self.answer(channel, tag, reply, route));
            }
            Ok(resolved) => resolved,
        };
        if method.is_at_most_once() {
            // Before it runs, so that it is lost rather than run twice if this process dies.
            route.origin.is_acknowledged = true;
            channel.ack(tag, AckRange::One);
        }
        let message = MessageInfo {
            headers: head.headers,
            trace: head.trace,
            app_id: head.caller,
            message_id: head.message_id,
            redelivered,
            attempt: 1,
            ..MessageInfo::default()
        };
        let service = self.service_name();
        let cancel = self.cancel_key(method, &route);
        if method.is_streaming() {
            // The deadline is that of the opening, and nothing of the stream's.
            let times = Times::new(received_at, None);
            return Accepted::Other(OtherRequest::Stream(Box::new(StreamOpening {
                method,
                codec,
                body,
                facts: Invocation {
                    cancel,
                    ..Invocation::request(service, method.name(), times, message)
                },
                arrived,
                route,
                credit: head.credit,
                deadline,
            })));
        }
        let times = Times::new(received_at, deadline);
        let facts = Invocation {
            cancel,
            ..Invocation::request(service, method.name(), times, message)
        };
        let metered = self.meter(Some(method)).start(arrived);
        let execution = self
            .executor
            .prepare(method, codec, body, facts, metered, None);
        Accepted::Execute(execution, route)
    }

    /// The method and the codec of a request, or the status that it is refused with.
    fn resolve(
        &self,
        head: &RequestHead,
        size: usize,
    ) -> Result<(&'static MethodDescriptor, Codec), Status> {
        self.check_size(size)?;
        let method = self.method(head.method.as_deref())?;
        let codec = self.codec(head.content_type.as_deref())?;
        Ok((method, codec))
    }

    /// Warns of a request that expects a reply and does not tell the address of it.
    fn check_reply_address(&self, head: &RequestHead) {
        if head.reply_to.is_some() && head.correlation_id.is_some() {
            return;
        }
        let id = head.correlation_id.as_deref().map(String::from_utf8_lossy);
        tracing::warn!(
            service = self.service_name(),
            method = escaped(head.method.as_deref()),
            reply_to = escaped(head.reply_to.as_deref()),
            correlation_id = escaped(id.as_deref()),
            "a request has no reply_to or no correlation_id"
        );
    }

    /// Answers a request with one call.
    pub(super) fn answer(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        reply: Reply,
        mut route: ReplyRoute,
    ) -> Settlement {
        let is_acked = self.replies.ack_redelivered(channel, tag, &mut route);
        let reply = self.replies.fit(route.origin.method, reply, 0);
        let ack = AckMode::last(tag, is_acked);
        let settlement = self.replies.send(channel, route, reply, ack);
        if is_acked {
            Settlement::Settled
        } else {
            settlement
        }
    }
}

impl Handler for Dispatcher {
    /// `true`: a request given back would come again as redelivered, and be refused unless its method is idempotent.
    const HANDLES_RECEIVED: bool = true;

    /// Large values are dropped before an await: there is one of these futures on the heap for each
    /// request.
    async fn handle(self: Arc<Self>, channel: Arc<Channel>, delivery: Delivery) -> Settlement {
        let tag = delivery.tag;
        let (execution, route) = match self.accept(&channel, delivery) {
            Accepted::Done(settlement) => return settlement,
            Accepted::Other(other) => {
                return Box::pin(self.answer_other(&channel, tag, other)).await;
            }
            Accepted::Execute(execution, route) => (execution, route),
        };
        if route.origin.is_acknowledged {
            return Box::pin(self.answer_acked(channel, tag, execution, route)).await;
        }
        // Not by `Executor::execute`, whose future would hold the handler a second time.
        let Execution {
            deadline,
            context,
            metered,
            handler,
        } = execution;
        let reply = {
            let _permit = self.permits.acquire().await;
            let end = guard(deadline, handler).await;
            self.executor.reply_of(&context, metered, end)
        };
        match reply {
            Some(reply) => self.answer(&channel, tag, reply, route),
            None => Settlement::Ack,
        }
    }

    fn started(&self, channel: &Arc<Channel>) {
        self.replies.channel_started(channel);
    }

    fn lost(&self, _: &str, _: &Arc<Channel>, reason: &Error) {
        self.replies.channel_lost(reason);
    }

    fn drain(&self) {
        self.streams.drain(DrainState::Draining);
    }

    async fn detached(&self) {
        self.streams.finished().await;
    }

    fn end_detached(&self) {
        self.streams.drain(DrainState::Over);
    }
}

impl Dispatcher {
    async fn answer_other(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        request: OtherRequest,
    ) -> Settlement {
        match request {
            OtherRequest::Batch(request) => self.answer_batch(channel, tag, *request).await,
            OtherRequest::Stream(opening) => self.open_stream(channel, tag, *opening).await,
        }
    }

    /// Runs and answers a request that is acknowledged already, in a task of its own. The request does not
    /// come again, so it goes on if only its channel is closed.
    async fn answer_acked(
        self: Arc<Self>,
        channel: Arc<Channel>,
        tag: u64,
        execution: Execution,
        route: ReplyRoute,
    ) -> Settlement {
        let (tasks, reply_channel) = (self.tasks.clone(), Arc::clone(&channel));
        let task = tasks.spawn(async move {
            let _permit = self.permits.acquire().await;
            match self.executor.execute(execution, RunOn::Inline).await {
                Some(reply) => self.answer(&reply_channel, tag, reply, route),
                None => Settlement::Settled,
            }
        });
        AbortUnlessChannelClosed::join(task, channel).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;
    use crate::worker::handle_delivery;

    /// There is one of these futures on the heap for each request, and the allocator is slow beyond 1 KiB.
    #[test]
    fn the_future_of_a_request_stays_small() {
        type Arguments = (Arc<Dispatcher>, Arc<Counters>, Arc<Channel>, Delivery);
        let size = size_of_future(|(dispatcher, counters, channel, delivery): Arguments| {
            handle_delivery(dispatcher, counters, channel, delivery)
        });
        assert!(size <= 1024, "{size}");
    }
}
