//! Discovery of running services: who serves, how well, and since when.
//!
//! A connection that serves something (a [`Server`](crate::Server), a pool of workers, the group of a
//! subscription) is an *instance*. It has an id, which stays the same over reconnects, and answers questions when
//! somebody asks; it sends nothing by itself. [`Discovery`] asks all instances at once:
//!
//! ```no_run
//! # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
//! use lepus::Discovery;
//!
//! let discovery = Discovery::new(&connection);
//! for service in discovery.services().await? {
//!     println!("{} {} on {}", service.name, service.version, service.id);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The answers are JSON, with the names that NATS services use. docs/protocol.md describes them, so that programs in
//! other languages can ask, and can be found.
//!
//! Instances are found in one [namespace](crate::amqp::ConnectionBuilder::namespace) of one virtual host. An
//! instance needs the permissions to configure, write to and read from the exchange `lepus.control` and the queues
//! `lepus.control.…`. Without them it logs one warning, is not found, and is not told of calls that were dropped; all
//! else works.
//! [`ConnectionBuilder::control`](crate::amqp::ConnectionBuilder::control) turns it off.
//!
//! [`Connection::health`](crate::Connection::health) is the health of this process itself, for the probes of an
//! orchestrator.

mod answer;
mod answers;
mod declared;
mod discovery;
mod health;
mod instance;
mod queue;
mod refusal;
mod respond;

pub use answer::{
    ConsumerReport, EndpointDetails, EndpointFigures, EndpointInfo, EndpointStats, HealthStatus,
    Pong, ServedKind, ServiceHealth, ServiceInfo, ServiceStats,
};
pub use answers::{Answer, Answers};
pub use declared::{
    DeclaredArgument, DeclaredBinding, DeclaredExchange, DeclaredQueue, DeclaredTopology,
};
pub use discovery::{Discovery, Question};
pub use health::{Health, ServedStatus};
pub(crate) use instance::Served;
pub(crate) use refusal::ControlRefusal;

pub use crate::worker::{ConsumerState, ConsumerStatus, RunningState, RunningWatch};

use std::sync::Arc;

use crate::error::Error;
use crate::link::Connection;
use crate::worker::{Kept, Running};
use instance::Instance;
use queue::ControlQueue;

/// Adds what these consumers serve to what the connection serves, until they have stopped.
///
/// # Errors
/// None in practice.
pub(crate) fn announce(
    connection: &Connection,
    running: &mut Running,
    served: Served,
) -> Result<(), Error> {
    let instance = Instance::of(connection);
    let number = instance.add(served);
    running.keep(Announced {
        instance: Arc::clone(&instance),
        number,
    });
    if connection.has_control() {
        ControlQueue::start(connection, &instance)?;
    }
    Ok(())
}

/// Something that is served as long as this exists.
#[derive(Debug)]
struct Announced {
    instance: Arc<Instance>,
    number: u64,
}

impl Kept for Announced {}

impl Drop for Announced {
    fn drop(&mut self) {
        self.instance.remove(self.number);
    }
}
