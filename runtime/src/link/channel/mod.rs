//! The channels of one connection: a sans-IO core for each, and the table that routes to them.

mod core;
#[cfg(test)]
pub(super) mod dice;
#[cfg(test)]
mod simulation;
mod table;

pub(crate) use core::Delivery;
#[cfg(test)]
pub(super) use core::Returned;
pub(super) use core::{Answer, Core, Event, Frame, Violation, closed};
pub(super) use table::{Channels, Endpoint, Handle, Reply, unexpected};
pub(crate) use table::{Listener, Word};
