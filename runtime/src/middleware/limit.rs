//! Limits of the requests that run at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::from_fn::{Middleware, layers};
use super::operation::{Next, Operation};
use crate::service::{BoxFuture, Reply, Request};
use crate::wire::status::{Code, Status};

/// A layer with at most so many operations at once: requests, jobs, events, pushes and publishes. Others wait for
/// their turn, at most until their deadlines.
///
/// Clones, and everything that one layer is put around, share the limit: several services of a server, for
/// instance, that use one database.
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
/// use lepus::middleware::ConcurrencyLimit;
///
/// let limit = ConcurrencyLimit::new(4);
/// let calculator = CalculatorServer::new(CalculatorService).concurrency(100).layer(limit.clone());
/// let second = CalculatorServer::new(CalculatorService).concurrency(100).layer(limit);
/// # let _ = (calculator, second);
/// ```
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit(Arc<Semaphore>);

impl ConcurrencyLimit {
    /// At most this many operations at once; 0 counts as 1.
    #[must_use]
    pub fn new(operations: usize) -> Self {
        Self(semaphore(operations))
    }
}

/// A layer of services and clients with at most so many requests at once. Others are answered `resource_exhausted` immediately, so that
/// their callers need not wait, and can turn to something else.
///
/// Clones, and all services that one layer is put around, share the limit. A server takes no more requests from
/// its queue than its `concurrency`, so the limit is of use only below that. There is none for jobs and events:
/// nobody waits for them, and the broker keeps them.
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
/// use lepus::middleware::LoadShed;
///
/// // Of 64 requests at once, 48 are told to come back later.
/// let calculator = CalculatorServer::new(CalculatorService).concurrency(64).layer(LoadShed::new(16));
/// # let _ = calculator;
/// ```
#[derive(Clone, Debug)]
pub struct LoadShed(Arc<Semaphore>);

impl LoadShed {
    /// At most this many requests at once; 0 counts as 1.
    #[must_use]
    pub fn new(requests: usize) -> Self {
        Self(semaphore(requests))
    }
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)))
}

layers!(ConcurrencyLimit, LoadShed);

impl<I: Operation> Middleware<I> for ConcurrencyLimit {
    fn handle(&self, operation: I, next: Next<I>) -> BoxFuture<I::Output> {
        let semaphore = Arc::clone(&self.0);
        Box::pin(async move {
            // The semaphore is never closed.
            let _permit = semaphore.acquire_owned().await;
            next.run(operation).await
        })
    }
}

impl Middleware for LoadShed {
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        Box::pin(async move {
            match permit {
                Ok(_permit) => next.run(request).await,
                Err(_) => {
                    let service = next.descriptor().name();
                    let text = format!("`{service}` has too many requests at once");
                    Status::new(Code::ResourceExhausted, text).into()
                }
            }
        })
    }
}
