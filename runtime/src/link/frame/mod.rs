//! Frames (AMQP 0-9-1, 2.3.5): bytes to what a connection and its channels need, and back. Without a
//! socket, and without lapin.

mod cursor;
pub(super) mod decode;
pub(super) mod encode;

pub(super) use cursor::{FrameChunk, FrameCursor};
pub(super) use encode::SettleMethod;
