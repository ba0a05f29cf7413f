//! An HTTP gateway in axum and two services behind it. Request ids, tenants, tokens and the access log are layers, each
//! in one file of `layers/`; no handler and no call knows of them.
//!
//! ```text
//! HTTP ──► gateway ──► orders ──► stock
//!                        └──────► mails (jobs)
//! ```

pub mod contract;
pub mod http;
pub mod layers;
pub mod mails;
pub mod orders;
pub mod stock;

use lepus::{Connection, Error, Running};

/// A connection of one of the programs. The named headers flow on with its calls, jobs and events.
pub async fn connect(uri: &str, name: &str) -> Result<Connection, Error> {
    let builder = Connection::builder(uri).name(name);
    builder.propagate(layers::PROPAGATED).open().await
}

/// A program of the example. Here, all run in one process.
pub struct Program {
    connection: Connection,
    running: Vec<Running>,
}

impl Program {
    /// A program that serves requests or works on jobs.
    #[must_use]
    pub fn new(connection: Connection, running: Vec<Running>) -> Self {
        Self {
            connection,
            running,
        }
    }

    /// Finishes what is being handled, and closes the connection.
    ///
    /// # Errors
    /// The connection was lost and not opened again.
    pub async fn stop(self) -> Result<(), Error> {
        for running in self.running {
            running.stop().await?;
        }
        self.connection.close().await;
        Ok(())
    }
}
