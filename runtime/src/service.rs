//! Services and tasks as the transport sees them: an encoded request in, an encoded reply or a verdict out.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::Error;
use crate::handler_guard::HandlerEnd;
use crate::policy::verdict::Verdict;
use crate::returns::{EncodedError, MethodError};
use crate::stats::HandlerOutcome;
use crate::stream::{Attached, ServedStream};
use crate::wire::codec::{self, Codec, CodecError};
use crate::wire::envelope::{self, ReplyStatus};
use crate::wire::status::{Code, Status};
use crate::wire::topology::QueueOptions;
use crate::wire::value::{Table, Value};

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A service that replies to requests. `#[lepus::service]` generates one around an implementation.
///
/// To observe every request, or to answer some of them, put layers around a service
/// ([`middleware`](crate::middleware)): a layer wraps a service in another one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service",
    label = "no `lepus::rpc::Service`",
    note = "put an implementation into the server that `#[lepus::service]` generates: `CalculatorServer::new(implementation)`"
)]
pub trait Service: Send + Sync + 'static {
    /// The name of the service and its methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Replies to one request. If the future panics, the reply is an `internal` status. It is dropped at the
    /// request's deadline.
    fn call(&self, request: Request) -> BoxFuture<Reply>;

    /// The options with which a server serves it; read once, when the server starts. The default is
    /// [`ServiceOptions::new`]. A service that wraps another one passes on the options of that one.
    fn options(&self) -> ServiceOptions {
        ServiceOptions::new()
    }
}

/// A service of any type, as layers wrap it.
pub type DynService = Arc<dyn Service>;

impl<S: Service + ?Sized> Service for Arc<S> {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        (**self).descriptor()
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        (**self).call(request)
    }

    fn options(&self) -> ServiceOptions {
        (**self).options()
    }
}

/// The options with which a [`Server`](crate::Server) serves a service.
///
/// A generated server has these methods itself. They are also for a [`Service`] that is written by hand,
/// which returns its options from [`Service::options`].
///
/// ```
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn fib(&self, n: u64) -> u64 {
/// #         n
/// #     }
/// # }
/// use lepus::amqp::{QueueKind, QueueOptions};
///
/// let calculator = CalculatorServer::new(CalculatorService)
///     .concurrency(4)
///     .queue_options(QueueOptions::new().kind(QueueKind::Quorum));
/// # let _ = calculator;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "options have an effect on the service that returns them"]
pub struct ServiceOptions {
    pub(crate) concurrency: u16,
    pub(crate) queue: QueueOptions,
    pub(crate) is_passive: bool,
}

impl ServiceOptions {
    /// The defaults: one request at a time, from a queue with the properties that the service's attribute
    /// gives.
    pub fn new() -> Self {
        Self {
            concurrency: 1,
            queue: QueueOptions::new(),
            is_passive: false,
        }
    }

    /// Sets how many requests of the service are handled at once. Default 1, with which an idle server is
    /// always preferred over a busy one, because this is also the channel's prefetch (`basic.qos`). The
    /// maximum is 65,535; 0 counts as 1.
    pub fn concurrency(mut self, requests: u16) -> Self {
        self.concurrency = requests.max(1);
        self
    }

    /// Sets the options of the service's queue, and of the queues that its methods have of their own. They
    /// are added to those of the service's attribute (`durable`, `quorum`), which they override. All servers
    /// of a service need the same ones, because a queue is declared by each of them.
    pub fn queue_options(mut self, options: QueueOptions) -> Self {
        self.queue = options;
        self
    }

    /// Declares no queues: they must exist, with any properties. The queue options have no effect then.
    pub fn passive(mut self) -> Self {
        self.is_passive = true;
        self
    }
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A set of tasks that runs jobs. `#[lepus::tasks]` generates one around an implementation, for a
/// [`TaskPool`](crate::jobs::TaskPool); it is not meant to be implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of tasks",
    label = "no `lepus::jobs::Tasks`",
    note = "put an implementation into the worker that `#[lepus::tasks]` generates: `ImagesWorker::new(implementation)`"
)]
pub trait Tasks: Send + Sync + 'static {
    /// The name of the tasks and their methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Runs one job.
    #[doc(hidden)]
    fn run(&self, request: Request) -> BoxFuture<Verdict>;
}

/// A request: its method, its encoded arguments, and its context.
///
/// It is the part of a request that layers and handlers work with. The message that it came in, with the address
/// of the reply, stays with the server.
#[derive(Clone)]
pub struct Request {
    method: &'static MethodDescriptor,
    codec: Codec,
    body: Bytes,
    /// Set within layers alone.
    context: Option<Context>,
    /// The stream, if the caller asks for one.
    stream: Option<Arc<dyn ServedStream>>,
    /// Set within the layers of a client.
    call: Option<Arc<dyn LayeredRequest>>,
}

/// A call of a client, as the requests in its layers know it. The innermost service of the layers sends it as it is,
/// unless they have changed its context.
pub(crate) trait LayeredRequest: Any + Send + Sync {
    /// The context of the request while no layer has replaced it: what is going to be sent.
    fn context(&self) -> Context;
}

impl Request {
    pub(crate) fn new(method: &'static MethodDescriptor, codec: Codec, body: Bytes) -> Self {
        Self {
            method,
            codec,
            body,
            context: None,
            stream: None,
            call: None,
        }
    }

    /// The request of a call in the layers of a client.
    pub(crate) fn of_call(
        method: &'static MethodDescriptor,
        codec: Codec,
        body: Bytes,
        call: Arc<dyn LayeredRequest>,
    ) -> Self {
        Self {
            call: Some(call),
            ..Self::new(method, codec, body)
        }
    }

    /// The call that it belongs to, if it is one of this type.
    pub(crate) fn call<C: LayeredRequest>(&self) -> Option<Arc<C>> {
        let call: Arc<dyn Any + Send + Sync> = Arc::clone(self.call.as_ref()?) as _;
        call.downcast().ok()
    }

    /// Whether a layer has replaced its context.
    pub(crate) fn is_changed(&self) -> bool {
        self.context.is_some()
    }

    /// A request that asks for this stream.
    pub(crate) fn with_stream(mut self, stream: Option<Arc<dyn ServedStream>>) -> Self {
        self.stream = stream;
        self
    }

    /// The stream, if the caller asks for one.
    pub(crate) fn stream(&self) -> Option<&Arc<dyn ServedStream>> {
        self.stream.as_ref()
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    /// The method that is called.
    #[must_use]
    pub fn descriptor(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// The encoded arguments.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The context of the request: its headers, deadline, trace and extensions. In a layer of a server, it is
    /// the context in which the handler is going to run. In a layer of a client, it is what is going to be sent:
    /// its headers are those of the call and the propagated ones.
    #[must_use]
    pub fn context(&self) -> Context {
        match (&self.context, &self.call) {
            (Some(context), _) => context.clone(),
            (None, Some(call)) => call.context(),
            (None, None) => Context::current(),
        }
    }

    /// Replaces the context, mostly by one made of [`context`](Self::context). It takes effect for the layers
    /// further inside and for the handler, or for what is sent.
    #[must_use]
    pub fn with_context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// Sets a header, as [`Context::with_header`] does. In a layer of a client, it is sent.
    #[must_use]
    pub fn with_header(self, name: &str, value: impl Into<Value>) -> Self {
        let context = self.context().with_header(name, value);
        self.with_context(context)
    }

    /// Adds an extension, as [`Context::with`] does. A handler reads it with `Context::current().get()`.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(self, extension: T) -> Self {
        let context = self.context().with(extension);
        self.with_context(context)
    }

    /// The number of the method in its trait ([`MethodDescriptor::id`]).
    #[must_use]
    pub fn method(&self) -> usize {
        self.method.id()
    }

    /// The method's name on the wire.
    #[must_use]
    pub fn method_name(&self) -> &'static str {
        self.method.name()
    }

    /// Decodes the arguments.
    ///
    /// # Errors
    /// An `invalid_argument` reply with the reason.
    pub fn decode<A: DeserializeOwned>(&self) -> Result<A, Reply> {
        self.arguments().map_err(Reply::failed)
    }

    /// Decodes a task's arguments.
    ///
    /// # Errors
    /// The verdict that rejects the job.
    #[doc(hidden)]
    pub fn decode_task<A: DeserializeOwned>(&self) -> Result<A, Verdict> {
        self.arguments()
            .map_err(|status| Verdict::of_status(&status))
    }

    fn arguments<A: DeserializeOwned>(&self) -> Result<A, Status> {
        let decoded = self.codec.decode(&self.body);
        decoded.map_err(|error| self.undecodable::<A>(error))
    }

    /// The status for arguments that do not decode.
    pub(crate) fn undecodable<A: DeserializeOwned>(&self, error: CodecError) -> Status {
        let method = self.method.name();
        let error = match self.failed_argument::<A>() {
            Some(name) => error.at(format_args!("argument `{name}`")),
            None => error,
        };
        let bytes = self.body.len();
        let text = format!("the arguments of `{method}` do not decode: {error} ({bytes} bytes)");
        Status::new(Code::InvalidArgument, text)
    }

    /// The argument that does not decode, if it is a single one.
    fn failed_argument<A: DeserializeOwned>(&self) -> Option<&'static str> {
        let names = self.method.argument_names();
        let at = if self.method.is_bare() {
            Some(0)
        } else {
            codec::failed_argument::<A>(self.codec, names, &self.body)
        };
        names.get(at?).copied()
    }

    /// The reply that carries a value.
    #[must_use]
    pub fn value<T: Serialize>(&self, value: &T) -> Reply {
        let status = ReplyStatus::Success;
        let body = self.codec.encode(value);
        self.reply(body.map(|body| Reply::new(status, body)))
    }

    /// The reply that carries a value or the method's own error. A [`Status`] is sent as it is.
    #[must_use]
    pub fn result<T: Serialize, E: MethodError>(&self, result: &Result<T, E>) -> Reply {
        match result {
            Ok(value) => self.value(value),
            Err(error) => {
                let encoded = error.encode(self.codec);
                self.reply(encoded.map(|EncodedError { status, body }| Reply::new(status, body)))
            }
        }
    }

    /// The reply, or the status for one that cannot be encoded.
    pub(crate) fn reply(&self, encoded: Result<Reply, CodecError>) -> Reply {
        encoded.unwrap_or_else(|error| {
            let method = self.method.name();
            let text = format!("the reply of `{method}` cannot be encoded: {error}");
            Reply::failed(Status::new(Code::Internal, text))
        })
    }

    /// The reply to a method that this implementation does not have.
    #[must_use]
    pub fn unimplemented(&self) -> Reply {
        let text = format!("`{}` is not implemented", self.method.name());
        Reply::failed(Status::new(Code::Unimplemented, text))
    }

    /// The verdict on a task that this implementation does not have.
    #[doc(hidden)]
    pub fn unknown_task(&self) -> Verdict {
        Verdict::unknown_task(format_args!("no task `{}`", self.method.name()))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method.name())
            .field("codec", &self.codec)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// An encoded reply: a value, the method's own error, or a status.
///
/// It is the part of a reply that layers work with, on both sides. A server makes a message of it; a client gets it
/// from one whose size and encoding it has checked.
#[derive(Clone)]
pub struct Reply {
    pub(crate) status: ReplyStatus,
    pub(crate) body: Bytes,
    /// Boxed, because most replies have none.
    extra: Option<Box<ReplyExtra>>,
}

/// The parts of a reply that few replies have.
#[derive(Clone, Debug, Default)]
struct ReplyExtra {
    headers: Table,
    failure: Option<ReplyFailure>,
    /// The codec of the body, if it may differ from the request's.
    codec: Option<Codec>,
    /// In a client: the stream that was opened.
    opened: Option<Attached>,
}

/// The end of a request that is not an answer of its handler.
#[derive(Clone, Debug)]
enum ReplyFailure {
    TimedOut,
    Panicked(String),
    Call(Error),
}

/// The outcome of a request, as a layer sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ReplyOutcome<'a> {
    /// The handler returned a value.
    Value,
    /// The handler returned the method's own error.
    OwnError,
    /// A status of the handler, of a layer or, for a client, of the server.
    Status(&'a Status),
    /// In a server: the handler was stopped at its deadline.
    TimedOut,
    /// In a server: the handler panicked, with this text. Its caller gets an `internal` status.
    Panicked(&'a str),
    /// In a client: the call failed without a reply, for instance because the connection was lost.
    Failed(&'a Error),
}

static NO_HEADERS: Table = Table::new();

impl Reply {
    pub(crate) fn new(status: ReplyStatus, body: Bytes) -> Self {
        Self {
            status,
            body,
            extra: None,
        }
    }

    /// A reply with these headers, which are not checked.
    pub(crate) fn with_headers(mut self, headers: Table) -> Self {
        if !headers.is_empty() {
            self.extra.get_or_insert_default().headers = headers;
        }
        self
    }

    pub(crate) fn with_codec(mut self, codec: Codec) -> Self {
        self.extra.get_or_insert_default().codec = Some(codec);
        self
    }

    /// The reply of a stream that was opened, which it carries.
    pub(crate) fn opened(stream: Attached) -> Self {
        let mut reply = Self::new(ReplyStatus::Success, Bytes::new());
        reply.extra.get_or_insert_default().opened = Some(stream);
        reply
    }

    /// The stream that was opened, if one was.
    pub(crate) fn opened_stream(&self) -> Option<&Attached> {
        self.extra.as_ref()?.opened.as_ref()
    }

    /// The status, the body and the headers.
    pub(crate) fn into_parts(self) -> (ReplyStatus, Bytes, Table) {
        let headers = self.extra.map(|extra| extra.headers);
        (self.status, self.body, headers.unwrap_or_default())
    }

    pub(crate) fn codec(&self) -> Option<Codec> {
        self.extra.as_ref()?.codec
    }

    /// The error of a call, if there was no reply.
    pub(crate) fn call_error(&self) -> Option<&Error> {
        match self.failure()? {
            ReplyFailure::Call(error) => Some(error),
            ReplyFailure::TimedOut | ReplyFailure::Panicked(_) => None,
        }
    }

    /// The reply of a request that ended so, for the layers around it.
    pub(crate) fn of_end(method: &str, end: HandlerEnd<Self>) -> Self {
        let (mut reply, failure) = match end {
            HandlerEnd::Returned(reply) => return reply,
            HandlerEnd::TimedOut => (Self::timed_out(method), ReplyFailure::TimedOut),
            HandlerEnd::Panicked(text) => {
                (Self::panicked(method, None), ReplyFailure::Panicked(text))
            }
        };
        reply.extra.get_or_insert_default().failure = Some(failure);
        reply
    }

    /// The end that layers have passed on as a reply, and the headers that they have added to it.
    pub(crate) fn into_end(mut self) -> (HandlerEnd<Self>, Table) {
        let Some(extra) = &mut self.extra else {
            return (HandlerEnd::Returned(self), Table::new());
        };
        let end = match extra.failure.take() {
            Some(ReplyFailure::TimedOut) => HandlerEnd::TimedOut,
            Some(ReplyFailure::Panicked(text)) => HandlerEnd::Panicked(text),
            failure @ (Some(ReplyFailure::Call(_)) | None) => {
                extra.failure = failure;
                return (HandlerEnd::Returned(self), Table::new());
            }
        };
        (end, std::mem::take(&mut extra.headers))
    }

    fn failure(&self) -> Option<&ReplyFailure> {
        self.extra.as_ref()?.failure.as_ref()
    }

    /// The outcome of the request.
    #[must_use]
    pub fn outcome(&self) -> ReplyOutcome<'_> {
        match (self.failure(), &self.status) {
            (Some(ReplyFailure::TimedOut), _) => ReplyOutcome::TimedOut,
            (Some(ReplyFailure::Panicked(text)), _) => ReplyOutcome::Panicked(text),
            (Some(ReplyFailure::Call(error)), _) => ReplyOutcome::Failed(error),
            (None, ReplyStatus::Success) => ReplyOutcome::Value,
            (None, ReplyStatus::Application) => ReplyOutcome::OwnError,
            (None, ReplyStatus::Failed(status)) => ReplyOutcome::Status(status),
        }
    }

    /// The encoded value, or the encoded error of the method; empty for a reply of another outcome.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers that layers of the server have added.
    #[must_use]
    pub fn headers(&self) -> &Table {
        self.extra
            .as_ref()
            .map_or(&NO_HEADERS, |extra| &extra.headers)
    }

    /// Adds a header, in place of one of the same name. Layers of the client read it; a client without
    /// layers ignores it.
    ///
    /// A [reserved](Table#reserved-names-of-headers) name makes the reply an `internal` status that names it.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Value>) -> Self {
        let name = name.to_owned();
        if let Err(error) = envelope::check_headers([&name]) {
            return Self::failed(Status::new(Code::Internal, error.to_string()));
        }
        let extra = self.extra.get_or_insert_default();
        extra.headers.insert(name, value.into());
        self
    }

    /// The reply of a handler that was stopped at its deadline.
    pub(crate) fn timed_out(method: &str) -> Self {
        let text = format!("`{method}` was stopped at its deadline");
        Self::failed(Status::new(Code::DeadlineExceeded, text))
    }

    /// A reply that carries a status and nothing else.
    #[must_use]
    pub fn failed(status: Status) -> Self {
        Self::new(ReplyStatus::Failed(status), Bytes::new())
    }

    /// The reply of a handler that panicked. `text` is the panic's text, if the caller may see it.
    pub(crate) fn panicked(method: &str, text: Option<&str>) -> Self {
        let text = match text {
            Some(text) => format!("`{method}` panicked: {text}"),
            None => format!("`{method}` panicked"),
        };
        Self::failed(Status::new(Code::Internal, text))
    }

    /// The outcome as a field of spans and log events: `ok`, `application` for the method's own error, the code of
    /// the status, or `panicked`.
    pub(crate) fn outcome_name(&self) -> &'static str {
        match self.outcome() {
            ReplyOutcome::Value => "ok",
            ReplyOutcome::OwnError => HandlerOutcome::OwnError.as_str(),
            ReplyOutcome::Status(status) => status.code().as_str(),
            ReplyOutcome::Failed(error) => error.grpc_code().as_str(),
            ReplyOutcome::TimedOut => Code::DeadlineExceeded.as_str(),
            ReplyOutcome::Panicked(_) => "panicked",
        }
    }

    /// The outcome as it is counted.
    pub(crate) fn handler_outcome(&self) -> HandlerOutcome {
        match self.outcome() {
            ReplyOutcome::Value => HandlerOutcome::Ok,
            ReplyOutcome::OwnError => HandlerOutcome::OwnError,
            ReplyOutcome::Status(status) => HandlerOutcome::Status(status.code()),
            ReplyOutcome::Failed(error) => HandlerOutcome::Status(error.grpc_code()),
            ReplyOutcome::TimedOut => HandlerOutcome::Stopped,
            ReplyOutcome::Panicked(_) => HandlerOutcome::Panicked,
        }
    }

    /// The status, if the reply carries one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match &self.status {
            ReplyStatus::Failed(status) => Some(status),
            ReplyStatus::Success | ReplyStatus::Application => None,
        }
    }
}

/// The outcome of a call that got no reply: a layer of a client fails the call with this error. In a layer of a
/// server, the caller gets the status of the error, or else `deadline_exceeded` for a timeout and `unavailable`
/// for any other error.
impl From<Error> for Reply {
    fn from(error: Error) -> Self {
        let status = match error.status() {
            Some(status) => status.clone(),
            None if error.is_timeout() => Status::new(Code::DeadlineExceeded, "timed out"),
            None => Status::new(Code::Unavailable, "not available"),
        };
        let mut reply = Self::failed(status);
        reply.extra.get_or_insert_default().failure = Some(ReplyFailure::Call(error));
        reply
    }
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::failed(status)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .finish()
    }
}
