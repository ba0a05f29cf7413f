//! Streams that are open on a reply queue: their items (`lepus.item/1`), their credit (`lepus.credit/1`), and what
//! ends them. Items are received on the I/O task. Those that a call sends are in `uploads.rs`.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::in_flight::{CallCompletion, ReceivedReply};
use super::open_streams::{OpenStream, StreamEnd};
use super::queue::ReplyQueue;
use super::upload_state::UploadState;
use super::uploads::{RemoteUpload, UploadSink};
use crate::client::correlation::CorrelationId;
use crate::error::{Error, ErrorKind};
use crate::link::{Channel, Flush};
use crate::service::{BoxFuture, Reply};
use crate::stream::{Attached, Inbox};
use crate::sync::lock;
use crate::wire::batch::{encode_cancelled, encode_credit};
use crate::wire::envelope::{CancelHead, ReplyForm, StreamHead, StreamMessage, StreamPosition};
use crate::wire::message::{IncomingMessage, Outgoing, Properties};

/// A stream of which nothing was sent between two of these times gets a probe, which is at most 10 s after its last
/// message.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// A cancellation that is not delivered within this time is of no use: the queue is that of a server that hangs.
const CANCEL_EXPIRATION: Duration = Duration::from_secs(600);

/// A stream that was opened, for its reader.
pub(in crate::client) struct OpenedStream {
    pub(in crate::client) inbox: Arc<Inbox<StreamEnd>>,
    pub(in crate::client) peer: Box<dyn StreamPeer>,
}

/// The other side of a stream. Dropping it cancels the stream.
pub(in crate::client) trait StreamPeer: Send + Sync {
    /// Allows so many items in total.
    fn grant(&self, total: u64);

    /// Whether the method takes items.
    fn takes_items(&self) -> bool;

    /// The number of items that were sent to the method.
    fn items_sent(&self) -> u64;

    /// The largest message, in bytes.
    fn max_message(&self) -> usize;

    /// The way of items to the method. It fails if the connection was lost.
    fn upload_sink(&self) -> BoxFuture<Result<Arc<dyn UploadSink>, Error>>;
}

/// A stream of a server.
struct RemoteStream {
    queue: Arc<ReplyQueue>,
    id: u64,
    stream: Arc<OpenStream>,
}

impl StreamPeer for RemoteStream {
    fn grant(&self, total: u64) {
        self.queue.grant(self.id, &self.stream, total);
    }

    fn takes_items(&self) -> bool {
        lock(&self.stream.upload).credit.allowed() > 0
    }

    fn items_sent(&self) -> u64 {
        lock(&self.stream.upload).credit.sent()
    }

    fn max_message(&self) -> usize {
        self.queue.max_message
    }

    fn upload_sink(&self) -> BoxFuture<Result<Arc<dyn UploadSink>, Error>> {
        let sink = RemoteUpload {
            queue: Arc::clone(&self.queue),
            id: self.id,
            stream: Arc::clone(&self.stream),
        };
        Box::pin(async move {
            let channel = sink.queue.upload_channel().await?;
            lock(&sink.stream.upload).channel = Some(channel);
            Ok(Arc::new(sink) as _)
        })
    }
}

impl Drop for RemoteStream {
    /// Cancels the stream, unless it has ended.
    fn drop(&mut self) {
        if self.queue.streams.remove(self.id).is_some() {
            let server = &self.stream.server_queue;
            self.queue.cancel_stream(self.id, server);
        }
        self.stream.inbox.close();
        self.stream.close_upload();
    }
}

impl ReplyQueue {
    /// Receives a message of a stream. The first one opens it.
    pub(super) fn stream_message_received(self: &Arc<Self>, mut message: IncomingMessage) {
        let properties = std::mem::take(&mut message.properties);
        let Some(head) = StreamHead::from_properties(properties) else {
            self.count_dropped_reply(&[]);
            return;
        };
        let Some(CorrelationId::Call(id)) = self.decode_correlation_id(Some(&head.correlation_id))
        else {
            self.count_dropped_reply(&head.correlation_id);
            return;
        };
        let (opening, stream) = match self.streams.get(id) {
            Some(stream) => (None, stream),
            None => match self.open_stream(id, &head) {
                Some((opening, stream)) => (Some(opening), stream),
                None => return self.unknown_stream(id, &head),
            },
        };
        let received = stream.received(head.kind, &head.position, message);
        if let Err(fault) = received {
            self.give_up_stream(id, &stream, StreamEnd::Fault(fault));
        }
        // Only now, so that a reader finds what opened the stream. If the call was dropped at this moment, this drops
        // the stream, which cancels it.
        if let Some(opening) = opening {
            opening.complete();
        }
    }

    /// Ends a stream on this side, and cancels it.
    pub(super) fn give_up_stream(&self, id: u64, stream: &OpenStream, end: StreamEnd) {
        if self.streams.remove(id).is_some() {
            self.cancel_stream(id, &stream.server_queue);
        }
        stream.end(end);
    }

    /// Opens the stream that a call asks for. `None` if there is no such call, or no longer.
    fn open_stream(
        self: &Arc<Self>,
        id: u64,
        head: &StreamHead,
    ) -> Option<(CompletedOpening, Arc<OpenStream>)> {
        let (window, completion) = self.in_flight.take_opening(id)?;
        let inbox = Arc::new(Inbox::new(window));
        let stream = Arc::new(OpenStream {
            inbox: Arc::clone(&inbox),
            run: head.position.run.clone(),
            server_queue: head.reply_to.clone(),
            is_active: AtomicBool::new(true),
            upload: Mutex::new(UploadState::new()),
        });
        let completed = if self.streams.insert(id, &stream) {
            let peer = Box::new(RemoteStream {
                queue: Arc::clone(self),
                id,
                stream: Arc::clone(&stream),
            });
            CallCompletion::Reply(ReceivedReply::opened(OpenedStream { inbox, peer }))
        } else {
            CallCompletion::Lost(Error::new(ErrorKind::Disconnected))
        };
        let opening = CompletedOpening {
            completion,
            completed,
        };
        Some((opening, stream))
    }

    /// Handles a message of a stream that is not open here: it was cancelled, or its call was given up.
    ///
    /// Items that were on their way when the stream was cancelled are dropped. The first message, and probes, come of
    /// a server that may not know.
    fn unknown_stream(&self, id: u64, head: &StreamHead) {
        let is_known_to_server = match head.kind {
            StreamMessage::Open | StreamMessage::Probe => false,
            StreamMessage::Item | StreamMessage::Items => head.position.number > 0,
            StreamMessage::Credit | StreamMessage::End | StreamMessage::Stop => true,
        };
        if !is_known_to_server {
            self.cancel_stream(id, &head.reply_to);
        }
    }

    /// Notes that a message to a server was returned. `true` if it was about a stream: its server is gone.
    pub(super) fn stream_message_returned(&self, id: u64) -> bool {
        let Some(stream) = self.streams.remove(id) else {
            return false;
        };
        let error = Error::new(ErrorKind::Disconnected)
            .caused_by("the server of the stream has lost its connection or has ended");
        stream.end(StreamEnd::Lost(error));
        true
    }

    /// Allows the server so many items in total.
    fn grant(&self, id: u64, stream: &OpenStream, total: u64) {
        // Cannot fail: it is a number.
        if let Ok(body) = encode_credit(total) {
            self.send_to_server(id, stream, StreamMessage::Credit, body);
        }
    }

    /// Sends a message without items that is returned if the server's queue is gone.
    fn send_to_server(&self, id: u64, stream: &OpenStream, kind: StreamMessage, body: Bytes) {
        let appended = {
            let mut upload = lock(&stream.upload);
            self.append_for_stream(id, stream, &mut upload, kind, body)
        };
        match appended {
            Ok(channel) => channel.flush(self.burst.next()),
            // Credit is granted again with the next channel, or the stream ends with the session.
            Err(error) => tracing::debug!(%error, "a message about a stream was not sent"),
        }
    }

    /// Appends a message to the write buffer of the channel on which it is to be flushed: that of the items, if there
    /// are some, so that the server gets all messages in their order.
    pub(super) fn append_for_stream(
        &self,
        id: u64,
        stream: &OpenStream,
        upload: &mut UploadState,
        kind: StreamMessage,
        body: Bytes,
    ) -> Result<Arc<Channel>, Error> {
        let head = StreamHead {
            kind,
            correlation_id: self.correlation_id(id),
            reply_to: self.name.clone(),
            position: StreamPosition {
                run: stream.run.clone(),
                number: upload.credit.sent(),
            },
        };
        stream.is_active.store(true, Ordering::Relaxed);
        upload.largest = upload.largest.max(body.len());
        let message = to_server(&stream.server_queue, true, head.into_properties(), body);
        match &upload.channel {
            None => self.publish_for_stream(&message, Flush::Deferred),
            Some(channel) => {
                channel.publish(&message, Flush::Deferred)?;
                Ok(Arc::clone(channel))
            }
        }
    }

    /// Tells a server that a stream is not read any more.
    fn cancel_stream(&self, id: u64, server_queue: &str) {
        let head = CancelHead {
            reply_to: self.name.clone(),
            time_left: CANCEL_EXPIRATION,
        };
        let id = self.correlation_id(id);
        let Ok(body) = encode_cancelled(std::iter::once(id.as_slice())) else {
            return;
        };
        let message = to_server(server_queue, false, head.into_properties(), body);
        if let Err(error) = self.publish_for_stream(&message, Flush::IoTask) {
            tracing::debug!(%error, "a server was not told that its stream is cancelled");
        }
    }

    /// Grants all streams what they were granted before.
    pub(super) fn grant_again(&self) {
        for (id, stream) in self.streams.all() {
            self.grant(id, &stream, stream.inbox.granted());
        }
    }

    /// Sends a probe about each stream of which nothing was sent for a while.
    pub(super) async fn keep_streams(&self) -> Infallible {
        loop {
            while self.streams.is_empty() {
                self.streams.opened.notified().await;
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
            for (id, stream) in self.streams.all() {
                if !stream.is_active.load(Ordering::Relaxed) {
                    self.send_to_server(id, &stream, StreamMessage::Probe, Bytes::new());
                }
                stream.is_active.store(false, Ordering::Relaxed);
            }
        }
    }
}

/// A call whose stream is about to be opened.
struct CompletedOpening {
    completion: tokio::sync::oneshot::Sender<CallCompletion>,
    completed: CallCompletion,
}

impl CompletedOpening {
    fn complete(self) {
        // The receiver may be gone: the call was dropped at this moment.
        drop(self.completion.send(self.completed));
    }
}

impl ReceivedReply {
    /// The reply of a call whose stream was opened.
    pub(in crate::client) fn opened(stream: OpenedStream) -> Self {
        Self {
            reply: Reply::opened(Attached::new(stream)),
            form: ReplyForm::Single,
            content_type: None,
            size: 0,
        }
    }
}

/// A message to the queue of a server's streams.
fn to_server(queue: &str, mandatory: bool, properties: Properties, body: Bytes) -> Outgoing {
    Outgoing {
        exchange: String::new(),
        routing_key: queue.to_owned(),
        mandatory,
        properties,
        body,
    }
}
