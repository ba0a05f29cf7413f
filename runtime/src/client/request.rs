//! Requests: a call from its options to its end, and the message (`basic.publish`) it is sent as.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::correlation::{CorrelationId, ReplyAddress};
use super::options::CallOptions;
use crate::clock;
use crate::context::Context;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Error, ErrorKind, Outcome};
use crate::observe::{Called, Observe};
use crate::publish::Target;
use crate::span::MessageSpan;
use crate::stats::HandlerOutcome;
use crate::wire::codec::Codec;
use crate::wire::envelope::RequestHead;
use crate::wire::message::{MessageInfo, Outgoing};
use crate::wire::trace_headers::TraceHeaders;

/// A call that was started: the caller's side of a request. It is kept until the call ends, because its
/// errors name it, its reply is decoded by it, and it may be sent again. Each sending makes a message of it
/// (an [`Outgoing`]), whose expiration is the time that is left then.
pub(super) struct CallRequest {
    pub(super) options: CallOptions,
    pub(super) service: &'static ServiceDescriptor,
    /// The queue that the request is published to, by its name on the broker.
    pub(super) queue: Arc<str>,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    pub(super) codec: Codec,
    /// The idempotency key, once it is sent.
    pub(super) message_id: OnceLock<String>,
    pub(super) trace: TraceHeaders,
    /// Whether its message tells the time at which it is sent.
    pub(super) is_stamped: bool,
    pub(super) span: MessageSpan,
    pub(super) observe: Option<Arc<dyn Observe>>,
    /// Whether the span and the observer were told of the end.
    pub(super) is_ended: AtomicBool,
    /// Whether it is sent from within layers: the end of the call is reported around them. Not if a stream goes on
    /// after them.
    pub(super) is_layered: AtomicBool,
    /// Whether a request of the call has left the layers, so that it may have been sent.
    pub(super) has_left: AtomicBool,
    /// The context of the request in layers, made when one asks for it.
    pub(super) context: OnceLock<Context>,
}

impl CallRequest {
    pub(super) fn method(&self) -> &'static MethodDescriptor {
        self.options.method
    }

    /// The names of this call in its errors.
    pub(super) fn target(&self) -> Target {
        let (service, method) = (self.service.name().into(), self.method().name().into());
        Target {
            service,
            method,
            queue: Arc::clone(&self.queue),
        }
    }

    pub(super) fn failed(&self, kind: ErrorKind, outcome: Outcome) -> Error {
        let error = Error::new(kind);
        self.ended(HandlerOutcome::Status(error.grpc_code()));
        self.target().describe(error, self.started, outcome)
    }

    pub(super) fn not_sent(&self, error: Error) -> Error {
        self.ended(HandlerOutcome::Status(error.grpc_code()));
        self.target()
            .describe(error, self.started, Outcome::NotSent)
    }

    /// Reports the end of the call, unless that is done around layers.
    pub(super) fn ended(&self, outcome: HandlerOutcome) {
        if !self.is_layered.load(Ordering::Relaxed) {
            self.report(outcome);
        }
    }

    /// Records the outcome of the call in its span, tells the observer, and logs its end.
    pub(super) fn report(&self, outcome: HandlerOutcome) {
        self.observed(outcome);
        if self.span.tracing().is_none() {
            return;
        }
        let outcome = outcome.as_str();
        self.span.record_outcome(outcome);
        tracing::debug!(
            parent: self.span.tracing(),
            service = self.service.name(),
            method = self.method().name(),
            message_id = self.message_id.get(),
            outcome,
            elapsed = ?self.started.elapsed(),
            "call ended"
        );
    }

    /// Tells the span of the telemetry system and the observer of the end of the call, once.
    pub(super) fn observed(&self, outcome: HandlerOutcome) {
        if self.observe.is_none() && self.span.telemetry().is_none() {
            return;
        }
        if self.is_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let message_id = self.message_id.get().map(String::as_str);
        self.span.ended(outcome, message_id);
        let Some(observe) = &self.observe else {
            return;
        };
        observe.call(&Called {
            service: self.service.name(),
            method: self.method().name(),
            queue: &self.queue,
            outcome,
            duration: self.started.elapsed(),
        });
    }

    /// Tells the observer that a message with this and other calls was sent.
    pub(super) fn sent(&self, calls: usize) {
        if let Some(observe) = &self.observe {
            observe.calls_sent(self.service.name(), calls);
        }
    }

    /// The facts of its message as a handler in this process reads them.
    pub(super) fn info(&self) -> MessageInfo {
        MessageInfo {
            headers: self.options.headers.clone(),
            trace: self.trace.clone(),
            attempt: 1,
            ..MessageInfo::default()
        }
    }

    /// The time at which a message with it is sent, if the message is to tell that.
    pub(super) fn stamp(&self) -> Option<u64> {
        self.is_stamped.then(clock::unix_millis).flatten()
    }

    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The request's message, as it is published now: its expiration is the time left.
    ///
    /// `app_id` names the client. A request without an address gets no reply. `asks_for_batches` asks the
    /// server whether it accepts batches.
    pub(super) fn message(
        &self,
        app_id: Option<&str>,
        reply: Option<ReplyAddress<'_>>,
        asks_for_batches: bool,
    ) -> Outgoing {
        let head = RequestHead {
            method: Some(self.method().name().to_owned()),
            reply_to: reply.map(|address| address.reply_to.to_owned()),
            correlation_id: reply
                .map(|address| CorrelationId::Call(address.id).encode(address.secret)),
            message_id: self.message_id.get().cloned(),
            content_type: Some(self.codec.content_type().to_owned()),
            time_left: Some(self.time_left()),
            priority: self.options.priority,
            caller: app_id.map(str::to_owned),
            asks_for_batches,
            headers: self.options.headers.clone(),
            trace: self.trace.clone(),
            persistent: false,
            stamp: self.stamp(),
            credit: NonZeroU64::new(self.options.window.into()),
        };
        self.message_with(head, self.options.body.clone())
    }

    /// A message with this head and body to the queue of this request.
    pub(super) fn message_with(&self, head: RequestHead, body: Bytes) -> Outgoing {
        Outgoing {
            exchange: String::new(),
            routing_key: self.queue.to_string(),
            mandatory: true,
            properties: head.into_properties(),
            body,
        }
    }
}

impl Drop for CallRequest {
    /// A call that was not ended was given up by its caller.
    fn drop(&mut self) {
        if !self.is_layered.load(Ordering::Relaxed) {
            self.observed(HandlerOutcome::Cancelled);
        }
    }
}
