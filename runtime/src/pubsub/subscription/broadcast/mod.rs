//! The broadcast mode: a queue for each subscription, read as a stream or by a handler.

mod handler;
mod stream;

pub(super) use handler::{BroadcastForEach, BufferHandler, buffer};
pub use stream::Subscription;
