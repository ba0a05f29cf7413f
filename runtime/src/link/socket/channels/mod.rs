//! Channels of one AMQP connection: the sans-IO state machine of a channel (`core.rs`), and the table of
//! all open ones by number (`table.rs`).

mod core;
#[cfg(test)]
pub(in crate::link) mod rng;
#[cfg(test)]
mod simulation;
mod table;

pub(crate) use core::Delivery;
#[cfg(test)]
pub(in crate::link) use core::Returned;
pub(in crate::link) use core::{Core, CoreEvent, Frame, MethodReply, Violation, channel_closed};
pub(in crate::link) use table::{
    ChannelEntry, ChannelHandle, Channels, MethodReplySender, unexpected_reply,
};
pub(crate) use table::{ChannelEvent, ChannelHandler};
