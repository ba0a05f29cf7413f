//! Calls of methods that return a stream, and the streams that they open.

mod call;
mod dynamic;
mod streaming;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub use dynamic::{DynamicStreamCall, DynamicStreaming};
pub use streaming::Streaming;
