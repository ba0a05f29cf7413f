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

/// The program's first argument, and the others as one text; or these.
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

/// The program's arguments; without any it prints its usage and exits with 1.
pub fn required_arguments(expected: &str) -> Vec<String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        usage(expected);
    }
    arguments
}

/// Prints how the program is called, and exits with 1.
pub fn usage(expected: &str) -> ! {
    let program = env::args().next().unwrap_or_default();
    eprintln!("Usage: {program} {expected}");
    std::process::exit(1)
}

/// `name=value` as the two.
pub fn pair(argument: &str) -> Option<(&str, &str)> {
    argument
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
}

/// Pairs as `name=value,name=value`, in the order of their names.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut texts: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    texts.sort();
    texts.join(",")
}
