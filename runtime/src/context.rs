//! The context of a running handler, or of other code of the user: facts of its message, and the deadline,
//! the trace and the headers that calls, jobs and events inherit.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{self, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::DebugValue;

use crate::cancel_table::CancelKey;
use crate::clock;
use crate::drain::DrainSignal;
use crate::escape::{Escaped, escaped};
use crate::extensions::Extensions;
use crate::handler_guard::{HandlerFuture, defer_panic};
use crate::observe::TelemetrySpan;
use crate::span::MessageSpan;
use crate::wire::message::MessageInfo;
use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::{Table, Value};

tokio::task_local! {
    static CURRENT: Context;
}

/// The context outside of handlers.
static NOWHERE: LazyLock<Context> = LazyLock::new(Context::default);

/// The request or job that a handler works on: its deadline, headers, caller and delivery facts.
///
/// Calls, jobs and events that are sent while it is current inherit the trace and the headers that the
/// connection [propagates](crate::amqp::ConnectionBuilder::propagate). Calls inherit the deadline, too, in a
/// handler less a reserve in which it can still answer ([`Call::timeout`](crate::Call::timeout)). The
/// context is task-local: for work moved to another task, take [`Context::current`] along and enter it
/// there with [`Context::scope`].
///
/// # Contexts of your own
///
/// Code that runs outside of handlers makes a context itself: a gateway, around each of its requests, or a
/// unit test of a handler that reads headers or extensions.
///
/// ```
/// use std::time::Duration;
///
/// use lepus::Context;
///
/// /// A handler's helper that reads a header and an extension.
/// fn greeting() -> String {
///     let context = Context::current();
///     let tenant = context.header("x-tenant").and_then(|it| it.as_str()).unwrap_or("nobody");
///     let user = context.get::<User>().map_or("somebody", |user| &user.name);
///     format!("{user} of {tenant}")
/// }
///
/// struct User {
///     name: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let context = Context::new()
///     .with_timeout(Duration::from_secs(2))
///     .with_header("x-tenant", "meadow")
///     .with(User { name: "Hare".to_owned() });
/// assert_eq!(context.scope(async { greeting() }).await, "Hare of meadow");
/// # }
/// ```
///
/// # Inside a handler
///
/// ```
/// use lepus::Context;
///
/// #[lepus::service]
/// trait Greeter {
///     async fn greet(&self) -> String;
/// }
///
/// struct GreeterService;
///
/// impl Greeter for GreeterService {
///     async fn greet(&self) -> String {
///         let context = Context::current();
///         // In a task of its own, with the context of this request.
///         let task = tokio::spawn(context.clone().scope(async {
///             Context::current().time_left().is_some()
///         }));
///         assert!(task.await.is_ok_and(|has_deadline| has_deadline));
///         let tenant = context.header("tenant").and_then(|value| value.as_str());
///         format!("Hello, {}!", tenant.unwrap_or("nobody"))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// let greeter = GreeterClient::local(GreeterService);
/// assert_eq!(greeter.greet().header("tenant", "Hare").await?, "Hello, Hare!");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Context {
    invocation: Arc<Invocation>,
}

/// The future of a handler. It is polled, and dropped, with its context current and in the span of that.
#[must_use = "the handler runs when this is awaited"]
pub(crate) struct InContext<T> {
    context: Context,
    /// `None` once it has ended.
    handler: Option<HandlerFuture<T>>,
}

impl<T> InContext<T> {
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

impl<T> Future for InContext<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<T> {
        let Self { context, handler } = &mut *self;
        let mut polled = Poll::Pending;
        context.enter(|| {
            if let Some(running) = handler {
                polled = running.as_mut().poll(cx);
            }
            if polled.is_ready() {
                *handler = None;
            }
        });
        polled
    }
}

impl<T> Drop for InContext<T> {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.context.enter(|| drop(handler));
        }
    }
}

/// One run of a handler.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invocation {
    /// `None` for an event of a broadcast subscription, which is named by its exchange.
    pub(crate) service: Option<Cow<'static, str>>,
    /// `None` if it is named by the type of the message.
    pub(crate) method: Option<Cow<'static, str>>,
    pub(crate) times: Times,
    pub(crate) span: MessageSpan,
    pub(crate) message: MessageInfo,
    /// The request by which its caller gives the call up, if it can.
    pub(crate) cancel: Option<CancelKey>,
    /// Values of layers and of the user.
    pub(crate) extensions: Extensions,
}

/// The instants of one run of a handler.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// When the message was received, if the clock was read then.
    started: Option<Instant>,
    deadline: Option<Instant>,
    /// The deadline of calls that the handler makes ([`clock::nested_deadline`]). It is computed once,
    /// because calls share a message only if they have the same deadline.
    nested_deadline: Option<Instant>,
}

impl Times {
    pub(crate) fn new(started: Instant, deadline: Option<Instant>) -> Self {
        Self {
            started: Some(started),
            deadline,
            nested_deadline: deadline.map(|end| clock::nested_deadline(started, end)),
        }
    }

    /// The times of code that leaves no reserve: calls that it makes have the same deadline.
    pub(crate) fn without_reserve(started: Instant, deadline: Instant) -> Self {
        Self {
            started: Some(started),
            deadline: Some(deadline),
            nested_deadline: Some(deadline),
        }
    }
}

impl Invocation {
    /// The run of a method's handler. Its span is made when the handler is.
    pub(crate) fn request(
        service: &'static str,
        method: &'static str,
        times: Times,
        message: MessageInfo,
    ) -> Self {
        Self {
            service: Some(service.into()),
            method: Some(method.into()),
            times,
            span: MessageSpan::default(),
            message,
            cancel: None,
            extensions: Extensions::default(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.times.deadline
    }
}

/// The names of the headers that messages take over from the current context.
#[derive(Clone, Debug)]
pub(crate) struct PropagatedHeaders(Arc<[String]>);

impl PropagatedHeaders {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self(names.into())
    }

    /// Adds the headers of a context to those of a message, which it does not replace.
    pub(crate) fn add(&self, context: &Context, headers: &mut Table) {
        for name in &*self.0 {
            if let Some(value) = context.header(name)
                && !headers.contains_key(name)
            {
                headers.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Logs an event about a handler, in its span and with the facts that all such events have.
macro_rules! log_handler {
    ($level:ident, $context:expr, $($fields:tt)+) => {
        tracing::$level!(
            parent: $context.span(),
            service = %Escaped($context.service()),
            method = %Escaped($context.method()),
            message_id = escaped($context.message_id()),
            attempt = $context.attempt(),
            $($fields)+
        )
    };
}

impl Context {
    /// The context of a handler.
    pub(crate) fn of(invocation: Invocation) -> Self {
        Self {
            invocation: Arc::new(invocation),
        }
    }

    /// An empty context, as outside of handlers. It is made current by [`scope`](Self::scope).
    ///
    /// To change the context of the handler that runs, begin with [`Context::current`] instead.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of what is sent while this context is current. A deadline that is set already is only
    /// brought forward. The code itself is not stopped at the deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        let times = &mut self.edit().times;
        for limit in [&mut times.deadline, &mut times.nested_deadline] {
            *limit = Some(limit.map_or(deadline, |set| set.min(deadline)));
        }
        self
    }

    /// Sets the deadline to this long from now, as [`with_deadline`](Self::with_deadline) does.
    #[must_use]
    pub fn with_timeout(self, limit: Duration) -> Self {
        self.with_deadline(clock::deadline(Instant::now(), limit))
    }

    /// Sets a header, in place of one of the same name. It is what [`header`](Self::header) returns; it is
    /// sent along with calls, jobs and events only if the connection
    /// [propagates](crate::amqp::ConnectionBuilder::propagate) it.
    ///
    /// The headers `traceparent`, `tracestate` and `baggage` become part of the [trace](Self::trace), which
    /// is always sent along.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Value>) -> Self {
        let message = &mut self.edit().message;
        if TraceHeaders::is_name(name) {
            message.trace.insert(name, value.into());
        } else {
            message.headers.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Sets several headers, as [`with_header`](Self::with_header) does.
    #[must_use]
    pub fn with_headers(self, headers: Table) -> Self {
        headers.into_iter().fold(self, |context, (name, value)| {
            context.with_header(&name, value)
        })
    }

    /// Replaces the trace by these headers: `traceparent`, `tracestate`, `baggage`. Others are not part of a
    /// trace, and are left out.
    #[must_use]
    pub fn with_trace(mut self, trace: Table) -> Self {
        self.edit().message.trace = trace.into();
        self
    }

    /// Adds a value of any type, which [`get`](Self::get) returns, in place of an earlier one of the same type.
    /// It stays in this process: nothing of it is sent.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.edit().extensions.insert(value);
        self
    }

    /// The value of this type that a layer, or [`with`](Self::with), has put into the context.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.invocation.extensions.get()
    }

    /// The facts, to change them. Other handles of this context keep theirs.
    fn edit(&mut self) -> &mut Invocation {
        Arc::make_mut(&mut self.invocation)
    }

    /// The message that the handler was given.
    pub(crate) fn message(&self) -> &MessageInfo {
        &self.invocation.message
    }

    /// The context of the handler this runs in; an empty one outside of handlers.
    #[must_use]
    pub fn current() -> Self {
        let nowhere = |_| NOWHERE.clone();
        CURRENT.try_with(Clone::clone).unwrap_or_else(nowhere)
    }

    /// Runs a future with this context current, for instance in a task of its own. Tasks that the future spawns
    /// do not have it.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Makes a handler with this context current, and leaves it so whenever that is polled: a
    /// handler may look at its context before its first await.
    pub(crate) fn handler<T: Send + 'static>(
        self,
        make: impl FnOnce() -> HandlerFuture<T>,
    ) -> InContext<T> {
        let mut handler = None;
        self.enter(|| handler = Some(defer_panic(make)));
        InContext {
            context: self,
            handler,
        }
    }

    /// The request, if its caller can give it up.
    pub(crate) fn cancel_key(&self) -> Option<&CancelKey> {
        self.invocation.cancel.as_ref()
    }

    /// Runs a function with this context current, and in its span.
    fn enter(&self, function: impl FnOnce()) {
        let in_span = || self.invocation.span.in_scope(function);
        // As inside layers that have left the context as it is.
        let is_same = |current: &Self| Arc::ptr_eq(&current.invocation, &self.invocation);
        if CURRENT.try_with(is_same).unwrap_or(false) {
            in_span();
        } else {
            CURRENT.sync_scope(self.clone(), in_span);
        }
    }

    /// The span of the handler in `tracing`.
    pub(crate) fn span(&self) -> &Span {
        self.invocation.span.tracing()
    }

    /// The span of the handler in the telemetry system.
    pub(crate) fn telemetry(&self) -> Option<&dyn TelemetrySpan> {
        self.invocation.span.telemetry()
    }

    /// Records the outcome of the handler in its span, and logs its end at DEBUG.
    pub(crate) fn ended(&self, outcome: &str) {
        self.invocation.span.record_outcome(outcome);
        log_handler!(
            debug,
            self,
            outcome,
            elapsed = self.elapsed(),
            "handler ended"
        );
    }

    /// Logs at WARN that the handler was stopped at its deadline.
    pub(crate) fn stopped(&self) {
        let elapsed = self.elapsed();
        log_handler!(warn, self, elapsed, "a handler was stopped at its deadline");
        self.ended("deadline_exceeded");
    }

    /// Records and logs that the handler was stopped, or not begun, because its caller has given the call up.
    pub(crate) fn given_up(&self) {
        self.ended("cancelled");
    }

    /// Logs at WARN that the handler panicked.
    pub(crate) fn panicked(&self, text: &str) {
        let (elapsed, panic) = (self.elapsed(), Escaped(text));
        log_handler!(warn, self, elapsed, %panic, "a handler panicked");
        self.ended("panicked");
    }

    /// The time since the message was received, as a field of a log event.
    fn elapsed(&self) -> Option<DebugValue<Duration>> {
        let started = self.invocation.times.started;
        started.map(|started| tracing::field::debug(started.elapsed()))
    }

    /// The service that was called; empty outside of handlers.
    #[must_use]
    pub fn service(&self) -> &str {
        let invocation = &self.invocation;
        let service = invocation.service.as_deref();
        service.unwrap_or(&invocation.message.exchange)
    }

    /// The method that was called, by its name on the wire.
    #[must_use]
    pub fn method(&self) -> &str {
        let method = self.invocation.method.as_deref();
        method
            .or(self.message().kind.as_deref())
            .unwrap_or_default()
    }

    /// The time at which the caller stops waiting; the handler is stopped then. `None`: never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.invocation.deadline()
    }

    /// The deadline of calls that the handler makes, which is a little before its own.
    pub(crate) fn nested_deadline(&self) -> Option<Instant> {
        self.invocation.times.nested_deadline
    }

    /// The time left until the deadline; zero once it has passed.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Completes when the server shuts down, in the handler of a method that returns or takes a stream; never in
    /// others.
    ///
    /// A stream that has asked for this has the server's [grace period](crate::Server::grace) to end by itself, for
    /// instance with a last item that tells where to go on. At its end, or at once if it has not asked, the server
    /// ends the stream, and the reader gets the status `unavailable`.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn draining(&self) {
        match self.get::<DrainSignal>() {
            Some(signal) => signal.draining().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the caller has given the call up: it dropped it before its reply. The handler of a method with
    /// `cancel = false`, or a task that a handler has left behind, asks for it; other handlers are dropped then.
    ///
    /// It is `false` in the handlers of jobs, of events and of one-way methods, which nobody waits for, and where the
    /// caller's message did not come through: the deadline remains the last limit. Behind a local client, it is `true`
    /// in the handlers of methods with `cancel = false` alone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let request = self.invocation.cancel.as_ref();
        request.is_some_and(CancelKey::is_cancelled)
    }

    /// Completes when the caller gives the call up ([`is_cancelled`](Self::is_cancelled)), and never if it does not.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn cancelled(&self) {
        match &self.invocation.cancel {
            Some(request) => request.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The message's headers that Lepus does not use itself, as the caller sent them.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.message().headers
    }

    /// One of the headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.message().headers.get(name)
    }

    /// The W3C trace headers that came along: `traceparent`, `tracestate`, `baggage`.
    #[must_use]
    pub fn trace(&self) -> &Table {
        self.message().trace.as_table()
    }

    /// The name of the program that sent the message, if it set one (AMQP's `app_id`).
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.message().app_id.as_deref()
    }

    /// The idempotency key: the same for every delivery of the same call or job.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.message().message_id.as_deref()
    }

    /// Whether the broker had delivered the message before: a handler may have seen it already.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.message().redelivered
    }

    /// Which attempt this is; the first is 1. Only jobs are attempted more than once. 0 outside
    /// of handlers.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.message().attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_current_inside_its_scope_only() {
        let now = Instant::now();
        let invocation = Invocation {
            service: Some("calculator".into()),
            times: Times::new(now, Some(now + Duration::from_secs(2))),
            ..Invocation::default()
        };
        let left = Context::of(invocation).scope(async {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(Context::current().service(), "calculator");
            Context::current().time_left()
        });
        assert_eq!(left.await, Some(Duration::from_secs(1)));
        assert_eq!(Context::current().deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_only_brought_forward() {
        let (near, far) = (Duration::from_secs(1), Duration::from_secs(9));
        let left = |context: Context| context.time_left();
        assert_eq!(left(Context::new().with_timeout(far)), Some(far));
        let context = Context::new().with_timeout(near).with_timeout(far);
        assert_eq!(left(context), Some(near));
        let context = Context::new().with_timeout(far).with_timeout(near);
        assert_eq!(left(context), Some(near));
    }

    #[test]
    fn a_changed_context_leaves_the_others_alone() {
        let first = Context::new().with_header("tenant", "hare").with(7_u8);
        let second = first
            .clone()
            .with_header("tenant", "fox")
            .with(8_u8)
            .with("text");
        assert_eq!(first.header("tenant"), Some(&Value::from("hare")));
        assert_eq!(second.header("tenant"), Some(&Value::from("fox")));
        assert_eq!(
            (first.get::<u8>(), second.get::<u8>()),
            (Some(&7), Some(&8))
        );
        assert_eq!(
            (first.get::<&str>(), second.get::<&str>()),
            (None, Some(&"text"))
        );
    }

    #[test]
    fn headers_of_a_trace_are_no_headers_of_the_message() {
        let headers = |pairs: &[(&str, &str)]| -> Table {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect()
        };
        let context =
            Context::new().with_headers(headers(&[("traceparent", "00-1"), ("tenant", "hare")]));
        assert_eq!(context.headers(), &headers(&[("tenant", "hare")]));
        assert_eq!(context.trace(), &headers(&[("traceparent", "00-1")]));
        let context = context.with_trace(headers(&[("baggage", "x"), ("other", "y")]));
        assert_eq!(context.trace(), &headers(&[("baggage", "x")]));
    }
}
