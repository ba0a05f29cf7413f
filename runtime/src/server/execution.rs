//! Execution of a request's handler in its [`Context`], up to the request's deadline.

use std::sync::Arc;

use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::cancellable::Cancellable;
use crate::context::{Context, Invocation};
use crate::descriptor::MethodDescriptor;
use crate::escape::{Escaped, escaped};
use crate::handler_guard::{AbortOnDropTask, HandlerEnd, guard};
use crate::link::{Channel, Connection};
use crate::meter::Metered;
use crate::observe::Hooks;
use crate::service::{Reply, Request, Service};
use crate::span::MessageSpan;
use crate::stats::{Counters, HandlerOutcome};
use crate::stream::ServedStream;
use crate::wire::codec::Codec;
use crate::wire::status::Code;
use crate::wire::value::Table;
use crate::worker::Settlement;
use bytes::Bytes;

/// A handler that is about to run.
pub(super) struct Execution {
    pub(super) deadline: Option<Instant>,
    pub(super) context: Context,
    pub(super) metered: Metered,
    pub(super) handler: Cancellable<Reply>,
}

/// The task that a handler runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunOn {
    /// The task that handles the delivery.
    Inline,
    /// A task of its own.
    Task,
}

/// Executes the handlers of a service.
pub(super) struct Executor {
    service: Arc<dyn Service>,
    counters: Arc<Counters>,
    hooks: Hooks,
    /// Whether the reply of a handler that panicked contains the panic's text.
    tells_panics: bool,
}

impl Executor {
    pub(super) fn new(
        connection: &Connection,
        service: Arc<dyn Service>,
        tells_panics: bool,
    ) -> Self {
        Self {
            service,
            counters: connection.counters(),
            hooks: connection.hooks().clone(),
            tells_panics,
        }
    }

    /// Creates the handler of a request, in the context of these facts. `stream` is its stream if it
    /// asks for one.
    pub(super) fn prepare(
        &self,
        method: &'static MethodDescriptor,
        codec: Codec,
        body: Bytes,
        mut facts: Invocation,
        metered: Metered,
        stream: Option<Arc<dyn ServedStream>>,
    ) -> Execution {
        let name = || self.service.descriptor().full_name(method);
        facts.span = MessageSpan::request(&self.hooks, name, &facts.message);
        let deadline = facts.deadline();
        let request = Request::new(method, codec, body).with_stream(stream);
        let service = &self.service;
        let context = Context::of(facts);
        Execution {
            deadline,
            context: context.clone(),
            metered,
            handler: context.cancellable_handler(|| service.call(request)),
        }
    }

    /// Runs a handler to its end or its deadline. `None` if its caller gave the call up.
    pub(super) async fn execute(&self, execution: Execution, run_on: RunOn) -> Option<Reply> {
        let Execution {
            deadline,
            context,
            metered,
            handler,
        } = execution;
        let end = match run_on {
            RunOn::Inline => guard(deadline, handler).await,
            RunOn::Task => {
                AbortOnDropTask::spawn(guard(deadline, handler))
                    .join()
                    .await
            }
        };
        self.reply_of(&context, metered, end)
    }

    /// The reply of a handler that has ended. `None` if nobody waits for it, because its caller has given the call up.
    /// The request counts as cancelled if the handler was stopped for that.
    pub(super) fn reply_of(
        &self,
        context: &Context,
        metered: Metered,
        end: HandlerEnd<Option<Reply>>,
    ) -> Option<Reply> {
        let method = context.method();
        // Layers see a panic or a missed deadline as a reply, and may have added headers to it.
        let (end, headers) = match end {
            HandlerEnd::Returned(Some(reply)) => reply.into_end(),
            HandlerEnd::Returned(None) => {
                self.counters.cancelled_requests.add();
                context.given_up();
                metered.ended(HandlerOutcome::Cancelled, context.telemetry());
                return None;
            }
            HandlerEnd::TimedOut => (HandlerEnd::TimedOut, Table::new()),
            HandlerEnd::Panicked(text) => (HandlerEnd::Panicked(text), Table::new()),
        };
        let reply = match end {
            HandlerEnd::Returned(reply) => {
                if let Some(status) = reply.status()
                    && status.code() == Code::InvalidArgument
                {
                    self.counters.malformed.add();
                    tracing::warn!(
                        parent: context.span(),
                        service = context.service(),
                        method,
                        message_id = escaped(context.message_id()),
                        status = %Escaped(status),
                        "a request was refused"
                    );
                }
                context.ended(reply.outcome_name());
                metered.ended(reply.handler_outcome(), context.telemetry());
                reply
            }
            HandlerEnd::TimedOut => {
                context.stopped();
                metered.ended(HandlerOutcome::Stopped, context.telemetry());
                Reply::timed_out(method)
            }
            HandlerEnd::Panicked(text) => {
                self.counters.panics.add();
                context.panicked(&text);
                metered.ended(HandlerOutcome::Panicked, context.telemetry());
                Reply::panicked(method, self.tells_panics.then_some(&text))
            }
        };
        // The handler ended as its caller gave the call up, or it is not stopped then.
        if context.is_cancelled() {
            return None;
        }
        Some(reply.with_headers(headers))
    }
}

/// Aborts the task of an acknowledged request when it is dropped, unless only the request's channel was
/// closed. The request does not come again, so its handler goes on then.
pub(super) struct AbortUnlessChannelClosed {
    task: AbortHandle,
    channel: Arc<Channel>,
}

impl AbortUnlessChannelClosed {
    /// Waits for the task.
    pub(super) async fn join(task: JoinHandle<Settlement>, channel: Arc<Channel>) -> Settlement {
        let _guard = Self {
            task: task.abort_handle(),
            channel,
        };
        // The panic of a handler is caught inside the task, which fails only if its runtime has ended.
        task.await.unwrap_or(Settlement::Settled)
    }
}

impl Drop for AbortUnlessChannelClosed {
    fn drop(&mut self) {
        if self.channel.is_open() || !self.channel.session().is_up() {
            self.task.abort();
        }
    }
}
