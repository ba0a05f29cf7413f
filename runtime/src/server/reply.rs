//! Replies: published on the channel of their request before it is acknowledged, and remembered for as
//! long as the broker may refuse them.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::time::Instant;

use super::limits::BrokerLimits;
use super::sent_replies::{ReplyOrigin, ReplyRefusal, SentReplies, SentReply};
use crate::error::Error;
use crate::escape::{Escaped, escaped};
use crate::link::{AckRange, Channel, Connection, Flush};
use crate::service::{Reply, Service};
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::codec::Codec;
use crate::wire::envelope::{ReplyForm, ReplyHead, RequestHead};
use crate::wire::message::Outgoing;
use crate::wire::status::{Code, Status};
use crate::worker::Settlement;

/// The prefix of RabbitMQ's pseudo-queue for direct replies.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Sends the replies of a service to the requests from one queue.
pub(super) struct ReplySender {
    service: &'static str,
    /// The service's queue, by its name on the broker.
    queue: String,
    /// The codec of replies to requests without a content type.
    default_codec: Codec,
    /// `app_id` of the replies.
    app_id: Option<String>,
    max_message: usize,
    /// The prefixes of the queues that replies may be sent to; empty for all queues.
    reply_to_prefixes: Vec<String>,
    limits: Arc<BrokerLimits>,
    state: Mutex<SenderState>,
    counters: Arc<Counters>,
}

struct SenderState {
    sent: SentReplies,
    /// The current channel of the consumer.
    channel: Weak<Channel>,
    /// The broker's reason for closing the previous one.
    refusal: String,
}

/// The part of a request that is kept for its reply: where that goes, its properties that come from the
/// request, and the facts by which it is remembered.
#[derive(Clone)]
pub(super) struct ReplyRoute {
    pub(super) reply_to: Option<String>,
    pub(super) correlation_id: Option<Vec<u8>>,
    /// `None` if the request has a content type, because the reply has the same.
    pub(super) content_type: Option<String>,
    pub(super) form: ReplyForm,
    /// Whether the request was delivered before.
    pub(super) redelivered: bool,
    pub(super) origin: ReplyOrigin,
}

impl ReplyRoute {
    /// The address of the reply; `None` if the request does not tell all of it.
    pub(super) fn address(&self) -> Option<(&str, &[u8])> {
        Some((self.reply_to.as_deref()?, self.correlation_id.as_deref()?))
    }
}

/// The acknowledgement of a request together with its reply.
#[derive(Clone, Copy, Debug)]
pub(super) enum AckMode {
    /// The request with this delivery tag, to which no other reply follows, is acknowledged in the same
    /// write if its consumer has a prefetch of one.
    WithReply(u64),
    /// Nothing is acknowledged; the reply is flushed so.
    None(Flush),
}

impl AckMode {
    /// The mode of the last reply to a request.
    pub(super) fn last(tag: u64, is_acked: bool) -> Self {
        if is_acked {
            Self::None(Flush::Inline)
        } else {
            Self::WithReply(tag)
        }
    }
}

impl ReplySender {
    pub(super) fn new(
        connection: &Connection,
        service: &dyn Service,
        queue: &str,
        concurrency: u16,
        reply_to_prefixes: Vec<String>,
    ) -> Self {
        let descriptor = service.descriptor();
        Self {
            service: descriptor.name(),
            queue: connection.namespace().scope(queue),
            default_codec: descriptor.default_codec(),
            app_id: connection.given_name().map(str::to_owned),
            max_message: connection.max_message(),
            reply_to_prefixes,
            limits: connection.shared(BrokerLimits::default),
            state: Mutex::new(SenderState {
                sent: SentReplies::new(concurrency),
                channel: Weak::new(),
                refusal: String::new(),
            }),
            counters: connection.counters(),
        }
    }

    pub(super) fn service(&self) -> &'static str {
        self.service
    }

    fn state(&self) -> MutexGuard<'_, SenderState> {
        lock(&self.state)
    }

    /// The largest body of a reply, in bytes.
    pub(super) fn max_body(&self) -> usize {
        self.max_message.min(self.limits.max_body())
    }

    /// Whether the server's options allow a reply to the queue that a request names.
    pub(super) fn may_reply(&self, channel: &Channel, head: &RequestHead) -> bool {
        let Some(reply_to) = head.reply_to.as_deref() else {
            return true;
        };
        let prefixes = &self.reply_to_prefixes;
        let is_allowed = if is_direct(reply_to) && closes_connection_over_direct_reply(channel) {
            prefixes
                .iter()
                .any(|prefix| is_direct(prefix) && reply_to.starts_with(prefix))
        } else {
            prefixes.is_empty() || prefixes.iter().any(|prefix| reply_to.starts_with(prefix))
        };
        if !is_allowed {
            self.counters.malformed.add();
            tracing::warn!(
                service = self.service,
                method = escaped(head.method.as_deref()),
                reply_to = %Escaped(reply_to),
                "a request is dropped: replies to this queue are not allowed"
            );
        }
        is_allowed
    }

    /// Whether the reply goes to RabbitMQ's pseudo-queue for direct replies.
    pub(super) fn is_direct(&self, route: &ReplyRoute) -> bool {
        route.reply_to.as_deref().is_some_and(is_direct)
    }

    /// Takes the properties of the reply from a request.
    pub(super) fn route(
        &self,
        head: &mut RequestHead,
        redelivered: bool,
        origin: ReplyOrigin,
    ) -> ReplyRoute {
        ReplyRoute {
            redelivered,
            origin,
            reply_to: head.reply_to.take(),
            correlation_id: head.correlation_id.take(),
            content_type: match &head.content_type {
                None => Some(self.default_codec.content_type().to_owned()),
                Some(_) => None,
            },
            form: if head.asks_for_batches {
                ReplyForm::AcceptsBatches
            } else {
                ReplyForm::Single
            },
        }
    }

    /// Acknowledges a redelivered request, in the same write as the reply that follows, unless it is
    /// acknowledged already. Returns whether the request is acknowledged.
    ///
    /// The broker may have closed the channel over this reply the first time, or, RabbitMQ before 4.0 and
    /// a direct reply to an unknown address, the connection. Without the acknowledgement, the request
    /// would come again after each refusal, to any server of the queue.
    pub(super) fn ack_redelivered(
        &self,
        channel: &Channel,
        tag: u64,
        route: &mut ReplyRoute,
    ) -> bool {
        let is_acked = &mut route.origin.is_acknowledged;
        if route.redelivered && !*is_acked && route.reply_to.is_some() {
            channel.ack_all([(tag, AckRange::One)], Flush::Deferred);
            *is_acked = true;
        }
        *is_acked
    }

    /// The reply, or, if it is too large to be sent, a status that tells so. `overhead` is added to its
    /// size.
    pub(super) fn fit(&self, method: Option<&str>, reply: Reply, overhead: usize) -> Reply {
        let (size, limit) = (reply.body.len(), self.max_body());
        if size.saturating_add(overhead) <= limit {
            return reply;
        }
        self.too_large(method, size)
    }

    fn too_large(&self, method: Option<&str>, size: usize) -> Reply {
        let limit = self.max_body();
        let text = format!("the reply has {size} bytes, the limit is {limit}");
        let (service, method) = (self.service, escaped(method));
        tracing::warn!(service, method, "{text}");
        Reply::failed(Status::new(Code::ResourceExhausted, text))
    }

    /// Publishes a reply. The settlement that is returned follows it.
    pub(super) fn send(
        &self,
        channel: &Arc<Channel>,
        route: ReplyRoute,
        reply: Reply,
        ack: AckMode,
    ) -> Settlement {
        let Some(reply_to) = route.reply_to else {
            return Settlement::Ack;
        };
        let (status, body, headers) = reply.into_parts();
        let head = ReplyHead {
            status,
            form: route.form,
            correlation_id: route.correlation_id,
            content_type: route.content_type,
            server: self.app_id.clone(),
            headers,
        };
        let message = Outgoing {
            exchange: String::new(),
            // RabbitMQ returns mandatory messages to the pseudo-queue even if it delivered them.
            mandatory: !is_direct(&reply_to),
            routing_key: reply_to,
            properties: head.into_properties(),
            body,
        };
        self.publish(channel, SentReply::new(route.origin, message), ack)
    }

    /// Publishes a reply, and remembers it for as long as the broker may refuse it.
    fn publish(&self, channel: &Arc<Channel>, reply: SentReply, ack: AckMode) -> Settlement {
        let now = Instant::now();
        if !self.limits.may_write(now) {
            tracing::warn!(
                service = self.service,
                method = reply.origin.method,
                queue = self.queue,
                "a reply is not sent: the broker has refused replies for want of a permission"
            );
            return Settlement::Ack;
        }
        let message = &reply.message;
        // The lock is held over the publish, so that the reply is remembered before the channel's close
        // is handled.
        let mut state = self.state();
        let published = match ack {
            AckMode::WithReply(tag) => channel.reply(message, tag),
            AckMode::None(flush) => channel.publish(message, flush).map(|_| false),
        };
        match published {
            Ok(is_acked) => {
                state.sent.sent(reply);
                if is_acked {
                    Settlement::Settled
                } else {
                    Settlement::Ack
                }
            }
            Err(error) if error.is_disconnected_or_closed() => {
                tracing::debug!(%error, "a reply was not sent");
                if channel.session().is_up() {
                    self.keep_for_next_channel(&mut state, reply, now);
                }
                Settlement::Settled
            }
            // The reply cannot be encoded as AMQP. A retry would not help, so the request is acknowledged.
            Err(error) => {
                tracing::warn!(service = self.service, %error, "a reply cannot be encoded as AMQP, not sent");
                Settlement::Ack
            }
        }
    }

    /// Keeps a reply whose channel was closed before it was published. If its request was acknowledged,
    /// and so does not come again, it is published on the current channel, or on the next one.
    fn keep_for_next_channel(&self, state: &mut SenderState, reply: SentReply, now: Instant) {
        let current = state.channel.upgrade().filter(|channel| channel.is_open());
        if let Some(channel) = current.filter(|_| reply.origin.is_acknowledged)
            && channel.publish(&reply.message, Flush::Inline).is_ok()
        {
            state.sent.sent(reply);
        } else {
            state.sent.keep(reply, now);
        }
    }

    /// Called when the broker delivers requests on this channel from now on.
    pub(super) fn channel_started(&self, channel: &Arc<Channel>) {
        self.limits.session_started(channel.session().generation());
        let mut state = self.state();
        state.channel = Arc::downgrade(channel);
        let acknowledged = state.sent.take_acknowledged();
        drop(state);
        for reply in acknowledged {
            self.resend(channel, reply);
        }
    }

    /// Called when the channel of a consumer is gone.
    pub(super) fn channel_lost(&self, reason: &Error) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(refusal) = ReplyRefusal::of(reason) else {
            state.sent.disconnected();
            tracing::debug!(queue = self.queue, error = %reason, "the consumer was lost with its connection");
            return;
        };
        let cause = state.sent.channel_closed(refusal, now);
        state.refusal = reason.to_string();
        drop(state);
        match refusal {
            ReplyRefusal::TooLarge { limit } => self.limits.set_max_body(limit),
            ReplyRefusal::NotPermitted => self.limits.write_refused(now),
            ReplyRefusal::Unrelated | ReplyRefusal::Unknown => {}
        }
        self.report(refusal, cause.as_ref(), reason);
    }

    /// Logs that the broker closed the channel, with the reply that it refused if that is known.
    fn report(&self, refusal: ReplyRefusal, reply: Option<&SentReply>, error: &Error) {
        let (service, queue) = (self.service, self.queue.as_str());
        let method = reply.and_then(|reply| reply.origin.method);
        match refusal {
            ReplyRefusal::Unrelated => {
                tracing::error!(service, queue, %error, "the broker closed the channel of a service");
            }
            ReplyRefusal::NotPermitted => tracing::error!(
                service,
                method,
                queue,
                %error,
                "the broker refused a reply: for a while, requests are acknowledged without a reply"
            ),
            ReplyRefusal::TooLarge { .. } | ReplyRefusal::Unknown => tracing::error!(
                service,
                method,
                queue,
                %error,
                "the broker refused a reply and closed its channel"
            ),
        }
    }

    /// The replies to a request that is delivered again because the broker closed its channel.
    pub(super) fn earlier_replies(
        &self,
        head: &RequestHead,
        size: usize,
    ) -> Option<Vec<SentReply>> {
        let max_body = self.max_body();
        let mut state = self.state();
        state.sent.take(head, size, max_body, Instant::now())
    }

    /// Sends a reply again, or in its place a status for its caller.
    pub(super) fn resend(&self, channel: &Arc<Channel>, mut reply: SentReply) {
        reply.origin.is_acknowledged = true;
        let (method, origin) = (reply.origin.method, reply.origin);
        let is_too_large = reply.size() > self.max_body();
        if reply.has_body() && !is_too_large && !reply.is_suspect() {
            self.publish(channel, reply, AckMode::None(Flush::Inline));
            return;
        }
        let failed = if is_too_large {
            self.too_large(method, reply.size())
        } else {
            let refusal = self.state().refusal.clone();
            let text = format!("the reply was lost as the broker closed its channel: {refusal}");
            Reply::failed(Status::new(Code::Internal, text))
        };
        let Outgoing {
            routing_key,
            properties,
            body,
            ..
        } = reply.message;
        let head = ReplyHead::from_properties(properties);
        let route = ReplyRoute {
            reply_to: Some(routing_key),
            correlation_id: head.correlation_id,
            content_type: head.content_type,
            form: head.form,
            redelivered: true,
            origin,
        };
        if head.form == ReplyForm::Batch {
            self.resend_batch(channel, route, &body, &failed);
        } else {
            self.send(channel, route, failed, AckMode::None(Flush::Inline));
        }
    }
}

fn is_direct(reply_to: &str) -> bool {
    reply_to.starts_with(DIRECT_REPLY_TO)
}

/// Whether the broker closes the connection (541) over a direct reply to an unknown address, as RabbitMQ
/// before 4.0 does.
fn closes_connection_over_direct_reply(channel: &Channel) -> bool {
    channel.session().broker().is_some_and(|broker| {
        let major = broker.version.split('.').next();
        let major = major.and_then(|major| major.parse::<u32>().ok());
        broker.product == "RabbitMQ" && major.is_some_and(|major| major < 4)
    })
}
