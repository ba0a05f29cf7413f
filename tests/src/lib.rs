//! The ground of the suites: brokers to test against, faults to put between, and
//! peers to talk to.
//!
//! A conformance test is an `async fn(Env)`; [`conformance!`] runs it on the
//! embedded broker and on RabbitMQ. `tests/run` provides RabbitMQ and says at the
//! end what was covered.

pub mod chaos_events;
pub mod chaos_peers;
pub mod cluster;
pub mod deadline;
pub mod env;
pub mod error;
pub mod eventually;
pub mod frames;
pub mod gate;
pub mod greeting;
pub mod jobs;
pub mod log;
pub mod naive;
pub mod node;
pub mod numbers;
pub mod peer;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod socket;
pub mod source;

pub use env::{Env, Feature};
pub use eventually::eventually;
pub use gate::Gate;
