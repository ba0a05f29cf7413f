//! The streams that are open on a reply queue: the checks of their messages, and their ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use tokio::sync::Notify;

use super::in_flight::ReceivedReply;
use super::upload_state::UploadState;
use crate::error::Error;
use crate::policy::stream::StreamFault;
use crate::stats::Counters;
use crate::stream::Inbox;
use crate::sync::lock;
use crate::wire::batch::{Items, decode_credit};
use crate::wire::envelope::{ReplyStatus, StreamMessage, StreamPosition};
use crate::wire::message::IncomingMessage;

/// The end of a stream.
#[derive(Debug)]
pub(in crate::client) enum StreamEnd {
    /// The server's reply, or its status.
    Reply(ReceivedReply),
    /// Nothing more can come.
    Lost(Error),
    /// The server has broken the rules of streams.
    Fault(StreamFault),
}

/// A stream that is open on a reply queue.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) inbox: Arc<Inbox<StreamEnd>>,
    /// The execution that its messages belong to.
    pub(super) run: String,
    /// The server's queue for this connection's messages.
    pub(super) server_queue: String,
    /// Whether something was sent to the server since the last probe was due.
    pub(super) is_active: AtomicBool,
    /// The items that are sent to the server, if it takes some.
    pub(super) upload: Mutex<UploadState>,
}

impl OpenStream {
    /// Receives a message of the stream.
    pub(super) fn received(
        &self,
        kind: StreamMessage,
        position: &StreamPosition,
        message: IncomingMessage,
    ) -> Result<(), StreamFault> {
        if position.run != self.run {
            return Err(StreamFault::ForeignRun);
        }
        let number = position.number;
        // The channel leaves out a body that is over the limit. The server knows the same limit, unless it was set
        // on one side only.
        let is_whole = message.body.len() == message.size as usize;
        let items = match kind {
            StreamMessage::Item | StreamMessage::Items if !is_whole => {
                return Err(StreamFault::Malformed);
            }
            StreamMessage::Item => Items::one(message.body),
            StreamMessage::Items => {
                Items::several(message.body).map_err(|_| StreamFault::Malformed)?
            }
            StreamMessage::Open => {
                self.inbox.open();
                // None if the server takes no items.
                if let Some(total) = decode_credit(&message.body) {
                    self.granted(total);
                }
                return self.inbox.check(number);
            }
            StreamMessage::Credit => {
                self.granted(decode_credit(&message.body).ok_or(StreamFault::Malformed)?);
                return self.inbox.check(number);
            }
            StreamMessage::Stop => {
                self.close_upload();
                return self.inbox.check(number);
            }
            StreamMessage::Probe => return self.inbox.check(number),
            // For a server.
            StreamMessage::End => return Err(StreamFault::Malformed),
        };
        self.inbox.push(number, items)
    }

    /// The server allows so many items in total.
    fn granted(&self, total: u64) {
        let sender = lock(&self.upload).grant(total);
        sender.into_iter().for_each(Waker::wake);
    }

    /// Nobody reads the items that are sent to the server any more.
    pub(super) fn close_upload(&self) {
        let sender = lock(&self.upload).close();
        sender.into_iter().for_each(Waker::wake);
    }

    /// Ends the stream in both directions.
    pub(super) fn end(&self, end: StreamEnd) {
        self.inbox.end(end);
        self.close_upload();
    }

    /// Receives the reply that ends the stream. `message_id` has the number of items before it.
    pub(super) fn reply_received(&self, message_id: Option<&str>, reply: ReceivedReply) {
        // A status is an end wherever it stands, and it may be of a server that has not run the stream.
        let is_complete = matches!(reply.reply.status, ReplyStatus::Failed(_));
        let checked = match message_id.and_then(StreamPosition::parse) {
            _ if is_complete => Ok(()),
            None => Err(StreamFault::Malformed),
            Some(position) if position.run != self.run => Err(StreamFault::ForeignRun),
            Some(position) => self.inbox.check(position.number),
        };
        self.end(match checked {
            Ok(()) => StreamEnd::Reply(reply),
            Err(fault) => StreamEnd::Fault(fault),
        });
    }
}

/// The streams that are open on one reply queue, by the ids of their calls.
#[derive(Debug)]
pub(super) struct OpenStreams {
    /// `None` once nothing can come any more.
    streams: Mutex<Option<HashMap<u64, Arc<OpenStream>>>>,
    /// Their number, so that replies to calls need no lock where there are none.
    count: AtomicUsize,
    /// Notified when there is one.
    pub(super) opened: Notify,
    counters: Arc<Counters>,
}

impl OpenStreams {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            streams: Mutex::new(Some(HashMap::new())),
            count: AtomicUsize::new(0),
            opened: Notify::new(),
            counters,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Adds a stream. `false` if nothing can come any more.
    pub(super) fn insert(&self, id: u64, stream: &Arc<OpenStream>) -> bool {
        let mut streams = lock(&self.streams);
        let Some(streams) = streams.as_mut() else {
            return false;
        };
        streams.insert(id, Arc::clone(stream));
        self.count.store(streams.len(), Ordering::Release);
        self.counters.open_streams.add();
        self.opened.notify_one();
        true
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<OpenStream>> {
        if self.is_empty() {
            return None;
        }
        lock(&self.streams).as_ref()?.get(&id).cloned()
    }

    pub(super) fn remove(&self, id: u64) -> Option<Arc<OpenStream>> {
        if self.is_empty() {
            return None;
        }
        let mut streams = lock(&self.streams);
        let streams = streams.as_mut()?;
        let removed = streams.remove(&id)?;
        self.count.store(streams.len(), Ordering::Release);
        if streams.is_empty() {
            streams.shrink_to_fit();
        }
        self.counters.open_streams.remove();
        Some(removed)
    }

    pub(super) fn all(&self) -> Vec<(u64, Arc<OpenStream>)> {
        let streams = lock(&self.streams);
        let streams = streams.iter().flatten();
        streams
            .map(|(id, stream)| (*id, Arc::clone(stream)))
            .collect()
    }

    /// Ends all streams. None can be opened after this.
    pub(super) fn fail_all(&self, reason: &Error) {
        let streams = lock(&self.streams).take();
        self.count.store(0, Ordering::Release);
        for stream in streams.into_iter().flat_map(HashMap::into_values) {
            self.counters.open_streams.remove();
            stream.end(StreamEnd::Lost(reason.clone()));
        }
    }
}
