//! A shorter deadline for requests.

use std::time::Duration;

use super::from_fn::{Middleware, Next, layers};
use crate::service::{BoxFuture, Reply, Request};

/// A layer that gives each request a deadline no later than this long from now.
///
/// In a server, the handler is stopped then, the reply is `deadline_exceeded`, and calls that the handler makes
/// inherit the deadline. In a client, the call ends then.
///
/// ```
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn fib(&self, _: u64) -> u64 {
/// #         std::future::pending().await
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
///
/// use lepus::{middleware::Timeout, rpc::Client};
///
/// let timeout = Timeout::new(Duration::from_millis(20));
/// let service = CalculatorServer::new(CalculatorService).layer(timeout);
/// let calculator = CalculatorClient::from(Client::local(service));
/// // The handler of this service never ends.
/// assert!(calculator.fib(30).await.is_err_and(|error| error.is_timeout()));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Timeout(Duration);

impl Timeout {
    /// A deadline this long after the request has reached the layer.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self(limit)
    }
}

layers!(Timeout);

impl Middleware for Timeout {
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
        let context = request.context().with_timeout(self.0);
        next.run(request.with_context(context))
    }
}
