//! Frames (AMQP 0-9-1, 2.3.5): frame boundaries in a byte stream, and the frames that are encoded and
//! decoded by hand. Sans I/O, and without lapin.

mod cursor;
pub(super) mod decode;
pub(super) mod encode;

pub(super) use cursor::{FrameChunk, FrameCursor};
pub(super) use encode::SettleMethod;

/// RabbitMQ's default frame_max, in bytes. It is the default of a connection too, and the limit of frames
/// before the limits are negotiated: RabbitMQ's first frames have a few hundred bytes.
pub(super) const DEFAULT_FRAME_MAX: u32 = 128 * 1024;
