//! Streams of items between a producer and a reader: the loop that sends the items of a stream as credit allows, the
//! buffer of those that came, and its reader. They are the same in both directions, and know of no broker: the messages
//! are made in `client/` and `server/`.

mod attached;
mod inbox;
mod produce;
mod reader;
mod upload;

pub(crate) use attached::Attached;
pub(crate) use inbox::{Inbox, LocalSink};
pub(crate) use produce::{ItemSink, Produced, SinkClosed, items_message, produce};
pub(crate) use reader::{Reader, StreamPart};
pub(crate) use upload::{
    AcceptedUpload, ServedStream, UPLOAD_WINDOW, UploadControl, UploadInbox, upload_cancelled,
};
