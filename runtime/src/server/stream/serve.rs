//! Requests that open a stream: they are acknowledged when their stream begins, and its handler runs in a task of its
//! own, beyond the concurrency of the service.

use std::future::poll_fn;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::task::ready;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::sender::{CloseReason, FinishOnDrop, ServerStream, StreamRequest};
use crate::context::Invocation;
use crate::descriptor::MethodDescriptor;
use crate::drain::{DrainSignal, DrainState};
use crate::handler_guard::{HandlerEnd, guard};
use crate::link::Channel;
use crate::meter::Arrived;
use crate::server::dispatch::Dispatcher;
use crate::server::execution::{Execution, Executor};
use crate::server::reply::{ReplyRoute, ReplySender};
use crate::service::Reply;
use crate::stats::HandlerOutcome;
use crate::stream::ItemSink;
use crate::sync::lock;
use crate::wire::codec::Codec;
use crate::wire::status::{Code, Status};
use crate::worker::Settlement;

/// A request that asks for a stream, with everything that its handler needs.
pub(in crate::server) struct StreamOpening {
    pub(in crate::server) method: &'static MethodDescriptor,
    pub(in crate::server) codec: Codec,
    pub(in crate::server) body: Bytes,
    pub(in crate::server) facts: Invocation,
    pub(in crate::server) arrived: Arrived,
    pub(in crate::server) route: ReplyRoute,
    /// The number of items that may be sent. `None` if the caller does not ask for a stream.
    pub(in crate::server) credit: Option<NonZeroU64>,
    /// The time at which the caller stops waiting for the opening.
    pub(in crate::server) deadline: Option<Instant>,
}

/// The tasks of a service's streams. Dropping it stops them.
pub(in crate::server) struct StreamTasks {
    running: Mutex<JoinSet<()>>,
    drain: watch::Sender<DrainState>,
}

impl StreamTasks {
    pub(in crate::server) fn new() -> Self {
        Self {
            running: Mutex::default(),
            drain: watch::Sender::new(DrainState::Serving),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static, tasks: &Handle) {
        let mut running = lock(&self.running);
        // The results of those that have ended are dropped here.
        while running.try_join_next().is_some() {}
        running.spawn_on(task, tasks);
    }

    /// Tells the streams that the server shuts down.
    pub(in crate::server) fn drain(&self, state: DrainState) {
        self.drain.send_replace(state);
    }

    fn is_draining(&self) -> bool {
        *self.drain.borrow() != DrainState::Serving
    }

    /// Completes when no stream is left.
    pub(in crate::server) async fn finished(&self) {
        poll_fn(|cx| {
            while ready!(lock(&self.running).poll_join_next(cx)).is_some() {}
            std::task::Poll::Ready(())
        })
        .await;
    }
}

impl Dispatcher {
    /// Opens a stream, or refuses it. The request is acknowledged either way: a stream may outlast the broker's
    /// `consumer_timeout`, and must not be opened again if this server dies.
    pub(in crate::server) async fn open_stream(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        opening: StreamOpening,
    ) -> Settlement {
        let StreamOpening {
            method,
            codec,
            body,
            mut facts,
            arrived,
            route,
            credit,
            deadline,
        } = opening;
        let begun = match self.begin(channel, &route, credit, method).await {
            Ok(begun) => begun,
            // The request comes again, marked as redelivered, and is refused then.
            Err(_) if !channel.is_open() => return Settlement::Settled,
            Err(status) => {
                let message_id = facts.message.message_id.as_deref();
                let trace = &facts.message.trace;
                let reply = self.refuse(status, Some(method.name()), message_id, trace, arrived);
                return self.answer(channel, tag, reply, route);
            }
        };
        let (permit, stream) = begun;
        let drain = DrainSignal::new(self.streams.drain.subscribe());
        facts.extensions.insert(drain.clone());
        let metered = self.meter(Some(method)).start(arrived);
        let items: Arc<dyn ItemSink> = Arc::clone(&stream) as _;
        let execution = self
            .executor
            .prepare(method, codec, body, facts, metered, Some(items));
        let run = StreamRun {
            stream,
            executor: Arc::clone(&self.executor),
            replies: Arc::clone(&self.replies),
            drain,
            _permit: permit,
        };
        self.streams
            .spawn(run.run(execution, deadline), &self.tasks);
        Settlement::Ack
    }

    /// Takes a permit, and registers the stream with the queue of this session.
    ///
    /// # Errors
    /// The status that the request is refused with.
    async fn begin(
        &self,
        channel: &Arc<Channel>,
        route: &ReplyRoute,
        credit: Option<NonZeroU64>,
        method: &MethodDescriptor,
    ) -> Result<(OwnedSemaphorePermit, Arc<ServerStream>), Status> {
        let name = method.name();
        let refused = |code, text: String| Status::new(code, text);
        let (Some(reply_to), Some(correlation_id)) = (&route.reply_to, &route.correlation_id)
        else {
            let text = format!("`{name}` returns a stream, which needs a reply queue");
            return Err(refused(Code::InvalidArgument, text));
        };
        let Some(credit) = credit else {
            let text = format!("`{name}` returns a stream, and the caller did not ask for one");
            return Err(refused(Code::FailedPrecondition, text));
        };
        if self.replies.is_direct(route) {
            let text =
                format!("`{name}` returns a stream, which cannot be sent to direct reply-to");
            return Err(refused(Code::FailedPrecondition, text));
        }
        if self.streams.is_draining() {
            let text = "the server is shutting down".to_owned();
            return Err(refused(Code::Unavailable, text));
        }
        let Ok(permit) = Arc::clone(&self.stream_permits).try_acquire_owned() else {
            let text = "the server has as many streams open as it may".to_owned();
            return Err(refused(Code::ResourceExhausted, text));
        };
        let session = channel.session();
        let queue = self.stream_queues.of(&self.stream_settings, session).await;
        let queue = queue.map_err(|error| {
            tracing::warn!(%error, "no queue for streams");
            refused(
                Code::Unavailable,
                "the server has no queue for streams".to_owned(),
            )
        })?;
        let request = StreamRequest {
            reply_to: reply_to.clone(),
            correlation_id: correlation_id.clone(),
            content_type: route.content_type.clone(),
            credit: credit.get(),
            max_item: self.replies.max_body(),
        };
        let stream = ServerStream::register(&queue, request).ok_or_else(|| {
            let text = format!("`{name}` was called before with this correlation id");
            refused(Code::Aborted, text)
        })?;
        Ok((permit, stream))
    }
}

/// The run of a stream's handler.
struct StreamRun {
    stream: Arc<ServerStream>,
    executor: Arc<Executor>,
    replies: Arc<ReplySender>,
    drain: DrainSignal,
    _permit: OwnedSemaphorePermit,
}

/// The end of a run.
enum RunEnd {
    Handler(HandlerEnd<Option<Reply>>),
    Closed(CloseReason),
    /// The stream was not opened in time.
    TimedOut,
    Draining,
}

impl StreamRun {
    async fn run(self, execution: Execution, deadline: Option<Instant>) {
        let finish = FinishOnDrop(Arc::clone(&self.stream));
        let Execution {
            context,
            metered,
            handler,
            ..
        } = execution;
        let end = tokio::select! {
            biased;
            reason = self.stream.closed() => RunEnd::Closed(reason),
            () = self.not_opened(deadline) => RunEnd::TimedOut,
            () = self.drain.over() => RunEnd::Draining,
            end = guard(None, handler) => RunEnd::Handler(end),
        };
        let method = context.method();
        match end {
            RunEnd::Handler(end) => {
                match self.executor.reply_of(&context, metered, end) {
                    Some(reply) => {
                        let reply = self.replies.fit(Some(method), reply, 0);
                        self.stream.finish(reply);
                    }
                    // The caller has given the opening up.
                    None => self.stream.forget(),
                }
            }
            RunEnd::Closed(reason) => {
                tracing::debug!(method, ?reason, "a stream has ended before its handler");
                context.given_up();
                metered.ended(HandlerOutcome::Cancelled, context.span());
                match reason {
                    CloseReason::Cancelled | CloseReason::ClientGone | CloseReason::Lost => {
                        self.stream.forget();
                    }
                    CloseReason::ChannelClosed(text) => {
                        let text = format!("the broker closed the channel of the stream: {text}");
                        let reply = Reply::failed(Status::new(Code::Unavailable, text));
                        self.stream.finish_on_spare(reply).await;
                    }
                }
            }
            RunEnd::TimedOut => {
                context.stopped();
                metered.ended(HandlerOutcome::Stopped, context.span());
                self.stream.finish(Reply::timed_out(method));
            }
            RunEnd::Draining => {
                let status = Status::new(Code::Unavailable, "the server is shutting down");
                context.ended(status.code().as_str());
                metered.ended(HandlerOutcome::Status(status.code()), context.span());
                self.stream.finish(Reply::failed(status));
            }
        }
        drop(finish);
    }

    /// Completes at the deadline of the opening, if the stream is not open then.
    async fn not_opened(&self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            sleep_until(deadline).await;
            if !self.stream.is_open() {
                return;
            }
        }
        std::future::pending().await
    }
}
