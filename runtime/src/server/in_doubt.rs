//! Replies that were written and that the broker may not have taken. When it closes their channel,
//! requests that come back (`redelivered`) are answered from here instead of being run again.
//!
//! Pure bookkeeping: no clock, no channel, no lock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind};
use crate::policy::refusal;
use crate::wire::envelope::RequestHead;
use crate::wire::message::Outgoing;

/// The most replies that are remembered, of a server with a higher concurrency too.
const MOST: usize = 1024;
/// The most bytes of bodies that are remembered. Of replies beyond it only the size is known.
const BYTES: usize = 1024 * 1024;
/// A request that has not come back by then has been taken by another server, or is gone.
const EXPIRY: Duration = Duration::from_secs(600);
/// A reply that was among those written on so many channels which the broker closed for a reason
/// that names none of them is not sent once more.
const SUSPECT: u8 = 2;

/// Why the broker closed a channel, as far as it is about replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A message is larger than its `max_message_size`, in bytes.
    TooLarge { limit: usize },
    /// This user may not write to the default exchange: no reply can be sent.
    NotPermitted,
    /// Nothing that was published.
    Unrelated,
    /// Anything else: a reply may be why, and it is not known which.
    Unknown,
}

impl Refusal {
    /// Reads the reason for which a channel ended; `None` where it went with its connection.
    pub(super) fn of(error: &Error) -> Option<Self> {
        let (code, text) = match error.kind() {
            Kind::Broker { code, text } => (*code, text.as_str()),
            Kind::Mismatch(_) => return Some(Self::Unknown),
            _ => return None,
        };
        Some(match code {
            403 => Self::NotPermitted,
            406 if refusal::overdue(error).is_some() => Self::Unrelated,
            406 => {
                refusal::size_limit(text).map_or(Self::Unknown, |limit| Self::TooLarge { limit })
            }
            // AMQP's other errors that end a channel.
            311..=313 | 404 | 405 => Self::Unknown,
            // And those that end a connection.
            _ => return None,
        })
    }
}

/// The request that a reply is for, and which of its replies it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) method: Option<&'static str>,
    /// How many bytes the request has: a client that uses a correlation id twice rarely sends the
    /// same again.
    pub(super) request_size: usize,
    /// Which message of the request's replies this is, from 0.
    pub(super) part: usize,
    /// No further message follows for its request.
    pub(super) is_last: bool,
    /// Its body is several replies.
    pub(super) is_shared: bool,
    /// Its request was acknowledged before: it does not come back.
    pub(super) is_acknowledged: bool,
    /// How many closed channels it may be the reason for.
    pub(super) suspicions: u8,
}

impl Origin {
    /// Of the one reply to a request.
    pub(super) fn of(method: Option<&'static str>, request_size: usize) -> Self {
        Self {
            method,
            request_size,
            part: 0,
            is_last: true,
            is_shared: false,
            is_acknowledged: false,
            suspicions: 0,
        }
    }
}

/// A reply that was written, or could not be because its channel was closed.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) origin: Origin,
    /// How many bytes the body has, also where it was not kept.
    size: usize,
    is_kept: bool,
    pub(super) message: Outgoing,
}

impl Written {
    pub(super) fn new(origin: Origin, message: Outgoing) -> Self {
        Self {
            origin,
            size: message.body.len(),
            is_kept: true,
            message,
        }
    }

    fn answers(&self, head: &RequestHead, request_size: usize) -> bool {
        self.origin.request_size == request_size
            && Some(&self.message.routing_key) == head.reply_to.as_ref()
            && self.message.properties.correlation_id == head.correlation_id
    }

    fn forget_body(&mut self) -> usize {
        self.is_kept = false;
        std::mem::take(&mut self.message.body).len()
    }

    /// How many bytes the body has.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Whether the body is there.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whether it is not to be sent as it is any more.
    pub(super) fn is_suspect(&self) -> bool {
        self.origin.suspicions >= SUSPECT
    }

    /// Whether its caller can be told something without running the request again.
    fn is_known(&self, limit: usize) -> bool {
        self.is_kept || (self.size > limit && !self.origin.is_shared)
    }
}

/// The replies of one queue's server.
#[derive(Debug)]
pub(super) struct InDoubt {
    most: usize,
    /// On the channel that is in use.
    written: Remembered,
    /// On channels that the broker has closed.
    returned: Remembered,
    closed_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// The oldest first.
    all: VecDeque<Written>,
    bytes: usize,
}

impl Remembered {
    fn push(&mut self, reply: Written, most: usize) {
        while self.all.len() >= most
            && let Some(oldest) = self.all.pop_front()
        {
            self.bytes -= oldest.message.body.len();
        }
        self.bytes += reply.message.body.len();
        self.all.push_back(reply);
        let mut oldest = self.all.iter_mut();
        while self.bytes > BYTES
            && let Some(reply) = oldest.next()
        {
            self.bytes -= reply.forget_body();
        }
    }

    fn take_all(&mut self) -> VecDeque<Written> {
        self.bytes = 0;
        std::mem::take(&mut self.all)
    }

    fn take(&mut self, wanted: impl Fn(&Written) -> bool) -> Vec<Written> {
        let (taken, kept) = self.take_all().into_iter().partition(|reply| wanted(reply));
        self.all = kept;
        self.bytes = self.all.iter().map(|reply| reply.message.body.len()).sum();
        let taken: VecDeque<Written> = taken;
        taken.into()
    }
}

impl InDoubt {
    /// For a consumer with this prefetch. The broker has taken what comes before the last replies,
    /// two times the prefetch: it would not have sent further requests before their
    /// acknowledgements, which half a prefetch of others may precede.
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            most: (2 * usize::from(prefetch.max(1))).min(MOST),
            written: Remembered::default(),
            returned: Remembered::default(),
            closed_at: None,
        }
    }

    /// A reply was written to the channel that is in use.
    pub(super) fn wrote(&mut self, reply: Written) {
        self.written.push(reply, self.most);
    }

    /// A reply could not be written: its channel is closed, and its connection is not.
    pub(super) fn keep(&mut self, reply: Written, now: Instant) {
        self.closed_at.get_or_insert(now);
        self.returned.push(reply, MOST);
    }

    /// The broker has closed the channel. Gives the replies that it may be about, the likeliest
    /// first.
    pub(super) fn closed(&mut self, refusal: Refusal, now: Instant) -> Option<Written> {
        self.closed_at = Some(now);
        let replies = self.written.take_all();
        let cause = match refusal {
            Refusal::TooLarge { limit } => replies.iter().find(|reply| reply.size > limit),
            Refusal::Unrelated => None,
            Refusal::NotPermitted | Refusal::Unknown => replies.back(),
        };
        let cause = cause.cloned();
        for mut reply in replies {
            match refusal {
                Refusal::Unknown => reply.origin.suspicions += 1,
                Refusal::TooLarge { .. } | Refusal::NotPermitted | Refusal::Unrelated => {}
            }
            if reply.origin.suspicions <= SUSPECT {
                self.returned.push(reply, MOST);
            }
        }
        cause
    }

    /// The channel went with its connection: nothing is known of its replies.
    pub(super) fn disconnected(&mut self) {
        self.written.take_all();
    }

    /// Whether there is nothing to answer a request from.
    pub(super) fn is_empty(&self) -> bool {
        self.returned.all.is_empty()
    }

    /// The replies whose requests do not come back, for they were acknowledged.
    pub(super) fn take_acknowledged(&mut self) -> Vec<Written> {
        self.returned.take(|reply| reply.origin.is_acknowledged)
    }

    /// The replies to a request that came back; `None` where not all of them are known. The broker
    /// takes bodies of so many bytes.
    pub(super) fn take(
        &mut self,
        head: &RequestHead,
        request_size: usize,
        limit: usize,
        now: Instant,
    ) -> Option<Vec<Written>> {
        if self.is_empty() || head.reply_to.is_none() {
            return None;
        }
        if self
            .closed_at
            .is_none_or(|at| now.duration_since(at) > EXPIRY)
        {
            self.returned.take_all();
            return None;
        }
        let replies = self
            .returned
            .take(|reply| reply.answers(head, request_size));
        let is_whole = replies.last().is_some_and(|last| last.origin.is_last)
            && replies
                .iter()
                .enumerate()
                .all(|(at, reply)| reply.origin.part == at && reply.is_known(limit));
        is_whole.then_some(replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Properties;

    fn refused(code: u16, text: &str) -> Option<Refusal> {
        let text = text.into();
        Refusal::of(&Error::new(Kind::Broker { code, text }))
    }

    #[test]
    fn the_brokers_words_are_read() {
        let largest = |limit| Some(Refusal::TooLarge { limit });
        let text =
            "PRECONDITION_FAILED - message size 200000 is larger than configured max size 100000";
        assert_eq!(refused(406, text), largest(100_000));
        let text = "PRECONDITION_FAILED - message size 134217729 is larger than max size 134217728";
        assert_eq!(refused(406, text), largest(134_217_728));
        let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 3000 ms.";
        assert_eq!(refused(406, text), Some(Refusal::Unrelated));
        assert_eq!(refused(406, "no"), Some(Refusal::Unknown));
        let text =
            "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'x'";
        assert_eq!(refused(403, text), Some(Refusal::NotPermitted));
        assert_eq!(refused(541, "INTERNAL_ERROR"), None);
        assert_eq!(Refusal::of(&Error::new(Kind::Disconnected)), None);
    }

    fn reply(id: &str, size: usize) -> Written {
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
        Written::new(Origin::of(Some("fetch"), 7), message)
    }

    fn head(id: &str) -> RequestHead {
        RequestHead {
            reply_to: Some("replies".into()),
            correlation_id: Some(id.into()),
            ..RequestHead::default()
        }
    }

    #[test]
    fn a_request_that_came_back_has_its_reply_once() {
        let (mut in_doubt, now) = (InDoubt::new(4), Instant::now());
        in_doubt.wrote(reply("1", 10));
        in_doubt.wrote(reply("2", 200));
        assert!(
            in_doubt.take(&head("1"), 7, 100, now).is_none(),
            "it is not lost"
        );
        let limit = Refusal::TooLarge { limit: 100 };
        let cause = in_doubt.closed(limit, now).unwrap();
        assert_eq!(cause.size, 200);
        assert!(in_doubt.take(&head("3"), 7, 100, now).is_none());
        assert!(
            in_doubt.take(&head("1"), 8, 100, now).is_none(),
            "another one"
        );
        assert_eq!(in_doubt.take(&head("1"), 7, 100, now).unwrap().len(), 1);
        assert!(in_doubt.take(&head("1"), 7, 100, now).is_none());
        assert_eq!(in_doubt.take(&head("2"), 7, 100, now).unwrap()[0].size, 200);
        assert!(in_doubt.is_empty());
    }

    #[test]
    fn nothing_is_remembered_without_bound() {
        let mut in_doubt = InDoubt::new(u16::MAX);
        for id in 0..5000 {
            in_doubt.wrote(reply(&id.to_string(), 10_000));
        }
        assert_eq!(in_doubt.written.all.len(), MOST);
        assert!(in_doubt.written.bytes <= BYTES);
        in_doubt.wrote(reply("large", BYTES + 1));
        assert_eq!(in_doubt.written.bytes, 0);
        let now = Instant::now();
        in_doubt.closed(Refusal::Unrelated, now);
        assert!(in_doubt.returned.bytes <= BYTES);
        let large = in_doubt.take(&head("large"), 7, BYTES, now).unwrap();
        assert!(!large[0].is_kept && large[0].size == BYTES + 1);
    }

    #[test]
    fn a_reply_in_parts_is_known_whole_or_not_at_all() {
        let (mut in_doubt, now) = (InDoubt::new(4), Instant::now());
        let part = |part, is_last| {
            let mut reply = reply("m", 1);
            reply.origin = Origin {
                part,
                is_last,
                ..reply.origin
            };
            reply
        };
        in_doubt.wrote(part(0, false));
        in_doubt.closed(Refusal::Unrelated, now);
        assert!(in_doubt.take(&head("m"), 7, 100, now).is_none());
        in_doubt.wrote(part(0, false));
        in_doubt.wrote(part(1, true));
        in_doubt.closed(Refusal::Unrelated, now);
        assert_eq!(in_doubt.take(&head("m"), 7, 100, now).unwrap().len(), 2);
    }

    #[test]
    fn a_reply_is_not_sent_for_ever() {
        let (mut in_doubt, now) = (InDoubt::new(1), Instant::now());
        let mut sent = reply("1", 1);
        sent.origin.is_acknowledged = true;
        for suspicions in 1..=SUSPECT {
            in_doubt.wrote(sent);
            in_doubt.closed(Refusal::Unknown, now);
            sent = in_doubt.take_acknowledged().pop().unwrap();
            assert_eq!(sent.origin.suspicions, suspicions);
        }
        assert!(sent.is_suspect());
        in_doubt.wrote(sent);
        in_doubt.closed(Refusal::Unknown, now);
        assert!(in_doubt.is_empty());
    }
}
