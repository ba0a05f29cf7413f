//! What the examples share: the broker they talk to, and the contract of the Fibonacci service.

mod try_out;

use std::env;

pub use try_out::TryOut;

/// The tutorial's RPC server, as a contract: the queue `rpc_queue`, the number itself as the body.
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
    async fn fib(&self, n: u64) -> u64;
}

/// Computes Fibonacci numbers by iteration.
pub struct Iterative;

impl Fibonacci for Iterative {
    async fn fib(&self, n: u64) -> u64 {
        let (result, _) = (0..n).fold((0, 1), |(a, b): (u64, u64), _| (b, a.saturating_add(b)));
        println!(" [.] fib({n})");
        result
    }
}

/// Where programs in two terminals meet: `AMQP_URL`, or a broker on this machine.
pub fn shared_uri() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned())
}

/// Shows warnings of the library on stderr, or what `RUST_LOG` asks for.
pub fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,lapin=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// The program's arguments as one text, or this one.
pub fn arguments_or(text: &str) -> String {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        text.to_owned()
    } else {
        arguments.join(" ")
    }
}
