//! Streams of items between a producer and a reader: the loop that sends the items of a stream as credit allows, and
//! the buffer of those that came. Neither knows of a broker: the messages are made in `client/` and `server/`.

mod attached;
mod inbox;
mod produce;

pub(crate) use attached::Attached;
pub(crate) use inbox::{Inbox, InboxNext, LocalSink};
pub(crate) use produce::{ItemSink, Produced, SinkClosed, produce};
