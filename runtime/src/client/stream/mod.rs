//! Calls of methods that return or take a stream, and the streams that they open.

mod call;
mod opening;
mod streaming;
mod upload;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub use streaming::Streaming;
pub use upload::UploadCall;
