//! The broker of the examples that run in one process.

use std::env;

use lepus_broker::{Broker, StartError};

/// The broker that `AMQP_URL` names, or an embedded one.
pub struct ExampleBroker {
    /// The URI of the broker.
    pub uri: String,
    _embedded: Option<Broker>,
}

impl ExampleBroker {
    /// Selects or starts the broker, and prints which one it is.
    pub async fn start() -> Result<Self, StartError> {
        if let Ok(uri) = env::var("AMQP_URL") {
            println!("broker: the one AMQP_URL names");
            return Ok(Self {
                uri,
                _embedded: None,
            });
        }
        let broker = Broker::start().await?;
        println!("broker: embedded in this process (set AMQP_URL to use RabbitMQ)");
        Ok(Self {
            uri: broker.uri(),
            _embedded: Some(broker),
        })
    }
}
