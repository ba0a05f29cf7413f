//! A log line for each request.

use std::time::Duration;

use tokio::time::Instant;

use super::from_fn::{Middleware, Next, layers};
use crate::context::Context;
use crate::escape::escaped;
use crate::service::{BoxFuture, Reply, ReplyOutcome, Request};

/// A layer that logs each request when it has ended, at INFO and with the target `lepus::access`: service, method,
/// caller, outcome, duration, and the sizes of arguments and reply. `RUST_LOG=lepus::access=info` shows these lines.
///
/// The outcome is `value`, `own error`, the code of a status, `stopped` (at the deadline), `panicked`, `failed` (of
/// a client: without a reply), or `cancelled` if the request was dropped before its end.
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
    /// Logs all requests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

layers!(AccessLog);

impl Middleware for AccessLog {
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
        let mut line = LogLine {
            service: next.descriptor().name(),
            method: request.method_name(),
            context: request.context(),
            request_bytes: request.body().len(),
            started: Instant::now(),
            is_logged: false,
        };
        Box::pin(async move {
            let reply = next.run(request).await;
            line.log(outcome(&reply), reply.body().len());
            reply
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

/// The line of a request. If it is dropped before it is logged, the request was cancelled.
struct LogLine {
    service: &'static str,
    method: &'static str,
    context: Context,
    request_bytes: usize,
    started: Instant,
    is_logged: bool,
}

impl LogLine {
    fn log(&mut self, outcome: &str, reply_bytes: usize) {
        self.is_logged = true;
        let duration: Duration = self.started.elapsed();
        tracing::info!(
            target: "lepus::access",
            service = self.service,
            method = self.method,
            caller = escaped(self.context.app_id()),
            outcome,
            ?duration,
            request_bytes = self.request_bytes,
            reply_bytes,
            "request"
        );
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        if !self.is_logged {
            self.log("cancelled", 0);
        }
    }
}
