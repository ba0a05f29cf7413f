//! The Fibonacci service: its contract, and an implementation.

use serde::{Deserialize, Serialize};

/// The contract of the RPC server in the RabbitMQ tutorial: requests on the queue `rpc_queue`, with
/// the number as the body.
///
/// `durable = false`, as the tutorial declares the queue.
#[lepus::service(
    name = "fibonacci",
    queue = "rpc_queue",
    codec = "json",
    durable = false
)]
pub trait Fibonacci {
    /// The n-th Fibonacci number.
    #[rpc(default, params = "bare", idempotent)]
    async fn fib(&self, n: u64) -> Result<u64, TooLarge>;
}

/// Error of a number with more than 64 bits. The last one that fits is fib(93).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("fib({n}) has more than 64 bits")]
pub struct TooLarge {
    /// The argument of the call.
    pub n: u64,
}

/// Computes Fibonacci numbers by iteration, and prints each call.
pub struct Iterative;

impl Fibonacci for Iterative {
    async fn fib(&self, n: u64) -> Result<u64, TooLarge> {
        println!(" [.] fib({n})");
        let (mut this, mut next) = (0u64, Some(1u64));
        for _ in 0..n {
            let Some(number) = next else {
                return Err(TooLarge { n });
            };
            (this, next) = (number, this.checked_add(number));
        }
        Ok(this)
    }
}
