//! A job or an event at its consumer, as layers see it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::operation::{Handle, Operation, sealed};
use crate::cancellation::Cancellation;
use crate::context::Context;
use crate::handler_guard::guard;
use crate::policy::settle::Attempts;
use crate::policy::verdict::{self, Verdict};
use crate::service::BoxFuture;
use crate::wire::message::{MessageInfo, message_accessors};
use crate::wire::status::Status;
use crate::wire::value::Value;

/// A job or an event on its way to its handler, through the [layers](super#layers-of-workers-and-subscriptions) of a
/// worker pool, a task pool or a subscription. The output is a [`Verdict`].
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Message {
    context: Context,
    body: Bytes,
    attempts: Attempts,
    cancellation: Cancellation,
}

impl Message {
    pub(crate) fn new(
        context: Context,
        body: Bytes,
        max_attempts: Option<u32>,
        cancellation: Cancellation,
    ) -> Self {
        Self {
            attempts: Attempts::new(context.attempt(), max_attempts),
            context,
            body,
            cancellation,
        }
    }

    /// Runs the handler in the context that the layers give to it. A panic or a missed deadline ends the handler
    /// here, so that the layers see it.
    pub(crate) fn handle(
        self,
        run: impl FnOnce(Context, Bytes, Cancellation) -> BoxFuture<Verdict>,
    ) -> BoxFuture<Verdict> {
        let Self {
            context,
            body,
            cancellation,
            ..
        } = self;
        let deadline = context.deadline();
        let own = context.clone();
        let handler = context.handler(|| run(own, body, cancellation));
        Box::pin(guard(deadline, handler).map(|end| Verdict::of_end(end, None)))
    }

    fn info(&self) -> &MessageInfo {
        self.context.message()
    }

    /// The queue of a job or of a shared or singleton subscription, without the namespace of the connection. For a
    /// broadcast subscription, whose queue has a random name, the exchange by its name on the broker.
    #[must_use]
    pub fn source(&self) -> &str {
        self.context.service()
    }

    /// The task of a job, or the type of an event, if the message names one (AMQP's `type`).
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.info().kind.as_deref()
    }

    message_accessors! {
        key exchange content_type message_id timestamp app_id headers header trace redelivered
    }

    /// The encoded payload.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The number of this attempt, and of the attempts that the job or the event may have.
    #[must_use]
    pub fn attempts(&self) -> Attempts {
        self.attempts
    }

    /// The signal that the handler should stop.
    #[must_use]
    pub fn cancelled(&self) -> Cancellation {
        self.cancellation.clone()
    }

    /// The context in which the handler is going to run: its headers, deadline, trace and extensions.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// Replaces the context by one made of [`context`](Self::context). It takes effect for the layers further
    /// inside and for the handler.
    #[must_use]
    pub fn with_context(self, context: Context) -> Self {
        Self { context, ..self }
    }

    /// Sets a header, as [`Context::with_header`] does.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.context = self.context.with_header(name, value);
        self
    }

    /// Adds an extension, as [`Context::with`] does. A handler reads it with `Context::current().get()`.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, extension: T) -> Self {
        self.context = self.context.with(extension);
        self
    }
}

impl sealed::Sealed for Message {}

impl Operation for Message {
    type Output = Verdict;
    type Rest = dyn Handle<Self>;

    fn run(self, rest: &Self::Rest) -> BoxFuture<Verdict> {
        rest.call(self)
    }

    fn target(&self, _: &Self::Rest) -> String {
        self.source().to_owned()
    }

    fn latest(&self) -> Option<Instant> {
        self.context.deadline()
    }

    fn within(mut self, limit: Duration) -> Self {
        self.context = self.context.with_timeout(limit);
        self
    }

    fn refused(status: Status) -> Verdict {
        verdict::retry(status.to_string()).into()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("source", &self.source())
            .field("type", &self.message_type())
            .field("message_id", &self.message_id())
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
