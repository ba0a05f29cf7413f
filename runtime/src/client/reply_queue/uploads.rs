//! The items that calls send to their servers, on a channel of their own: an item that the broker refuses ends no calls,
//! as one on the channel for requests would.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::open_streams::{OpenStream, StreamEnd};
use super::queue::ReplyQueue;
use crate::error::Error;
use crate::link::{Channel, ChannelEvent, ChannelHandler};
use crate::policy::refusal;
use crate::stream::{ItemSink, SinkClosed, items_message};
use crate::sync::lock;
use crate::wire::envelope::StreamMessage;

/// The way of a call's items to the method that takes them.
pub(in crate::client) trait UploadSink: Send + Sync {
    /// The way of the items.
    fn items(&self) -> &dyn ItemSink;

    /// Tells the method that no item follows.
    fn finish(&self);

    /// Ends the call with this error, because an item cannot be sent.
    fn fail(&self, error: Error);
}

/// The way of items to a server.
pub(super) struct RemoteUpload {
    pub(super) queue: Arc<ReplyQueue>,
    pub(super) id: u64,
    pub(super) stream: Arc<OpenStream>,
}

impl RemoteUpload {
    fn append(&self, kind: StreamMessage, body: Bytes, items: u64) -> Result<(), SinkClosed> {
        let mut upload = lock(&self.stream.upload);
        if upload.is_closed() {
            return Err(SinkClosed);
        }
        let queue = &self.queue;
        let appended = queue.append_for_stream(self.id, &self.stream, &mut upload, kind, body);
        match appended {
            Ok(channel) => {
                upload.credit.send(items);
                drop(upload);
                channel.flush(queue.burst.next());
                Ok(())
            }
            Err(error) => {
                drop(upload);
                self.fail(error);
                Err(SinkClosed)
            }
        }
    }
}

impl ItemSink for RemoteUpload {
    fn poll_credit(&self, cx: &mut Context<'_>) -> Poll<Result<u64, SinkClosed>> {
        let mut upload = lock(&self.stream.upload);
        match upload.credit.left() {
            _ if upload.is_closed() => Poll::Ready(Err(SinkClosed)),
            0 => upload.wait(cx),
            left => Poll::Ready(Ok(left)),
        }
    }

    /// The server opens a stream.
    fn open(&self) -> Result<(), SinkClosed> {
        Ok(())
    }

    fn send(&self, items: &[Bytes]) -> Result<(), SinkClosed> {
        let (kind, body) = items_message(items);
        self.append(kind, body, items.len() as u64)
    }

    fn max_item(&self) -> usize {
        self.queue.max_message
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut upload = lock(&self.stream.upload);
        if upload.is_closed() {
            return Poll::Ready(());
        }
        upload.wait(cx)
    }
}

impl UploadSink for RemoteUpload {
    fn items(&self) -> &dyn ItemSink {
        self
    }

    fn finish(&self) {
        // If the stream is closed, its end tells why.
        let _ = self.append(StreamMessage::End, Bytes::new(), 0);
    }

    fn fail(&self, error: Error) {
        let (queue, stream) = (&self.queue, &self.stream);
        queue.give_up_stream(self.id, stream, StreamEnd::Lost(error));
    }
}

impl ReplyQueue {
    /// The channel of items, which is opened if there is none.
    ///
    /// # Errors
    /// The session was lost, or has no free channel number.
    pub(super) async fn upload_channel(self: &Arc<Self>) -> Result<Arc<Channel>, Error> {
        let mut current = self.upload_channel.lock().await;
        if let Some(channel) = current.as_ref().filter(|channel| channel.is_open()) {
            return Ok(Arc::clone(channel));
        }
        let channel = Channel::open(&self.session).await?;
        channel.set_handler(Arc::new(UploadChannelHandler(Arc::downgrade(self))));
        *current = Some(Arc::clone(&channel));
        Ok(channel)
    }

    /// Ends the streams whose items were sent on a channel that the broker has closed: some of the items are lost.
    fn upload_channel_refused(self: &Arc<Self>, reason: &Error) {
        for (id, stream) in self.streams.all() {
            let (is_lost, largest) = {
                let upload = lock(&stream.upload);
                let channel = upload.channel.as_ref();
                (channel.is_some_and(|it| !it.is_open()), upload.largest)
            };
            if is_lost {
                let error = refusal::sender_error(reason, largest);
                self.give_up_stream(id, &stream, StreamEnd::Lost(error));
            }
        }
    }
}

/// Handles the events of the channel of items.
struct UploadChannelHandler(Weak<ReplyQueue>);

impl ChannelHandler for UploadChannelHandler {
    fn on_event(&self, event: ChannelEvent) {
        let Some(queue) = self.0.upgrade() else {
            return;
        };
        match event {
            ChannelEvent::Returned(message) => {
                queue.request_returned(message.properties.correlation_id.as_deref());
            }
            // Without a reply code, the whole session has ended, and so do all streams.
            ChannelEvent::Closed(reason) if reason.amqp_code().is_some() => {
                queue.upload_channel_refused(&reason);
            }
            ChannelEvent::Closed(_)
            | ChannelEvent::Confirmed(_)
            | ChannelEvent::Delivered(_)
            | ChannelEvent::Cancelled => {}
        }
    }
}
