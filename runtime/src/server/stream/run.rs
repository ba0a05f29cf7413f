//! The tasks that the handlers of streams run in.

use std::future::poll_fn;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, ready};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::sender::{CloseReason, FinishOnDrop, ServerStream};
use crate::cancellable::Cancellable;
use crate::context::{Context, Invocation};
use crate::descriptor::MethodDescriptor;
use crate::drain::{DrainSignal, DrainState};
use crate::handler_guard::{HandlerEnd, guard};
use crate::meter::{Arrived, Metered};
use crate::server::execution::{Execution, Executor};
use crate::server::reply::{ReplyRoute, ReplySender};
use crate::service::Reply;
use crate::stats::HandlerOutcome;
use crate::sync::lock;
use crate::wire::codec::Codec;
use crate::wire::status::{Code, Status};

/// A request that asks for a stream, with everything that its handler needs.
pub(crate) struct StreamOpening {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) codec: Codec,
    pub(crate) body: Bytes,
    pub(crate) facts: Invocation,
    pub(crate) arrived: Arrived,
    pub(crate) route: ReplyRoute,
    /// The number of items that may be sent. `None` if the caller does not ask for a stream.
    pub(crate) credit: Option<NonZeroU64>,
    /// The time at which the caller stops waiting for the opening.
    pub(crate) deadline: Option<Instant>,
}

/// The tasks of a service's streams. Dropping it stops them.
pub(crate) struct StreamTasks {
    running: Mutex<JoinSet<()>>,
    drain: watch::Sender<DrainState>,
}

impl StreamTasks {
    pub(crate) fn new() -> Self {
        Self {
            running: Mutex::default(),
            drain: watch::Sender::new(DrainState::Serving),
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static, tasks: &Handle) {
        let mut running = lock(&self.running);
        // The results of those that have ended are dropped here.
        while running.try_join_next().is_some() {}
        running.spawn_on(task, tasks);
    }

    /// The signal for a stream that the server shuts down.
    pub(crate) fn signal(&self) -> DrainSignal {
        DrainSignal::new(self.drain.subscribe())
    }

    /// Tells the streams that the server shuts down.
    pub(crate) fn drain(&self, state: DrainState) {
        self.drain.send_replace(state);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow() != DrainState::Serving
    }

    /// Completes when no stream is left.
    pub(crate) async fn finished(&self) {
        poll_fn(|cx| {
            while ready!(lock(&self.running).poll_join_next(cx)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }
}

/// The run of a stream's handler.
pub(crate) struct StreamRun {
    pub(crate) stream: Arc<ServerStream>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) replies: Arc<ReplySender>,
    pub(crate) drain: DrainSignal,
    pub(crate) permit: OwnedSemaphorePermit,
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
    pub(crate) async fn run(self, execution: Execution, deadline: Option<Instant>) {
        let finish = FinishOnDrop(Arc::clone(&self.stream));
        let Execution {
            context,
            metered,
            handler,
            ..
        } = execution;
        let method = context.method();
        match self.end_of(handler, deadline).await {
            RunEnd::Handler(end) => self.answer(&context, metered, end).await,
            RunEnd::Closed(CloseReason::Refused(status)) => {
                let refused = HandlerEnd::Returned(Some(Reply::failed(status)));
                self.answer(&context, metered, refused).await;
            }
            RunEnd::Closed(reason) => {
                tracing::debug!(method, ?reason, "a stream has ended before its handler");
                context.given_up();
                metered.ended(HandlerOutcome::Cancelled, context.telemetry());
                if let CloseReason::ChannelClosed(text) = reason {
                    self.stream.finish_on_spare(&text).await;
                } else {
                    self.stream.forget();
                }
            }
            RunEnd::TimedOut => {
                context.stopped();
                metered.ended(HandlerOutcome::Stopped, context.telemetry());
                self.stream.finish(Reply::timed_out(method)).await;
            }
            RunEnd::Draining => {
                let status = shutting_down();
                context.ended(status.code().as_str());
                metered.ended(HandlerOutcome::Status(status.code()), context.telemetry());
                self.stream.finish(Reply::failed(status)).await;
            }
        }
        drop((finish, self.permit));
    }

    /// Runs the handler until it or its stream ends.
    async fn end_of(&self, handler: Cancellable<Reply>, deadline: Option<Instant>) -> RunEnd {
        let mut handler = guard(None, handler);
        let end = tokio::select! {
            biased;
            reason = self.stream.closed() => RunEnd::Closed(reason),
            () = self.not_opened(deadline) => RunEnd::TimedOut,
            () = self.drain.over() => RunEnd::Draining,
            end = &mut handler => {
                // A method that was told of a bad item has no say in it: its caller has to know.
                return match self.stream.refusal() {
                    Some(refusal) => RunEnd::Closed(refusal),
                    None => RunEnd::Handler(end),
                };
            }
        };
        if let RunEnd::Draining = end {
            self.stream.end_upload(|| shutting_down().into());
        }
        if self.stream.is_upload() {
            // A method that waits for an item gets the error, and is dropped at its next await.
            poll_fn(|cx| Poll::Ready(Pin::new(&mut handler).poll(cx).is_ready())).await;
        }
        end
    }

    /// Sends the reply of a handler that has ended.
    async fn answer(&self, context: &Context, metered: Metered, end: HandlerEnd<Option<Reply>>) {
        match self.executor.reply_of(context, metered, end) {
            Some(reply) => {
                let reply = self.replies.fit(Some(context.method()), reply, 0);
                self.stream.finish(reply).await;
            }
            // The caller has given the opening up.
            None => self.stream.forget(),
        }
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

fn shutting_down() -> Status {
    Status::new(Code::Unavailable, "the server is shutting down")
}
