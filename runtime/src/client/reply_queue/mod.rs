//! The reply queue of a connection, the channel for requests beside it, and the calls that wait for their
//! replies.

mod current;
mod in_flight;
mod open_streams;
mod queue;
mod replies;
mod streams;
mod task;
mod upload_state;
mod uploads;

pub(super) use current::CurrentReplyQueue;
pub(super) use in_flight::{CallCompletion, CallMessage, ReceivedReply};
pub(super) use open_streams::StreamEnd;
pub(super) use queue::{PendingCall, ReplyQueue};
pub(super) use streams::{OpenedStream, StreamPeer};
pub(super) use uploads::UploadSink;
