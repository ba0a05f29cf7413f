//! The broker as Lepus sees it. The only folder that names lapin.
//!
//! A [`session::Session`] is one AMQP connection with a generation number; a [`supervise::Link`]
//! keeps one up. Everything made on a session is void when it goes down: whoever needs a channel, a
//! queue or a consumer makes it anew on the next one.
//!
//! lapin keeps the connection itself (channel 0); the channels are ours. `socket/mod.rs` explains
//! how the two share a socket, `channel/core.rs` is the state machine of a channel.

mod channel;
mod confirm;
mod connection;
mod consume;
mod convert;
mod declare;
mod dial;
mod frame;
mod kit;
mod lane;
mod namespace;
mod poll;
mod progress;
mod said;
mod sasl;
mod session;
mod settings;
mod socket;
mod state;
mod supervise;
mod uri;

pub(crate) use channel::{Delivery, Listener, Word};
pub(crate) use confirm::{Confirmed, Fate};
pub use connection::{Connection, ConnectionBuilder};
pub(crate) use consume::{Deliveries, Ended, Mode, Sink};
pub(crate) use declare::{QueueCounts, bind, count, declare, delete, purge, unbind};
pub(crate) use lane::{Extent, Lane};
pub(crate) use namespace::Namespace;
pub(crate) use poll::Polling;
pub(crate) use session::Session;
pub use settings::Io;
pub(crate) use socket::{Leave, Mark, Rush};
pub use state::ConnectionState;
pub(crate) use supervise::Link;
