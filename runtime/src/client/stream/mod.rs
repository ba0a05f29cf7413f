//! Calls of methods that return a stream, and the streams that they open.

mod call;
mod streaming;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub use streaming::Streaming;
