//! RPC clients. A generated client makes a [`Call`], which becomes a [`CallRequest`](request::CallRequest),
//! is sent by its transport, and waits for a reply on the connection's reply queue.

mod broker;
mod builder;
mod call;
mod cancel;
mod coalesce;
mod correlation;
mod dynamic;
mod handle;
mod layered;
mod local;
mod local_stream;
mod options;
mod presence;
mod reply_queue;
mod request;
mod stream;
mod transport;

pub use builder::ClientBuilder;
pub use call::{Call, PendingReply};
pub use dynamic::{DynamicCall, DynamicClient, DynamicReply};
pub use handle::{Client, DEFAULT_TIMEOUT};
pub use stream::{
    DEFAULT_WINDOW, DynamicStreamCall, DynamicStreaming, ResumedStream, StreamCall, Streaming,
    UploadCall, resume,
};
