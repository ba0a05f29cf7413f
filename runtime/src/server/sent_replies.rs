//! Replies that were sent, and that the broker may still refuse by closing their channel
//! (`channel.close`). Requests that are redelivered after that are answered from here. Whether any other redelivered
//! request is run again is decided by `may_run` in `refused.rs`.
//!
//! Pure bookkeeping: no clock, no channel, no lock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::policy::refusal;
use crate::wire::envelope::RequestHead;
use crate::wire::message::Outgoing;
use crate::wire::reply_code;

/// The most replies that are remembered, whatever the concurrency.
const MAX_REPLIES: usize = 1024;
/// The most bytes of bodies that are kept. Beyond it, the bodies of the oldest replies are dropped, and only
/// their sizes are kept.
const MAX_BYTES: usize = 1024 * 1024;
/// A request that is not redelivered within this time was delivered to another server, or has expired.
const REDELIVERY_TIMEOUT: Duration = Duration::from_secs(600);
/// A reply that was sent on this many channels, each of which the broker closed without naming the message,
/// is not sent again.
const MAX_SUSPICIONS: u8 = 2;

/// The reason for which the broker closed a channel, as far as it concerns replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyRefusal {
    /// A message is larger than the broker's `max_message_size`, in bytes.
    TooLarge { limit: usize },
    /// The user may not write to the default exchange, so that no reply can be sent.
    NotPermitted,
    /// Not a published message.
    Unrelated,
    /// Perhaps a reply, and it is not known which.
    Unknown,
}

impl ReplyRefusal {
    /// Reads the error with which a channel ended. `None` if the whole connection ended.
    pub(super) fn of(error: &Error) -> Option<Self> {
        let (code, text) = match error.kind() {
            ErrorKind::Broker { code, text } => (*code, text.as_str()),
            ErrorKind::Mismatch(_) => return Some(Self::Unknown),
            _ => return None,
        };
        Some(match code {
            reply_code::ACCESS_REFUSED => Self::NotPermitted,
            reply_code::PRECONDITION_FAILED if refusal::overdue(error).is_some() => Self::Unrelated,
            reply_code::PRECONDITION_FAILED => {
                refusal::size_limit(text).map_or(Self::Unknown, |limit| Self::TooLarge { limit })
            }
            code if reply_code::closes_channel(code) => Self::Unknown,
            _ => return None,
        })
    }
}

/// The request that a reply is for, and the position of the reply among its replies.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyOrigin {
    pub(super) method: Option<&'static str>,
    /// The size of the request, in bytes. It tells requests apart for which a client has used the same
    /// correlation id.
    pub(super) request_size: usize,
    /// The position of this message among the replies to the request, from 0.
    pub(super) part: usize,
    /// Whether no other reply to the request follows.
    pub(super) is_last: bool,
    /// Whether the body is a batch of replies.
    pub(super) is_batch: bool,
    /// Whether the request was acknowledged before the reply, and so is not redelivered.
    pub(super) is_acknowledged: bool,
    /// The number of channels it was sent on that the broker closed for an unknown reason.
    pub(super) suspicions: u8,
}

impl ReplyOrigin {
    /// The origin of the only reply to a request.
    pub(super) fn single(method: Option<&'static str>, request_size: usize) -> Self {
        Self {
            method,
            request_size,
            part: 0,
            is_last: true,
            is_batch: false,
            is_acknowledged: false,
            suspicions: 0,
        }
    }
}

/// A reply that was sent, or whose channel was closed before it could be: the message, and the origin by which
/// it is found again when its request is redelivered.
#[derive(Clone, Debug)]
pub(super) struct SentReply {
    pub(super) origin: ReplyOrigin,
    /// The size of the body in bytes, even if the body is not kept.
    size: usize,
    has_body: bool,
    pub(super) message: Outgoing,
}

impl SentReply {
    pub(super) fn new(origin: ReplyOrigin, message: Outgoing) -> Self {
        Self {
            origin,
            size: message.body.len(),
            has_body: true,
            message,
        }
    }

    fn answers(&self, head: &RequestHead, request_size: usize) -> bool {
        self.origin.request_size == request_size
            && Some(&self.message.routing_key) == head.reply_to.as_ref()
            && self.message.properties.correlation_id == head.correlation_id
    }

    fn forget_body(&mut self) -> usize {
        self.has_body = false;
        std::mem::take(&mut self.message.body).len()
    }

    /// The size of the body in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn has_body(&self) -> bool {
        self.has_body
    }

    /// Whether the broker may have closed so many channels over it that it is not sent again.
    pub(super) fn is_suspect(&self) -> bool {
        self.origin.suspicions >= MAX_SUSPICIONS
    }

    /// Whether the request can be answered without running it again: with this reply, or with the status
    /// that it is too large.
    fn is_usable(&self, limit: usize) -> bool {
        self.has_body || (self.size > limit && !self.origin.is_batch)
    }
}

/// The sent replies to the requests from one queue.
#[derive(Debug)]
pub(super) struct SentReplies {
    /// The number of replies on the current channel that may still be refused.
    max_unsure: usize,
    /// The replies on the current channel.
    current: ReplyBuffer,
    /// The replies on channels that the broker has closed.
    refused: ReplyBuffer,
    closed_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct ReplyBuffer {
    /// The oldest first.
    replies: VecDeque<SentReply>,
    bytes: usize,
}

impl ReplyBuffer {
    fn push(&mut self, reply: SentReply, max_replies: usize) {
        while self.replies.len() >= max_replies
            && let Some(oldest) = self.replies.pop_front()
        {
            self.bytes -= oldest.message.body.len();
        }
        self.bytes += reply.message.body.len();
        self.replies.push_back(reply);
        let mut oldest = self.replies.iter_mut();
        while self.bytes > MAX_BYTES
            && let Some(reply) = oldest.next()
        {
            self.bytes -= reply.forget_body();
        }
    }

    fn take_all(&mut self) -> VecDeque<SentReply> {
        self.bytes = 0;
        std::mem::take(&mut self.replies)
    }

    fn take(&mut self, wanted: impl Fn(&SentReply) -> bool) -> Vec<SentReply> {
        let (taken, kept) = self.take_all().into_iter().partition(|reply| wanted(reply));
        self.replies = kept;
        self.bytes = self
            .replies
            .iter()
            .map(|reply| reply.message.body.len())
            .sum();
        let taken: VecDeque<SentReply> = taken;
        taken.into()
    }
}

impl SentReplies {
    /// The replies of a consumer with this prefetch.
    ///
    /// Of the replies, all but the latest `2 * prefetch` have been accepted. The broker handles frames in
    /// order, and it sends a request beyond the prefetch only after an acknowledgement of an earlier one,
    /// which follows the reply; acknowledgements are held back for at most half a prefetch of replies.
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            max_unsure: (2 * usize::from(prefetch.max(1))).min(MAX_REPLIES),
            current: ReplyBuffer::default(),
            refused: ReplyBuffer::default(),
            closed_at: None,
        }
    }

    /// A reply was sent on the current channel.
    pub(super) fn sent(&mut self, reply: SentReply) {
        self.current.push(reply, self.max_unsure);
    }

    /// A reply was not sent, because its channel is closed. The connection is open.
    pub(super) fn keep(&mut self, reply: SentReply, now: Instant) {
        self.closed_at.get_or_insert(now);
        self.refused.push(reply, MAX_REPLIES);
    }

    /// The broker has closed the current channel. Returns the reply that was most likely the reason, if it
    /// was one.
    pub(super) fn channel_closed(
        &mut self,
        refusal: ReplyRefusal,
        now: Instant,
    ) -> Option<SentReply> {
        self.closed_at = Some(now);
        let replies = self.current.take_all();
        let cause = match refusal {
            ReplyRefusal::TooLarge { limit } => replies.iter().find(|reply| reply.size > limit),
            ReplyRefusal::Unrelated => None,
            ReplyRefusal::NotPermitted | ReplyRefusal::Unknown => replies.back(),
        };
        let cause = cause.cloned();
        for mut reply in replies {
            match refusal {
                ReplyRefusal::Unknown => reply.origin.suspicions += 1,
                ReplyRefusal::TooLarge { .. }
                | ReplyRefusal::NotPermitted
                | ReplyRefusal::Unrelated => {}
            }
            if reply.origin.suspicions <= MAX_SUSPICIONS {
                self.refused.push(reply, MAX_REPLIES);
            }
        }
        cause
    }

    /// The connection was lost, and it is not known which replies arrived. The requests run again.
    pub(super) fn disconnected(&mut self) {
        self.current.take_all();
    }

    /// Whether no redelivered request can be answered from here.
    pub(super) fn is_empty(&self) -> bool {
        self.refused.replies.is_empty()
    }

    /// Takes the replies whose requests were acknowledged, and so are not redelivered.
    pub(super) fn take_acknowledged(&mut self) -> Vec<SentReply> {
        self.refused.take(|reply| reply.origin.is_acknowledged)
    }

    /// Takes the replies to a redelivered request. `None` if not all of them are usable. `limit` is the
    /// largest body that the broker accepts, in bytes.
    pub(super) fn take(
        &mut self,
        head: &RequestHead,
        request_size: usize,
        limit: usize,
        now: Instant,
    ) -> Option<Vec<SentReply>> {
        if self.is_empty() || head.reply_to.is_none() {
            return None;
        }
        if self
            .closed_at
            .is_none_or(|at| now.duration_since(at) > REDELIVERY_TIMEOUT)
        {
            self.refused.take_all();
            return None;
        }
        let replies = self.refused.take(|reply| reply.answers(head, request_size));
        let is_whole = replies.last().is_some_and(|last| last.origin.is_last)
            && replies
                .iter()
                .enumerate()
                .all(|(at, reply)| reply.origin.part == at && reply.is_usable(limit));
        is_whole.then_some(replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Properties;

    fn refused(code: u16, text: &str) -> Option<ReplyRefusal> {
        let text = text.into();
        ReplyRefusal::of(&Error::new(ErrorKind::Broker { code, text }))
    }

    #[test]
    fn the_reason_of_a_close_is_read_from_the_brokers_text() {
        let largest = |limit| Some(ReplyRefusal::TooLarge { limit });
        let text =
            "PRECONDITION_FAILED - message size 200000 is larger than configured max size 100000";
        assert_eq!(refused(406, text), largest(100_000));
        let text = "PRECONDITION_FAILED - message size 134217729 is larger than max size 134217728";
        assert_eq!(refused(406, text), largest(134_217_728));
        let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 3000 ms.";
        assert_eq!(refused(406, text), Some(ReplyRefusal::Unrelated));
        assert_eq!(refused(406, "no"), Some(ReplyRefusal::Unknown));
        let text =
            "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'x'";
        assert_eq!(refused(403, text), Some(ReplyRefusal::NotPermitted));
        assert_eq!(refused(541, "INTERNAL_ERROR"), None);
        assert_eq!(ReplyRefusal::of(&Error::new(ErrorKind::Disconnected)), None);
    }

    fn reply(id: &str, size: usize) -> SentReply {
        let message = Outgoing {
            exchange: String::new(),
            routing_key: "replies".into(),
            mandatory: true,
            properties: Properties {
                correlation_id: Some(id.into()),
                ..Properties::default()
            },
            body: vec![0; size].into(),
        };
        SentReply::new(ReplyOrigin::single(Some("fetch"), 7), message)
    }

    fn head(id: &str) -> RequestHead {
        RequestHead {
            reply_to: Some("replies".into()),
            correlation_id: Some(id.into()),
            ..RequestHead::default()
        }
    }

    #[test]
    fn a_redelivered_request_is_answered_once() {
        let (mut sent_replies, now) = (SentReplies::new(4), Instant::now());
        sent_replies.sent(reply("1", 10));
        sent_replies.sent(reply("2", 200));
        assert!(
            sent_replies.take(&head("1"), 7, 100, now).is_none(),
            "the channel is open"
        );
        let limit = ReplyRefusal::TooLarge { limit: 100 };
        let cause = sent_replies.channel_closed(limit, now).unwrap();
        assert_eq!(cause.size, 200);
        assert!(sent_replies.take(&head("3"), 7, 100, now).is_none());
        assert!(
            sent_replies.take(&head("1"), 8, 100, now).is_none(),
            "another one"
        );
        assert_eq!(sent_replies.take(&head("1"), 7, 100, now).unwrap().len(), 1);
        assert!(sent_replies.take(&head("1"), 7, 100, now).is_none());
        assert_eq!(
            sent_replies.take(&head("2"), 7, 100, now).unwrap()[0].size,
            200
        );
        assert!(sent_replies.is_empty());
    }

    #[test]
    fn nothing_is_remembered_without_bound() {
        let mut sent_replies = SentReplies::new(u16::MAX);
        for id in 0..5000 {
            sent_replies.sent(reply(&id.to_string(), 10_000));
        }
        assert_eq!(sent_replies.current.replies.len(), MAX_REPLIES);
        assert!(sent_replies.current.bytes <= MAX_BYTES);
        sent_replies.sent(reply("large", MAX_BYTES + 1));
        assert_eq!(sent_replies.current.bytes, 0);
        let now = Instant::now();
        sent_replies.channel_closed(ReplyRefusal::Unrelated, now);
        assert!(sent_replies.refused.bytes <= MAX_BYTES);
        let large = sent_replies
            .take(&head("large"), 7, MAX_BYTES, now)
            .unwrap();
        assert!(!large[0].has_body && large[0].size == MAX_BYTES + 1);
    }

    #[test]
    fn replies_in_several_messages_are_used_only_if_all_are_known() {
        let (mut sent_replies, now) = (SentReplies::new(4), Instant::now());
        let part = |part, is_last| {
            let mut reply = reply("m", 1);
            reply.origin = ReplyOrigin {
                part,
                is_last,
                ..reply.origin
            };
            reply
        };
        sent_replies.sent(part(0, false));
        sent_replies.channel_closed(ReplyRefusal::Unrelated, now);
        assert!(sent_replies.take(&head("m"), 7, 100, now).is_none());
        sent_replies.sent(part(0, false));
        sent_replies.sent(part(1, true));
        sent_replies.channel_closed(ReplyRefusal::Unrelated, now);
        assert_eq!(sent_replies.take(&head("m"), 7, 100, now).unwrap().len(), 2);
    }

    #[test]
    fn a_suspect_reply_is_not_sent_again() {
        let (mut sent_replies, now) = (SentReplies::new(1), Instant::now());
        let mut sent = reply("1", 1);
        sent.origin.is_acknowledged = true;
        for suspicions in 1..=MAX_SUSPICIONS {
            sent_replies.sent(sent);
            sent_replies.channel_closed(ReplyRefusal::Unknown, now);
            sent = sent_replies.take_acknowledged().pop().unwrap();
            assert_eq!(sent.origin.suspicions, suspicions);
        }
        assert!(sent.is_suspect());
        sent_replies.sent(sent);
        sent_replies.channel_closed(ReplyRefusal::Unknown, now);
        assert!(sent_replies.is_empty());
    }
}
