//! The broadcast mode: a queue for each subscription, read as a stream or by a handler.

mod handler;
mod layered;

pub(super) use handler::{BroadcastHandler, BufferHandler, consume_mode};
pub(super) use layered::LayeredBroadcastHandler;
