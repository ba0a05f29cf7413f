//! A log line for each request, job, event, push and publish.

use std::time::Duration;

use tokio::time::Instant;

use super::from_fn::{Middleware, layers};
use super::message::Message;
use super::operation::Next;
use super::publication::Publication;
use crate::error::Error;
use crate::escape::{Escaped, escaped};
use crate::observe::publish_outcome;
use crate::policy::settle::Disposition;
use crate::policy::verdict::{Verdict, VerdictOutcome};
use crate::service::{BoxFuture, Reply, ReplyOutcome, Request};

/// A layer that logs each operation when it has ended, at INFO and with the target `lepus::access`.
/// `RUST_LOG=lepus::access=info` shows these lines.
///
/// | operation | facts | outcome |
/// |---|---|---|
/// | request | service, method, caller, duration, sizes of arguments and reply | `value`, `own error`, the code of a status, `stopped` (at the deadline), `panicked`, `failed` (of a client: without a reply) |
/// | message | source, type, key, caller, attempt, duration, size | `done`, `failed`, `unknown task`, `requeued`, `stopped`, `panicked`; and the disposition: `acknowledged`, `requeued`, `retried`, `dead-lettered` |
/// | publish | destination, type, key, duration, size | `ok`, or the [gRPC code](Error::grpc_code) of the error |
///
/// The outcome is `cancelled` if the operation was dropped before its end.
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
/// use lepus::middleware::AccessLog;
///
/// let calculator = CalculatorServer::new(CalculatorService).layer(AccessLog::new());
/// # let _ = calculator;
/// ```
#[derive(Clone, Debug, Default)]
pub struct AccessLog(());

impl AccessLog {
    /// Logs all operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

layers!(AccessLog);

impl Middleware for AccessLog {
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
        let (service, method) = (next.descriptor().name(), request.method_name());
        let (context, request_bytes) = (request.context(), request.body().len());
        let line = LogLine::new(move |end: End<'_>| {
            tracing::info!(
                target: "lepus::access",
                service,
                method,
                caller = escaped(context.app_id()),
                outcome = end.outcome,
                duration = ?end.duration,
                request_bytes,
                reply_bytes = end.bytes,
                "request"
            );
        });
        Box::pin(async move {
            let reply = next.run(request).await;
            line.log(outcome(&reply), None, reply.body().len());
            reply
        })
    }
}

impl Middleware<Message> for AccessLog {
    fn handle(&self, message: Message, next: Next<Message>) -> BoxFuture<Verdict> {
        let (seen, attempts) = (message.clone(), message.attempts());
        let line = LogLine::new(move |end: End<'_>| {
            tracing::info!(
                target: "lepus::access",
                source = %Escaped(seen.source()),
                "type" = escaped(seen.message_type()),
                key = %Escaped(seen.key()),
                caller = escaped(seen.app_id()),
                attempt = attempts.number(),
                outcome = end.outcome,
                disposition = end.disposition,
                duration = ?end.duration,
                bytes = seen.body().len(),
                "message"
            );
        });
        Box::pin(async move {
            let verdict = next.run(message).await;
            let disposition = match attempts.disposition(&verdict) {
                Disposition::Acknowledged => "acknowledged",
                Disposition::Requeued => "requeued",
                Disposition::Retried => "retried",
                Disposition::DeadLettered { .. } => "dead-lettered",
            };
            line.log(verdict_outcome(&verdict), Some(disposition), 0);
            verdict
        })
    }
}

impl Middleware<Publication> for AccessLog {
    fn handle(
        &self,
        publication: Publication,
        next: Next<Publication>,
    ) -> BoxFuture<Result<(), Error>> {
        let seen = publication.clone();
        let line = LogLine::new(move |end: End<'_>| {
            tracing::info!(
                target: "lepus::access",
                destination = %Escaped(seen.destination()),
                "type" = escaped(seen.message_type()),
                key = %Escaped(seen.key()),
                outcome = end.outcome,
                duration = ?end.duration,
                bytes = seen.body().len(),
                "publish"
            );
        });
        Box::pin(async move {
            let result = next.run(publication).await;
            line.log(publish_outcome(&result).as_str(), None, 0);
            result
        })
    }
}

fn outcome(reply: &Reply) -> &'static str {
    match reply.outcome() {
        ReplyOutcome::Value => "value",
        ReplyOutcome::OwnError => "own error",
        ReplyOutcome::Status(status) => status.code().as_str(),
        ReplyOutcome::TimedOut => "stopped",
        ReplyOutcome::Panicked(_) => "panicked",
        ReplyOutcome::Failed(_) => "failed",
    }
}

fn verdict_outcome(verdict: &Verdict) -> &'static str {
    match verdict.outcome() {
        VerdictOutcome::Done => "done",
        VerdictOutcome::Failed { .. } => "failed",
        VerdictOutcome::UnknownTask { .. } => "unknown task",
        VerdictOutcome::Requeued => "requeued",
        VerdictOutcome::TimedOut => "stopped",
        VerdictOutcome::Panicked(_) => "panicked",
    }
}

/// The end of an operation, for its line.
struct End<'a> {
    outcome: &'static str,
    disposition: Option<&'a str>,
    duration: Duration,
    /// The size of the reply, if there is one.
    bytes: usize,
}

/// The line of an operation. If it is dropped before it is logged, the operation was cancelled.
struct LogLine<W: Fn(End<'_>)> {
    write: W,
    started: Instant,
    is_logged: bool,
}

impl<W: Fn(End<'_>)> LogLine<W> {
    fn new(write: W) -> Self {
        Self {
            write,
            started: Instant::now(),
            is_logged: false,
        }
    }

    fn log(mut self, outcome: &'static str, disposition: Option<&str>, bytes: usize) {
        self.is_logged = true;
        self.write(outcome, disposition, bytes);
    }

    fn write(&self, outcome: &'static str, disposition: Option<&str>, bytes: usize) {
        (self.write)(End {
            outcome,
            disposition,
            duration: self.started.elapsed(),
            bytes,
        });
    }
}

impl<W: Fn(End<'_>)> Drop for LogLine<W> {
    fn drop(&mut self) {
        if !self.is_logged {
            self.write("cancelled", None, 0);
        }
    }
}
