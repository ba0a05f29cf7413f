//! A shorter deadline.

use std::time::Duration;

use super::from_fn::{Middleware, layers};
use super::operation::{Next, Operation};
use crate::service::BoxFuture;

/// A layer that gives each operation a deadline no later than this long from now.
///
/// In a server, the handler is stopped then, the reply is `deadline_exceeded`, and calls that the handler makes
/// inherit the deadline. In a client, the call ends then. A handler of jobs or events is stopped then as well, which is
/// a failure; a push or a publish ends.
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
    /// A deadline this long after the operation has reached the layer.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self(limit)
    }
}

layers!(Timeout);

impl<I: Operation> Middleware<I> for Timeout {
    fn handle(&self, operation: I, next: Next<I>) -> BoxFuture<I::Output> {
        next.run(operation.within(self.0))
    }
}
