//! The operations that layers are put around, and the rest of the layers that each is passed on to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::descriptor::ServiceDescriptor;
use crate::service::{BoxFuture, DynService, Reply, Request, Service};
use crate::wire::status::Status;

/// An operation that passes layers. It has one of three types:
///
/// | type | | output |
/// |---|---|---|
/// | [`Request`] | of a server, or of a client | [`Reply`] |
/// | [`Message`](super::Message) | a job or an event that a handler is given | [`Verdict`](super::Verdict) |
/// | [`Publication`](super::Publication) | a job that is pushed, an event that is published | `Result<(), Error>` |
///
/// No other type can implement it.
pub trait Operation: sealed::Sealed + Send + Sized + 'static {
    /// The result that comes back through the layers.
    type Output: Send + 'static;

    /// The layers and the handler inside a layer.
    #[doc(hidden)]
    type Rest: ?Sized + Send + Sync + 'static;

    #[doc(hidden)]
    fn run(self, rest: &Self::Rest) -> BoxFuture<Self::Output>;

    /// The name of the service, queue or exchange.
    #[doc(hidden)]
    fn target(&self, rest: &Self::Rest) -> String;

    #[doc(hidden)]
    fn latest(&self) -> Option<Instant>;

    /// Brings the deadline forward to this long from now.
    #[doc(hidden)]
    #[must_use]
    fn within(self, limit: Duration) -> Self;

    /// The output of an operation that a layer lets through later, or never.
    #[doc(hidden)]
    fn refused(status: Status) -> Self::Output;
}

pub(super) mod sealed {
    /// Implemented for the operations and for no other type.
    pub trait Sealed {}
}

/// The handler of an operation that is not a request, with the layers around it.
#[doc(hidden)]
pub trait Handle<I: Operation>: Send + Sync + 'static {
    fn call(&self, operation: I) -> BoxFuture<I::Output>;
}

impl sealed::Sealed for Request {}

impl Operation for Request {
    type Output = Reply;
    type Rest = dyn Service;

    fn run(self, rest: &Self::Rest) -> BoxFuture<Reply> {
        rest.call(self)
    }

    fn target(&self, rest: &Self::Rest) -> String {
        rest.descriptor().name().to_owned()
    }

    fn latest(&self) -> Option<Instant> {
        self.context().deadline()
    }

    fn within(self, limit: Duration) -> Self {
        let context = self.context().with_timeout(limit);
        self.with_context(context)
    }

    fn refused(status: Status) -> Reply {
        status.into()
    }
}

/// The rest of the layers, and the handler inside them. A layer may run it once, several times, or not at all.
pub struct Next<I: Operation = Request> {
    rest: Arc<I::Rest>,
}

impl<I: Operation> Next<I> {
    pub(crate) fn new(rest: Arc<I::Rest>) -> Self {
        Self { rest }
    }

    /// Passes an operation on, and returns its output.
    pub fn run(self, operation: I) -> BoxFuture<I::Output> {
        operation.run(&self.rest)
    }

    pub(super) fn target(&self, operation: &I) -> String {
        operation.target(&self.rest)
    }
}

impl Next {
    /// The description of the service that is called.
    #[must_use]
    pub fn descriptor(&self) -> &'static ServiceDescriptor {
        self.rest.descriptor()
    }

    pub(super) fn service(&self) -> &DynService {
        &self.rest
    }
}

impl<I: Operation> Clone for Next<I> {
    fn clone(&self) -> Self {
        Self {
            rest: Arc::clone(&self.rest),
        }
    }
}

impl<I: Operation> fmt::Debug for Next<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}
