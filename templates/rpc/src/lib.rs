//! The contract of the service, and its implementation.

use std::env;

use serde::{Deserialize, Serialize};

/// Greets people.
#[lepus::service(name = "{{project-name}}")]
pub trait Greeter {
    /// Greets somebody by name. `idempotent`: it may run twice, so a call is made again if its connection is
    /// lost. `strict`: arguments that a later version of this method has are refused, not ignored.
    #[rpc(timeout = "2s", idempotent, strict)]
    async fn greet(&self, name: String) -> Result<String, GreetError>;
}

/// Error of [`Greeter::greet`], which the caller receives as this type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum GreetError {
    /// There is nobody to greet.
    #[error("there is nobody to greet")]
    NoName,
    /// An error of a later version.
    #[error("an error that this version does not know")]
    #[serde(other)]
    Other,
}

/// The implementation.
#[derive(Debug, Default)]
pub struct GreeterService;

impl Greeter for GreeterService {
    async fn greet(&self, name: String) -> Result<String, GreetError> {
        if name.is_empty() {
            return Err(GreetError::NoName);
        }
        Ok(format!("Hello, {name}!"))
    }
}

/// The address of the broker: `AMQP_URL`, or a broker on this machine.
pub fn broker_uri() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned())
}

/// Logs to stderr: warnings, or what `RUST_LOG` selects.
pub fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
}
