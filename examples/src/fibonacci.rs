//! The Fibonacci service: its contract, and an implementation.

use serde::{Deserialize, Serialize};

/// The RPC server of the RabbitMQ tutorial, as a contract: the queue `rpc_queue`, and the number
/// itself as the body.
///
/// `durable = false` because the tutorial declares its queue so.
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

/// The number asked for does not fit: fib(93) is the last one of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("fib({n}) has more than 64 bits")]
pub struct TooLarge {
    /// What was asked for.
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
