//! Frames (AMQP 0-9-1, 2.3.5): frame boundaries in a byte stream, and the frames that are encoded and
//! decoded by hand. Sans I/O, and without lapin.

mod cursor;
pub(super) mod decode;
pub(super) mod encode;

pub(super) use cursor::{FrameChunk, FrameCursor};
pub(super) use encode::SettleMethod;
