//! Helpers of the examples: the address of the broker, the contract of the Fibonacci service, and the
//! error of `main`.

mod broker;
mod error;
mod fibonacci;

use std::env;

pub use broker::ExampleBroker;
pub use error::ExampleError;
pub use fibonacci::{Fibonacci, FibonacciClient, FibonacciServer, Iterative, TooLarge};

/// The snippets of the README, compiled and run as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The snippets of the book, compiled and run as doctests: a type for each chapter with snippets.
#[cfg(doctest)]
pub mod book {
    #[doc = include_str!("../../book/src/start.md")]
    pub struct Start;
    #[doc = include_str!("../../book/src/rpc.md")]
    pub struct Rpc;
    #[doc = include_str!("../../book/src/streams.md")]
    pub struct Streams;
    #[doc = include_str!("../../book/src/jobs.md")]
    pub struct Jobs;
    #[doc = include_str!("../../book/src/events.md")]
    pub struct Events;
    #[doc = include_str!("../../book/src/errors.md")]
    pub struct Errors;
    #[doc = include_str!("../../book/src/context.md")]
    pub struct Context;
    #[doc = include_str!("../../book/src/testing.md")]
    pub struct Testing;
    #[doc = include_str!("../../book/src/observability.md")]
    pub struct Observability;
    #[doc = include_str!("../../book/src/contracts.md")]
    pub struct Contracts;
    #[doc = include_str!("../../book/src/operating.md")]
    pub struct Operating;
    #[doc = include_str!("../../book/src/performance.md")]
    pub struct Performance;
    #[doc = include_str!("../../book/src/migrating.md")]
    pub struct Migrating;
}

/// The address of the broker: `AMQP_URL`, or a broker on this machine.
pub fn shared_uri() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned())
}

/// Logs to stderr: warnings of the library, or the events that `RUST_LOG` selects.
pub fn logs() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// The program's arguments as one text. Without arguments, the given text.
pub fn arguments_or(text: &str) -> String {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        text.to_owned()
    } else {
        arguments.join(" ")
    }
}

/// The program's first argument, and the others as one text. If one is missing, the given text.
pub fn first_and_rest(first: &str, rest: &str) -> (String, String) {
    let mut arguments = env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| first.to_owned());
    let words: Vec<String> = arguments.collect();
    let rest = if words.is_empty() {
        rest.to_owned()
    } else {
        words.join(" ")
    };
    (first, rest)
}

/// The program's arguments. Without any, the program prints its usage and exits with code 1.
pub fn required_arguments(expected: &str) -> Vec<String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        usage(expected);
    }
    arguments
}

/// Prints the usage of the program, and exits with code 1.
pub fn usage(expected: &str) -> ! {
    let program = env::args().next().unwrap_or_default();
    eprintln!("Usage: {program} {expected}");
    std::process::exit(1)
}

/// Splits `name=value`. `None` if the name is missing.
pub fn pair(argument: &str) -> Option<(&str, &str)> {
    argument
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
}

/// Joins pairs as `name=value,name=value`, sorted by name.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut texts: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    texts.sort();
    texts.join(",")
}
