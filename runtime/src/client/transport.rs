//! The transport of a call: it is sent through the broker or to an implementation in this process, and
//! its response is awaited. Sent again are an idempotent call whose channel or connection is lost, and a call that was
//! not executed: its batch was not sent or was refused, or the broker closed the channel over an earlier request.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::time::{Instant, timeout_at};

use super::broker::{BrokerBackend, BrokerCall};
use super::handle::{Backend, Client, DEFAULT_TIMEOUT, InFlightPermit};
use super::local::LocalCall;
use super::options::{Absence, CallOptions};
use super::reply_queue::{CallCompletion, PendingCall, ReceivedReply};
use super::request::CallRequest;
use crate::clock;
use crate::context::Context;
use crate::deadline::{Deadline, enclosed};
use crate::error::{Error, ErrorKind, Outcome};
use crate::observe::Hooks;
use crate::policy::refusal;
use crate::publish::PublishFailure;
use crate::service::{BoxFuture, Reply};
use crate::span::MessageSpan;
use crate::wire::envelope::ReplyStatus;

/// The longest timeout of a call: the longest `expiration` that RabbitMQ takes.
const MAX_TIMEOUT: Duration = Duration::from_millis(u32::MAX as u64);

/// A call that was sent, or queued for a batch, and whose response is awaited.
pub(super) struct InFlightCall {
    transport: CallTransport,
    _permit: InFlightPermit,
}

/// A call that is being sent.
pub(super) enum Sending {
    /// Nothing had to be waited for, as for nearly all calls.
    Done(Result<InFlightCall, Error>),
    /// Boxed, so that the future of a call stays small.
    Waiting(BoxFuture<Result<InFlightCall, Error>>),
}

/// The way of a call to its service, with the state that waits for the reply.
enum CallTransport {
    /// A request on a queue, whose reply comes to the reply queue.
    Broker(BrokerCall),
    /// A one-way request: waits for its publisher confirm.
    OneWay(Arc<CallRequest>, BoxFuture<Result<(), PublishFailure>>),
    Local(Arc<CallRequest>, LocalCall),
    /// A local request without a reply.
    LocalOneWay(Arc<CallRequest>),
}

impl Sending {
    /// Starts a call, and sends its request if nothing has to be waited for.
    pub(super) fn start(client: Client, options: CallOptions) -> Self {
        match start(&client, options) {
            Ok(request) => Self::of(client, Arc::new(request)),
            Err(error) => Self::Done(Err(error)),
        }
    }

    /// Sends the request of a call that was started.
    pub(super) fn of(client: Client, request: Arc<CallRequest>) -> Self {
        let client = match client.try_permit() {
            Ok(permit) => return send(request, permit),
            Err(client) => client,
        };
        Self::Waiting(Box::pin(async move {
            match timeout_at(request.deadline, client.permit()).await {
                Ok(Some(permit)) => send(request, permit).done().await,
                Ok(None) | Err(_) => Err(request.failed(ErrorKind::Timeout, Outcome::NotSent)),
            }
        }))
    }

    /// Completes when the request is sent.
    pub(super) async fn done(self) -> Result<InFlightCall, Error> {
        match self {
            Self::Done(call) => call,
            Self::Waiting(call) => call.await,
        }
    }
}

/// Starts a call: its deadline counts from now.
///
/// # Errors
/// The arguments could not be encoded, or this thread is not in a runtime. Nothing was sent.
pub(super) fn start(client: &Client, mut options: CallOptions) -> Result<CallRequest, Error> {
    let started = Instant::now();
    let context = Context::current();
    if let Backend::Broker(backend) = &client.inner.backend {
        let propagated = backend.connection.propagated();
        propagated.add(&context, &mut options.headers);
    }
    let method = options.method;
    let always = method.requires_consumer().then_some(Absence::NONE);
    options.fail_fast = options.fail_fast.or(client.inner.fail_fast).or(always);
    let timeout = options
        .timeout
        .or(method.timeout())
        .or(client.inner.timeout)
        .unwrap_or(DEFAULT_TIMEOUT)
        .min(MAX_TIMEOUT);
    let deadline = clock::deadline(started, timeout);
    let queue = client.queue_of(method);
    let mut trace = context.message().trace.clone();
    let name = || client.inner.descriptor.full_name(method);
    let (span, observe) = match &client.inner.backend {
        Backend::Broker(backend) => {
            let hooks = backend.connection.hooks();
            let span = MessageSpan::call(hooks, name, &queue, &mut trace);
            (span, hooks.observe.clone())
        }
        Backend::Local(_) => {
            let hooks = Hooks::default();
            (MessageSpan::call(&hooks, name, &queue, &mut trace), None)
        }
    };
    let mut request = CallRequest {
        options,
        service: client.inner.descriptor,
        queue,
        started,
        // A call inside a handler ends before the request that the handler answers.
        deadline: context
            .nested_deadline()
            .map_or(deadline, |outer| outer.min(deadline)),
        codec: client.inner.codec,
        message_id: OnceLock::new(),
        trace,
        is_stamped: client.inner.is_stamped,
        span,
        observe,
        is_ended: AtomicBool::new(false),
        is_layered: AtomicBool::new(false),
        has_left: AtomicBool::new(false),
        context: OnceLock::new(),
    };
    Error::check_runtime().map_err(|error| request.not_sent(error))?;
    match request.options.error.take() {
        Some(error) => Err(request.not_sent(error)),
        None => Ok(request),
    }
}

fn send(request: Arc<CallRequest>, permit: InFlightPermit) -> Sending {
    match &permit.client.inner.backend {
        Backend::Local(service) => {
            let transport = match LocalCall::start(Arc::clone(service), &request) {
                Some(call) => CallTransport::Local(request, call),
                None => CallTransport::LocalOneWay(request),
            };
            Sending::Done(Ok(InFlightCall {
                transport,
                _permit: permit,
            }))
        }
        Backend::Broker(backend) => send_to_broker(Arc::clone(backend), request, permit),
    }
}

fn send_to_broker(
    backend: Arc<BrokerBackend>,
    request: Arc<CallRequest>,
    permit: InFlightPermit,
) -> Sending {
    let method = request.method();
    let (size, limit) = (request.options.body.len(), backend.connection.max_message());
    if size > limit {
        let error = Error::new(ErrorKind::TooLarge { size, limit });
        return Sending::Done(Err(request.not_sent(error)));
    }
    if request.time_left().is_zero() {
        return Sending::Done(Err(request.failed(ErrorKind::Timeout, Outcome::NotSent)));
    }
    if method.is_oneway() || method.is_idempotent() {
        let new = || backend.next_message_id();
        let message_id = request.message_id.get_or_init(new);
        request.span.record_message_id(message_id);
    }
    let in_flight = |transport| InFlightCall {
        transport,
        _permit: permit,
    };
    if method.is_oneway() {
        return Sending::Waiting(Box::pin(async move {
            backend.until_served(&request).await?;
            let app_id = backend.connection.given_name();
            let message = Arc::new(request.message(app_id, None, false));
            let (now, time_left) = (Instant::now(), request.time_left());
            let published = backend.publisher.send(message, now, time_left).await;
            let receipt = published.map_err(|failure| failure.into_error(&request.target()))?;
            request.sent(1);
            let confirmed = Box::pin(receipt.wait());
            Ok(in_flight(CallTransport::OneWay(request, confirmed)))
        }));
    }
    if request.options.fail_fast.is_some() {
        return Sending::Waiting(Box::pin(async move {
            backend.until_served(&request).await?;
            let call = backend.send_confirmed(&request).await?;
            Ok(in_flight(CallTransport::Broker(call)))
        }));
    }
    match backend.send_now(&request) {
        Some(call) => Sending::Done(Ok(in_flight(CallTransport::Broker(call)))),
        None => Sending::Waiting(Box::pin(async move {
            let call = backend.send(&request).await?;
            Ok(in_flight(CallTransport::Broker(call)))
        })),
    }
}

impl InFlightCall {
    /// Lets a local call run while nobody awaits it. A remote one does so anyway.
    pub(super) fn detach(mut self) -> Self {
        if let CallTransport::Local(request, call) = self.transport {
            self.transport = CallTransport::Local(request, call.detach());
        }
        self
    }

    pub(super) fn request(&self) -> &CallRequest {
        match &self.transport {
            CallTransport::Broker(call) => &call.request,
            CallTransport::OneWay(request, _)
            | CallTransport::Local(request, _)
            | CallTransport::LocalOneWay(request) => request,
        }
    }

    /// The request of a call whose stream goes on after it.
    pub(super) fn shared_request(&self) -> Arc<CallRequest> {
        match &self.transport {
            CallTransport::Broker(call) => Arc::clone(&call.request),
            CallTransport::OneWay(request, _)
            | CallTransport::Local(request, _)
            | CallTransport::LocalOneWay(request) => Arc::clone(request),
        }
    }

    /// Waits for the reply. Called once.
    ///
    /// The rare branches are boxed, because thousands of these futures may wait at once.
    pub(super) async fn response(&mut self) -> Result<Reply, Error> {
        // The call may have been sent inside a runtime and be awaited outside of it.
        Error::check_runtime().map_err(|error| {
            let request = self.request();
            request
                .target()
                .describe(error, request.started, Outcome::SentNoReply)
        })?;
        let call = match &mut self.transport {
            CallTransport::Broker(call) => call,
            CallTransport::Local(request, call) => return call.response(request).await,
            CallTransport::OneWay(request, confirmed) => {
                let confirmed = confirmed.await;
                confirmed.map_err(|failure| failure.into_error(&request.target()))?;
                return Ok(unit(request));
            }
            CallTransport::LocalOneWay(request) => return Ok(unit(request)),
        };
        // Whether an earlier request of this call may have been executed.
        let mut may_have_run = false;
        loop {
            // One expression, because a variable would take room of its own in this future.
            let deadline = call.request.deadline;
            let completion =
                match completion(&mut call.pending, deadline, enclosed(deadline).await).await {
                    Some(completion) => completion,
                    None => {
                        let outcome = if call.pending.is_queued() && !may_have_run {
                            Outcome::NotSent
                        } else {
                            Outcome::SentNoReply
                        };
                        return Err(call.request.failed(ErrorKind::Timeout, outcome));
                    }
                };
            let step = next_step(&call.backend, &call.request, completion, may_have_run);
            let resend = match step? {
                ControlFlow::Break(reply) => return Ok(reply),
                ControlFlow::Continue(resend) => resend,
            };
            may_have_run |= resend.may_have_run;
            let sent = Box::pin(async {
                if resend.is_isolated {
                    call.backend.send_isolated(&call.request).await
                } else {
                    call.backend.send(&call.request).await
                }
            });
            let sent = sent.await.map_err(|error| {
                if !may_have_run {
                    return error;
                }
                // The second request was not sent, but the first may have been executed.
                let kind = error.kind().clone();
                let failed = call.request.failed(kind, Outcome::SentNoReply);
                failed.caused_by(error)
            });
            *call = sent?;
        }
    }
}

/// The completion of a call; `None` at its deadline. Inside layers, which end at the same time, no timer is needed.
fn completion(
    call: &mut PendingCall,
    deadline: Instant,
    is_enclosed: bool,
) -> impl Future<Output = Option<CallCompletion>> + Send {
    if !is_enclosed {
        return Either::Left(timeout_at(deadline, call.completion()).map(Result::ok));
    }
    let mut deadline = Deadline::new(deadline);
    Either::Right(poll_fn(move |cx| match call.poll_completion(cx) {
        Poll::Ready(completion) => Poll::Ready(Some(completion)),
        Poll::Pending => deadline.poll(cx).map(|()| None),
    }))
}

/// The next request of a call, after the previous one ended without a reply.
struct Resend {
    /// Whether the previous request may have been executed.
    may_have_run: bool,
    /// Whether to send it alone on a channel: the broker may have closed the previous channel because of this
    /// request.
    is_isolated: bool,
}

/// Decides whether a call ends with a reply, fails, or is sent again. `may_have_run` tells whether a request
/// before the one that was completed may have been executed.
fn next_step(
    backend: &BrokerBackend,
    request: &CallRequest,
    completion: CallCompletion,
    may_have_run: bool,
) -> Result<ControlFlow<Reply, Resend>, Error> {
    let unless_run = |outcome| {
        if may_have_run {
            Outcome::SentNoReply
        } else {
            outcome
        }
    };
    let resend = match completion {
        CallCompletion::Reply(reply) => {
            return check_reply(backend, request, reply).map(ControlFlow::Break);
        }
        CallCompletion::Returned => {
            // The queue may have been deleted after it took an earlier request.
            return Err(request.failed(ErrorKind::Unroutable, unless_run(Outcome::Unroutable)));
        }
        CallCompletion::SendAlone { batch_refused } => {
            if let Some(coalescer) = backend.coalescer.as_ref().filter(|_| batch_refused) {
                coalescer.batch_refused();
            }
            Resend {
                may_have_run: false,
                is_isolated: false,
            }
        }
        CallCompletion::Refused(reason) => {
            let error = refusal::sender_error(&reason, request.options.body.len());
            let failed = request.failed(error.kind().clone(), unless_run(Outcome::Rejected));
            return Err(failed.caused_by(error));
        }
        CallCompletion::Lost(reason) if request.method().is_idempotent() && !reason.is_closed() => {
            tracing::debug!(call = ?request.target(), error = %reason, "sending an idempotent call again");
            let is_isolated = reason.amqp_code().is_some();
            Resend {
                may_have_run: true,
                is_isolated,
            }
        }
        CallCompletion::Lost(reason) => {
            let failed = request.failed(reason.kind().clone(), Outcome::SentNoReply);
            return Err(failed.caused_by(reason));
        }
    };
    Ok(ControlFlow::Continue(resend))
}

/// Checks the size of a reply and finds its codec.
fn check_reply(
    backend: &BrokerBackend,
    request: &CallRequest,
    received: ReceivedReply,
) -> Result<Reply, Error> {
    let ReceivedReply {
        reply,
        form,
        content_type,
        size,
    } = received;
    if let Some(coalescer) = &backend.coalescer {
        coalescer.reply_received(form);
    }
    let limit = backend.connection.max_message();
    if size > limit {
        let kind = ErrorKind::TooLarge { size, limit };
        return Err(request.failed(kind, Outcome::Answered));
    }
    let codec = request.codec.for_content_type(content_type.as_deref());
    let codec = codec.map_err(|unknown| {
        let (reply, codec) = (unknown.name(), request.codec);
        let text = format!("the reply is `{reply}`, the request was `{codec}`");
        request
            .failed(ErrorKind::Decode, Outcome::Answered)
            .caused_by(text)
    })?;
    if codec == request.codec {
        Ok(reply)
    } else {
        Ok(reply.with_codec(codec))
    }
}

/// The reply `()` to a request that gets none.
fn unit(request: &CallRequest) -> Reply {
    Reply::new(ReplyStatus::Success, request.codec.unit())
}
