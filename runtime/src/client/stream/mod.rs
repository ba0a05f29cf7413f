//! Calls of methods that return a stream, and the streams that they open.

mod call;
mod local;
mod streaming;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub(super) use local::open_locally;
pub use streaming::Streaming;
