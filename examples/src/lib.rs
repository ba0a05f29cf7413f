//! What the examples share: the broker they talk to, the contract of the Fibonacci service, and
//! how they tell what went wrong.

mod fibonacci;
mod trouble;
mod try_out;

use std::env;

pub use fibonacci::{Fibonacci, FibonacciClient, FibonacciServer, Iterative, TooLarge};
pub use trouble::Trouble;
pub use try_out::TryOut;

/// The snippets of the README, compiled and run as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

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
