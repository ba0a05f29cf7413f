//! Services and tasks as the transport sees them: an encoded request in, an encoded reply or a verdict out.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::policy::verdict::Verdict;
use crate::returns::{EncodedError, MethodError};
use crate::wire::codec::{self, Codec, CodecError};
use crate::wire::envelope::ReplyStatus;
use crate::wire::status::{Code, Status};
use crate::wire::topology::QueueOptions;

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A service that replies to requests. `#[lepus::service]` generates one around an implementation.
///
/// To observe every request, wrap a service and serve the wrapper.
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

impl<S: Service + ?Sized> Service for std::sync::Arc<S> {
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

/// A request: its method, and its encoded arguments.
#[derive(Clone)]
pub struct Request {
    method: &'static MethodDescriptor,
    codec: Codec,
    body: Bytes,
}

impl Request {
    pub(crate) fn new(method: &'static MethodDescriptor, codec: Codec, body: Bytes) -> Self {
        Self {
            method,
            codec,
            body,
        }
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
        self.codec.decode(&self.body).map_err(|error| {
            let method = self.method.name();
            let error = match self.failed_argument::<A>() {
                Some(name) => error.at(format_args!("argument `{name}`")),
                None => error,
            };
            let text = format!("the arguments of `{method}` do not decode: {error}");
            Status::new(Code::InvalidArgument, text)
        })
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
        self.reply(body.map(|body| Reply { status, body }))
    }

    /// The reply that carries a value or the method's own error. A [`Status`] is sent as it is.
    #[must_use]
    pub fn result<T: Serialize, E: MethodError>(&self, result: &Result<T, E>) -> Reply {
        match result {
            Ok(value) => self.value(value),
            Err(error) => {
                let encoded = error.encode(self.codec);
                self.reply(encoded.map(|EncodedError { status, body }| Reply { status, body }))
            }
        }
    }

    /// The reply, or the status for one that cannot be encoded.
    fn reply(&self, encoded: Result<Reply, CodecError>) -> Reply {
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
    #[must_use]
    pub fn unknown_task(&self) -> Verdict {
        Verdict::reject(format!("no task `{}`", self.method.name()))
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
#[derive(Clone)]
pub struct Reply {
    pub(crate) status: ReplyStatus,
    pub(crate) body: Bytes,
}

impl Reply {
    /// A reply that carries a status and nothing else.
    #[must_use]
    pub fn failed(status: Status) -> Self {
        Self {
            status: ReplyStatus::Failed(status),
            body: Bytes::new(),
        }
    }

    /// The reply of a handler that panicked. `text` is the panic's text, if the caller may see it.
    pub(crate) fn panicked(method: &str, text: Option<&str>) -> Self {
        let text = match text {
            Some(text) => format!("`{method}` panicked: {text}"),
            None => format!("`{method}` panicked"),
        };
        Self::failed(Status::new(Code::Internal, text))
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

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .finish()
    }
}
