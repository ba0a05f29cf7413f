//! Calls of methods that return a stream, the streams that they open, and streams that are opened again after a loss.

mod call;
mod resume;
mod streaming;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub use resume::{ResumedStream, resume};
pub use streaming::Streaming;
