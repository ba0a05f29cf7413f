//! Calls that pass the layers of their client, and the innermost service of the layers, which sends them.

use std::future::{pending, poll_fn, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::{Instant, timeout_at};

use super::handle::{Backend, Client, ClientService, DEFAULT_TIMEOUT};
use super::options::CallOptions;
use super::request::CallRequest;
use super::transport::{Sending, start};
use crate::clock;
use crate::context::{Context, Invocation, Times};
use crate::deadline::enclose;
use crate::descriptor::ServiceDescriptor;
use crate::error::{Error, ErrorKind, Outcome};
use crate::extensions::Extensions;
use crate::handler_guard::{AbortOnDropTask, guard};
use crate::service::{BoxFuture, DynService, LayeredRequest, Reply, Request, Service};
use crate::span::MessageSpan;
use crate::stats::HandlerOutcome;
use crate::wire::envelope::check_headers;

/// A call that passes the layers of its client. Its end is reported here.
pub(super) struct LayeredCall {
    request: Arc<CallRequest>,
    reply: BoxFuture<Reply>,
    /// Whether a stream goes on after the call, and reports its end.
    is_passed_on: bool,
}

impl LayeredCall {
    /// Starts a call. Nothing is sent until [`response`](Self::response) is awaited or [`detach`](Self::detach) is
    /// called.
    pub(super) fn start(
        client: &Client,
        options: CallOptions,
        layers: &DynService,
    ) -> Result<Self, Error> {
        let mut request = start(client, options)?;
        request.is_layered = true.into();
        let request = Arc::new(request);
        let body = request.options.body.clone();
        let call = Arc::clone(&request);
        let layered = Request::of_call(request.method(), request.codec, body, call);
        let reply = layers.call(layered);
        Ok(Self {
            request,
            reply,
            is_passed_on: false,
        })
    }

    pub(super) fn request(&self) -> &CallRequest {
        &self.request
    }

    /// The request of a call whose stream goes on after its layers, and reports its end.
    pub(super) fn into_request(mut self) -> Arc<CallRequest> {
        self.is_passed_on = true;
        self.request.is_layered.store(false, Ordering::Relaxed);
        Arc::clone(&self.request)
    }

    /// Reports the end of the call.
    pub(super) fn ended(&self, outcome: HandlerOutcome) {
        self.request.report(outcome);
    }

    /// Runs the layers, up to the deadline.
    pub(super) async fn response(&mut self) -> Result<Reply, Error> {
        let (request, deadline) = (&*self.request, self.request.deadline);
        let layers = poll_fn(|cx| enclose(deadline, cx, |cx| self.reply.as_mut().poll(cx)));
        let error = match timeout_at(deadline, layers).await {
            Ok(reply) => match reply.call_error() {
                None => return Ok(reply),
                Some(error) => error.clone(),
            },
            Err(_) => {
                let outcome = if request.has_left.load(Ordering::Relaxed) {
                    Outcome::SentNoReply
                } else {
                    Outcome::NotSent
                };
                request.failed(ErrorKind::Timeout, outcome)
            }
        };
        self.ended(HandlerOutcome::Status(error.grpc_code()));
        Err(error)
    }

    /// Runs the layers in a task, while nobody awaits them.
    pub(super) fn detach(mut self) -> Self {
        let reply = std::mem::replace(&mut self.reply, Box::pin(pending()));
        let running = Box::pin(Context::current().scope(reply));
        let mut task = AbortOnDropTask::spawn(guard(None, running));
        let method = self.request.method().name();
        self.reply = Box::pin(async move { Reply::of_end(method, task.join().await) });
        self
    }
}

impl Drop for LayeredCall {
    /// A call that was not ended was given up by its caller.
    fn drop(&mut self) {
        if !self.is_passed_on {
            self.request.observed(HandlerOutcome::Cancelled);
        }
    }
}

impl LayeredRequest for CallRequest {
    fn context(&self) -> Context {
        let context = self.context.get_or_init(|| {
            Context::of(Invocation {
                service: Some(self.service.name().into()),
                method: Some(self.method().name().into()),
                times: Times::without_reserve(self.started, self.deadline),
                span: MessageSpan::default(),
                message: self.info(),
                cancel: None,
                extensions: Extensions::default(),
            })
        });
        context.clone()
    }
}

impl Service for ClientService {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.0.inner.descriptor
    }

    /// Sends the request, and waits for the reply.
    fn call(&self, request: Request) -> BoxFuture<Reply> {
        let client = self.0.clone();
        match CallRequest::leaving(&client, &request) {
            Ok(request) => Box::pin(send(client, request)),
            Err(error) => Box::pin(ready(Reply::from(error))),
        }
    }
}

impl CallRequest {
    /// The request that leaves the layers: that of the call itself. If the layers have changed the context or send a
    /// second request, or if it is not from a call of this client, it is another one, made of the context.
    fn leaving(client: &Client, request: &Request) -> Result<Arc<Self>, Error> {
        let call = request.call::<Self>();
        let is_own = |call: &Arc<Self>| {
            let is_first = !call.has_left.swap(true, Ordering::Relaxed);
            is_first && !request.is_changed() && Arc::ptr_eq(&call.queue, &client.inner.queue)
        };
        if let Some(own) = call.as_ref().filter(|call| is_own(call)) {
            return Ok(Arc::clone(own));
        }
        let (method, context) = (request.descriptor(), request.context());
        let options = call.as_ref().map(|call| &call.options);
        let started = call.as_ref().map_or_else(Instant::now, |call| call.started);
        let options = CallOptions {
            method,
            body: request.body().clone(),
            error: None,
            timeout: None,
            priority: options.and_then(|options| options.priority),
            fail_fast: options.and_then(|options| options.fail_fast),
            window: options.map_or(0, |options| options.window),
            headers: context.headers().clone(),
        };
        let leaving = Self {
            options,
            service: client.inner.descriptor,
            queue: client.queue_of(method),
            started,
            deadline: context
                .deadline()
                .unwrap_or_else(|| clock::deadline(Instant::now(), DEFAULT_TIMEOUT)),
            codec: request.codec(),
            message_id: OnceLock::new(),
            trace: context.message().trace.clone(),
            is_stamped: client.inner.is_stamped,
            span: MessageSpan::default(),
            observe: match &client.inner.backend {
                Backend::Broker(backend) => backend.connection.hooks().observe.clone(),
                Backend::Local(_) => None,
            },
            is_ended: AtomicBool::new(false),
            is_layered: true.into(),
            has_left: AtomicBool::new(true),
            context: OnceLock::new(),
        };
        check_headers(leaving.options.headers.keys()).map_err(|error| leaving.not_sent(error))?;
        Ok(Arc::new(leaving))
    }
}

/// Sends a request, and waits for the reply.
async fn send(client: Client, request: Arc<CallRequest>) -> Reply {
    let reply = match Sending::of(client, request).done().await {
        Ok(mut call) => call.response().await,
        Err(error) => Err(error),
    };
    reply.unwrap_or_else(Reply::from)
}
