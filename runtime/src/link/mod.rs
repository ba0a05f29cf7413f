//! AMQP connections and channels. The only folder that names lapin.
//!
//! A [`Session`] is one AMQP connection with a generation number. A [`Link`] keeps one session up: it
//! connects again after a loss. A [`Connection`] has two links, for publishing and for consuming.
//! Everything made on a session is void once the session is down; the users of a channel, an exclusive
//! queue or a consumer make it again on the next session.
//!
//! lapin maintains the AMQP connection itself (channel 0), Lepus owns all other channels.
//! `socket/mod.rs` explains how the two share a socket, `socket/channels/core.rs` is the state
//! machine of a channel.

mod builder;
mod channel;
mod close_gate;
mod connection;
mod convert;
mod dial;
mod frame;
mod io_thread;
mod lapin_runtime;
mod namespace;
mod sasl;
mod session;
mod settings;
mod socket;
mod state;
mod supervise;
mod uri;

pub use builder::ConnectionBuilder;
pub use channel::QueueCounts;
pub(crate) use channel::{
    AckRange, Channel, ConfirmChannel, Confirmation, ConsumeMode, Consumer, ConsumerEnd,
    DeliveryCallback, GetChannel, IdleCheck, bind, count, declare, delete, purge, unbind,
};
pub(crate) use close_gate::{CloseGate, CloseGuard};
pub use connection::Connection;
pub(crate) use connection::WeakConnection;
pub(crate) use namespace::Namespace;
pub(crate) use session::Session;
pub use settings::Io;
pub(crate) use socket::channels::{ChannelEvent, ChannelHandler, Delivery};
pub(crate) use socket::{BurstDetector, Flush, WriteOffset};
pub use state::ConnectionState;
pub(crate) use supervise::Link;
