//! The broker of an example that runs in one process.

use std::env;

use lepus_broker::{Broker, StartError};

/// A broker to try things on: the one `AMQP_URL` names, or one inside this process.
pub struct TryOut {
    /// Where it listens.
    pub uri: String,
    _embedded: Option<Broker>,
}

impl TryOut {
    /// Finds or starts the broker, and says which.
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
