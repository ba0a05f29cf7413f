//! Calls of an implementation in this process.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::local_stream::LocalOpening;
use super::request::CallRequest;
use crate::cancel_table::{CancelKey, CancelTable};
use crate::context::{Context, Invocation, Times};
use crate::error::{Error, ErrorKind, Outcome};
use crate::handler_guard::{AbortOnDropTask, HandlerEnd, guard};
use crate::observe::Hooks;
use crate::service::{BoxFuture, Reply, ReplyOutcome, Request, Service};
use crate::span::MessageSpan;
use crate::wire::status::{Code, Status};
use crate::wire::value::Table;

/// A call that somebody waits for.
pub(super) enum LocalCall {
    /// It runs as it is awaited.
    Inline(BoxFuture<HandlerEnd<Reply>>),
    /// It runs in a task of its own, because it was sent to be awaited later.
    Spawned(AbortOnDropTask<Reply>),
    /// It runs to its end, because its method has `cancel = false`.
    RunsOn(Box<DetachedTask>),
}

/// A handler that is told when its caller gives the call up, and runs on.
pub(super) struct DetachedTask {
    task: JoinHandle<HandlerEnd<Reply>>,
    /// Has this call alone.
    cancels: Arc<CancelTable>,
    deadline: Instant,
}

/// The address of a call in a table that has no other.
const ONLY_CALL: (&str, &[u8]) = ("", b"");

impl DetachedTask {
    async fn join(&mut self) -> HandlerEnd<Reply> {
        // The panic of a handler is caught inside the task, which fails only if its runtime has ended.
        (&mut self.task).await.unwrap_or(HandlerEnd::TimedOut)
    }
}

impl Drop for DetachedTask {
    fn drop(&mut self) {
        if !self.task.is_finished() {
            let (reply_to, id) = ONLY_CALL;
            self.cancels.cancel(reply_to, [id], self.deadline);
        }
    }
}

impl LocalCall {
    /// Starts a call. `None` if it is one-way: it runs, and nobody waits for it.
    pub(super) fn start(service: Arc<dyn Service>, request: &CallRequest) -> Option<Self> {
        if request.options.window > 0 {
            return Some(Self::Inline(Box::pin(open_stream(service, request))));
        }
        // The client may be of another version of the contract, where the method has another number.
        let own = service.descriptor().method_like(request.method());
        let body = request.options.body.clone();
        let asked = own.map(|own| Request::new(own, request.codec, body));
        if request.method().is_oneway() {
            tokio::spawn(run(service, request, asked, None));
            return None;
        }
        if own.is_none_or(|own| own.is_cancellable()) {
            return Some(Self::Inline(Box::pin(run(service, request, asked, None))));
        }
        let cancels = Arc::new(CancelTable::default());
        let cancel = CancelKey::new(&cancels, ONLY_CALL, false);
        let task = DetachedTask {
            task: tokio::spawn(run(service, request, asked, Some(cancel))),
            cancels,
            deadline: request.deadline,
        };
        Some(Self::RunsOn(Box::new(task)))
    }

    /// Lets the call run while nobody awaits it.
    pub(super) fn detach(self) -> Self {
        match self {
            Self::Inline(call) => Self::Spawned(AbortOnDropTask::spawn(call)),
            call => call,
        }
    }

    /// Waits for the reply.
    pub(super) async fn response(&mut self, request: &CallRequest) -> Result<Reply, Error> {
        let end = match self {
            Self::Inline(handler) => handler.await,
            Self::Spawned(task) => task.join().await,
            Self::RunsOn(task) => task.join().await,
        };
        let (end, headers) = match end {
            HandlerEnd::Returned(reply) => reply.into_end(),
            end => (end, Table::new()),
        };
        match end {
            HandlerEnd::Returned(reply) => Ok(reply),
            HandlerEnd::Panicked(_) => {
                Ok(Reply::panicked(request.method().name(), None).with_headers(headers))
            }
            HandlerEnd::TimedOut => Err(request.failed(ErrorKind::Timeout, Outcome::SentNoReply)),
        }
    }
}

/// Runs a handler to its end or its deadline; that of a stream is the deadline of its opening alone. The service has no
/// such method if `asked` is `None`.
fn run(
    service: Arc<dyn Service>,
    request: &CallRequest,
    asked: Option<Request>,
    cancel: Option<CancelKey>,
) -> impl Future<Output = HandlerEnd<Reply>> + Send + 'static + use<> {
    let deadline = (request.options.window == 0).then_some(request.deadline);
    let times = Times::new(request.started, deadline);
    let (service_name, method) = (request.service.name(), request.method().name());
    let info = request.info();
    let name = || request.service.full_name(request.method());
    // It is a child of the span of the call. Nothing leaves the process, so that the hooks have no part in it.
    let span = request
        .span
        .tracing()
        .in_scope(|| MessageSpan::request(&Hooks::default(), name, &info));
    let context = Context::of(Invocation {
        cancel,
        span,
        ..Invocation::request(service_name, method, times, info)
    });
    let ended = context.clone();
    let handler = context.handler(|| match asked {
        Some(asked) => service.call(asked),
        None => {
            let text = format!("`{service_name}` has no method for `{method}`");
            let status = Status::new(Code::Unimplemented, text);
            Box::pin(std::future::ready(Reply::failed(status)))
        }
    });
    guard(deadline, handler).inspect(move |end| match end {
        // Layers pass on a panic and a missed deadline as a reply.
        HandlerEnd::Returned(reply) => match reply.outcome() {
            ReplyOutcome::TimedOut => ended.stopped(),
            ReplyOutcome::Panicked(text) => ended.panicked(text),
            _ => ended.ended(reply.outcome_name()),
        },
        HandlerEnd::TimedOut => ended.stopped(),
        HandlerEnd::Panicked(text) => ended.panicked(text),
    })
}

/// Opens the stream that a call asks for.
fn open_stream(
    service: Arc<dyn Service>,
    request: &CallRequest,
) -> impl Future<Output = HandlerEnd<Reply>> + Send + use<> {
    let own = service.descriptor().method_like(request.method());
    let is_upload = own.is_some_and(|own| own.is_upload());
    let opening = LocalOpening::new(request.options.window, is_upload);
    let asked = own.map(|own| {
        let body = request.options.body.clone();
        Request::new(own, request.codec, body).with_stream(Some(opening.served()))
    });
    let handler = run(service, request, asked, None);
    opening.open(request.method().name(), handler)
}
