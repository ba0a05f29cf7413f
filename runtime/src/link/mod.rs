//! The broker as Lepus sees it. The only folder that names lapin.
//!
//! A [`session::Session`] is one AMQP connection with a generation number; a [`supervise::Link`]
//! keeps one up. Everything made on a session is void when it goes down: whoever needs a channel, a
//! queue or a consumer makes it anew on the next one.
//!
//! lapin keeps the connection itself (channel 0); the channels are ours. `socket/mod.rs` explains
//! how the two share a socket, `channel/core.rs` is the state machine of a channel.

mod channel;
mod connection;
mod convert;
mod dial;
mod frame;
mod kit;
mod namespace;
mod sasl;
mod session;
mod settings;
mod socket;
mod state;
mod supervise;
mod uri;

pub(crate) use channel::{
    AckRange, Channel, ChannelEvent, ChannelHandler, ConfirmChannel, Confirmation, Consumer,
    Delivery, Ended, GetChannel, Mode, QueueCounts, Sink, bind, count, declare, delete, purge,
    unbind,
};
pub use connection::{Connection, ConnectionBuilder};
pub(crate) use namespace::Namespace;
pub(crate) use session::Session;
pub use settings::Io;
pub(crate) use socket::{BurstDetector, Flush, WriteOffset};
pub use state::ConnectionState;
pub(crate) use supervise::Link;
