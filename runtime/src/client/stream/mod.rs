//! Calls of methods that return or take a stream, and the streams that they open.

mod call;
mod dynamic;
mod opening;
mod streaming;
mod upload;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub use dynamic::{DynamicStreamCall, DynamicStreaming};
pub use streaming::Streaming;
pub use upload::UploadCall;
