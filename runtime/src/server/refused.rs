//! Requests that are not run: they were past their deadline when they came, they may have run before, or they are
//! refused with a status.

use super::dispatch::Dispatcher;
use crate::descriptor::MethodDescriptor;
use crate::escape::{Escaped, escaped};
use crate::meter::{Arrived, OTHER};
use crate::observe::TelemetrySpan;
use crate::service::Reply;
use crate::span::MessageSpan;
use crate::stats::HandlerOutcome;
use crate::wire::message::MessageInfo;
use crate::wire::status::{Code, Status};
use crate::wire::trace_headers::TraceHeaders;

impl Dispatcher {
    /// Notes that a request is past its deadline.
    pub(super) fn expired(&self, method: Option<&str>) {
        self.counters.expired_requests.add();
        let meter = self.meter(self.methods.find(method));
        meter.counters.expired.add();
        let (service, method) = (self.service_name(), escaped(method));
        tracing::debug!(
            service,
            method,
            "a request had expired when it came, dropped"
        );
    }

    /// The reply to a request that is refused with this status.
    pub(super) fn refuse(
        &self,
        status: Status,
        method: Option<&str>,
        message_id: Option<&str>,
        trace: &TraceHeaders,
        arrived: Arrived,
    ) -> Reply {
        self.counters.malformed.add();
        let service = self.service_name();
        let found = self.methods.find(method);
        // Peers choose the names of unknown methods: a span has no such name.
        let name = || match found {
            Some(method) => self.descriptor().full_name(method),
            None => format!("{service}/{OTHER}").into(),
        };
        let message = MessageInfo {
            message_id: message_id.map(str::to_owned),
            trace: trace.clone(),
            redelivered: arrived.redelivered,
            attempt: 1,
            ..MessageInfo::default()
        };
        let span = MessageSpan::request(&self.hooks, name, &message);
        span.record_outcome(status.code().as_str());
        self.not_run(found, status.code(), arrived, span.telemetry());
        tracing::warn!(
            parent: span.tracing(),
            service,
            method = escaped(method),
            message_id = escaped(message_id),
            status = %Escaped(&status),
            "a request was refused"
        );
        Reply::failed(status)
    }

    /// Whether a request may be run: a redelivered one may have run before, and runs again only if its method is
    /// idempotent.
    ///
    /// The broker marks a request as redelivered if it was delivered before, to a server that died, lost its
    /// channel or gave the request back. It does not tell whether a handler had begun; a server that is shut down
    /// in order gives back no request that has not ([`HANDLES_RECEIVED`](crate::worker::Handler::HANDLES_RECEIVED)).
    pub(super) fn may_run(method: &MethodDescriptor, redelivered: bool) -> bool {
        !redelivered || method.is_idempotent()
    }

    /// The reply to a redelivered request that [must not run](Self::may_run) again.
    pub(super) fn not_run_again(
        &self,
        method: &'static MethodDescriptor,
        message_id: Option<&str>,
        arrived: Arrived,
    ) -> Reply {
        self.counters.not_run_again.add();
        self.not_run(Some(method), Code::Aborted, arrived, None);
        let (service, name) = (self.service_name(), method.name());
        let message_id = escaped(message_id);
        if method.is_oneway() {
            tracing::warn!(
                service,
                method = name,
                message_id,
                "a redelivered one-way request may have been executed and is not run again: its method is not idempotent"
            );
        } else {
            tracing::debug!(
                service,
                method = name,
                message_id,
                "a redelivered request is not run again"
            );
        }
        let rule = if method.is_streaming() {
            "opens a stream once"
        } else if method.is_at_most_once() {
            "runs at most once"
        } else {
            "is not idempotent"
        };
        let text = format!("delivered before, and perhaps executed: `{name}` {rule}");
        Reply::failed(Status::new(Code::Aborted, text))
    }

    /// Counts a request that is answered with a status and not run.
    fn not_run(
        &self,
        method: Option<&MethodDescriptor>,
        code: Code,
        arrived: Arrived,
        span: Option<&dyn TelemetrySpan>,
    ) {
        let metered = self.meter(method).start(arrived);
        metered.ended(HandlerOutcome::Status(code), span);
    }
}
