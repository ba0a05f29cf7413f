//! Calls of methods that return or take a stream, the streams that they open, and streams that are opened again after a
//! loss.

mod call;
mod dynamic;
mod opening;
mod resume;
mod streaming;
mod upload;

pub use call::{DEFAULT_WINDOW, StreamCall};
pub use dynamic::{DynamicStreamCall, DynamicStreaming};
pub use resume::{ResumedStream, resume};
pub use streaming::Streaming;
pub use upload::UploadCall;
