//! Replies (`basic.deliver`) and returned requests (`basic.return`), matched with their calls by the
//! correlation id. Runs on the I/O task.

use std::sync::Arc;

use bytes::Bytes;

use super::in_flight::{CallCompletion, ReceivedReply};
use super::queue::ReplyQueue;
use crate::client::correlation::CorrelationId;
use crate::escape::Escaped;
use crate::service::Reply;
use crate::wire::batch::{self, BatchedReply};
use crate::wire::envelope::{ReplyForm, ReplyHead, ReplyStatus, StreamMessage};
use crate::wire::message::IncomingMessage;

impl ReplyQueue {
    pub(super) fn reply_received(self: &Arc<Self>, mut message: IncomingMessage) {
        if StreamMessage::of(&message.properties).is_some() {
            return self.stream_message_received(message);
        }
        let message_id = message.properties.message_id.take();
        let head = ReplyHead::from_properties(message.properties);
        let correlation_id = head.correlation_id.as_deref();
        match (self.decode_correlation_id(correlation_id), head.form) {
            (Some(CorrelationId::Batch(batch)), ReplyForm::Batch) => {
                self.batch_reply_received(batch, &head, &message.body);
            }
            // The calls end at their deadlines, because they may have been executed.
            (Some(CorrelationId::Batch(_)), ReplyForm::Unknown)
                if !matches!(head.status, ReplyStatus::Failed(_)) =>
            {
                self.counters.dropped_replies.add();
                tracing::warn!("a reply to a batch is of an unknown type, dropped");
            }
            // One reply to a whole batch comes from a server that could not decode it, or that does not
            // accept batches.
            (Some(CorrelationId::Batch(batch)), _) => {
                tracing::debug!(status = ?head.status, "the server refused a batch, sending its calls one by one");
                self.in_flight
                    .complete_batch(batch, || CallCompletion::SendAlone {
                        batch_refused: true,
                    });
            }
            (Some(CorrelationId::Call(id)), _) => {
                let reply = ReceivedReply {
                    reply: Reply::new(head.status, message.body).with_headers(head.headers),
                    form: head.form,
                    content_type: head.content_type,
                    size: message.size as usize,
                };
                if let Some(stream) = self.streams.remove(id) {
                    stream.reply_received(message_id.as_deref(), reply);
                } else if !self.in_flight.complete(id, CallCompletion::Reply(reply)) {
                    self.count_dropped_reply(id.to_string().as_bytes());
                }
            }
            (None, _) => self.count_dropped_reply(correlation_id.unwrap_or_default()),
        }
    }

    fn batch_reply_received(&self, batch: u64, head: &ReplyHead, body: &Bytes) {
        match batch::decode_replies(body) {
            Ok(replies) => {
                for reply in replies {
                    let BatchedReply {
                        id,
                        status,
                        body,
                        headers,
                    } = reply;
                    let size = body.len();
                    let reply = CallCompletion::Reply(ReceivedReply {
                        reply: Reply::new(status, body).with_headers(headers),
                        form: head.form,
                        content_type: head.content_type.clone(),
                        size,
                    });
                    if !self.in_flight.complete_in_batch(batch, id, reply) {
                        self.count_dropped_reply(id.to_string().as_bytes());
                    }
                }
            }
            // The calls end at their deadlines, because they may have been executed.
            Err(error) => {
                self.counters.dropped_replies.add();
                tracing::warn!(%error, "a batch of replies does not decode, dropped");
            }
        }
    }

    pub(super) fn request_returned(&self, correlation_id: Option<&[u8]>) {
        let is_known = match self.decode_correlation_id(correlation_id) {
            Some(CorrelationId::Call(id)) => {
                self.stream_message_returned(id)
                    || self.in_flight.complete(id, CallCompletion::Returned)
            }
            Some(CorrelationId::Batch(batch)) => {
                self.in_flight
                    .complete_batch(batch, || CallCompletion::Returned);
                true
            }
            None => false,
        };
        if !is_known {
            self.count_dropped_reply(correlation_id.unwrap_or_default());
        }
    }

    pub(super) fn decode_correlation_id(&self, text: Option<&[u8]>) -> Option<CorrelationId> {
        CorrelationId::decode(text.unwrap_or_default(), &self.secret)
    }

    pub(super) fn count_dropped_reply(&self, correlation_id: &[u8]) {
        self.counters.dropped_replies.add();
        let correlation_id = String::from_utf8_lossy(correlation_id);
        let correlation_id = Escaped(&*correlation_id);
        tracing::debug!(%correlation_id, "reply for an unknown or finished call, dropped");
    }
}
