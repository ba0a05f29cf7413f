//! Services and tasks as the transport sees them: an encoded request in, an encoded reply or a verdict out.

use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::policy::verdict::Verdict;
use crate::wire::codec::{self, Codec};
use crate::wire::envelope::ReplyStatus;
use crate::wire::status::{Code, Status};

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A service that replies to requests. `#[lepus::service]` generates one around an implementation.
///
/// To observe every request, wrap a service and serve the wrapper.
pub trait Service: Send + Sync + 'static {
    /// The name of the service and its methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Replies to one request. If the future panics, the reply is an `internal` status. It is dropped at the
    /// request's deadline.
    fn call(&self, request: Request) -> BoxFuture<Reply>;
}

impl<S: Service + ?Sized> Service for std::sync::Arc<S> {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        (**self).descriptor()
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        (**self).call(request)
    }
}

/// A set of tasks that runs jobs. `#[lepus::tasks]` generates one around an implementation, for a
/// [`TaskPool`](crate::TaskPool); it is not meant to be implemented by hand.
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
        self.encode(ReplyStatus::Success, value)
    }

    /// The reply that carries a value or the method's own error.
    #[must_use]
    pub fn result<T: Serialize, E: Serialize>(&self, result: &Result<T, E>) -> Reply {
        match result {
            Ok(value) => self.encode(ReplyStatus::Success, value),
            Err(error) => self.encode(ReplyStatus::Application, error),
        }
    }

    fn encode<T: Serialize>(&self, status: ReplyStatus, value: &T) -> Reply {
        match self.codec.encode(value) {
            Ok(body) => Reply { status, body },
            Err(error) => {
                let text = format!(
                    "the reply of `{}` cannot be encoded: {error}",
                    self.method.name()
                );
                Reply::failed(Status::new(Code::Internal, text))
            }
        }
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
