//! From a delivery to a handler and back to a reply.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::Codec;
use crate::context::{Context, Facts};
use crate::descriptor::MethodDescriptor;
use crate::envelope::{ReplyHead, ReplyStatus, RequestHead};
use crate::link::{Connection, Delivery, Extent, Lane};
use crate::message::Outgoing;
use crate::panic::{self, Ended};
use crate::service::{Reply, Request, Service};
use crate::stats::Counters;
use crate::status::{Code, Status};
use crate::worker::{Handler, Settlement};

/// RabbitMQ's pseudo-queue for replies without a queue.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";

/// Where a request goes that names no method.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unnamed {
    /// To the service's default method, if it has one.
    Default,
    /// To this one, whose own queue it came from.
    Method(&'static MethodDescriptor),
}

/// Answers the requests of one queue.
pub(super) struct Dispatcher {
    service: Arc<dyn Service>,
    methods: HashMap<&'static str, &'static MethodDescriptor>,
    unnamed: Option<&'static MethodDescriptor>,
    name: String,
    max_message: usize,
    counters: Arc<Counters>,
}

impl Dispatcher {
    pub(super) fn new(
        connection: &Connection,
        service: Arc<dyn Service>,
        unnamed: Unnamed,
    ) -> Self {
        let descriptor = service.descriptor();
        let methods = descriptor
            .methods()
            .iter()
            .map(|method| (method.name(), method))
            .collect();
        let unnamed = match unnamed {
            Unnamed::Default => descriptor.default_target(),
            Unnamed::Method(method) => Some(method),
        };
        Self {
            service,
            methods,
            unnamed,
            name: connection.name().to_owned(),
            max_message: connection.max_message(),
            counters: connection.counters(),
        }
    }

    fn service_name(&self) -> &'static str {
        self.service.descriptor().name()
    }

    /// The method and the codec of a request, or the status it is answered with.
    fn route(&self, head: &RequestHead, size: usize) -> Result<Route, Status> {
        if size > self.max_message {
            let text = format!(
                "the request has {size} bytes, the limit is {}",
                self.max_message
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        let method = match &head.method {
            Some(name) => self.methods.get(name.as_str()).copied(),
            None => self.unnamed,
        };
        let Some(method) = method else {
            let mut known: Vec<_> = self.methods.keys().copied().collect();
            known.sort_unstable();
            let asked = head.method.as_deref().map_or("no method", |name| name);
            let text = format!(
                "`{}` has no method for `{asked}`; it has {}",
                self.service_name(),
                known.join(", ")
            );
            return Err(Status::new(Code::Unimplemented, text));
        };
        let own = self.service.descriptor().default_codec();
        let codec = match head.content_type.as_deref() {
            None => own,
            Some(name) => Codec::from_content_type(name).ok_or_else(|| {
                let text = format!(
                    "content type `{name}` is not understood; `{}` takes {own}, application/msgpack and application/json",
                    self.service_name()
                );
                Status::new(Code::InvalidArgument, text)
            })?,
        };
        Ok(Route { method, codec })
    }

    /// Runs the handler, to its end or its deadline.
    async fn run(&self, route: &Route, head: &RequestHead, body: Bytes, facts: Arrival) -> Reply {
        let Arrival {
            deadline,
            redelivered,
        } = facts;
        let context = Context::new(Facts {
            service: self.service_name().into(),
            method: route.method.name().into(),
            deadline,
            headers: head.headers.clone(),
            trace: head.trace.clone(),
            caller: head.caller.clone(),
            message_id: head.message_id.clone(),
            redelivered,
            attempt: 1,
        });
        let request = Request::new(route.method, route.codec, body);
        // Made inside the scope as well: a handler may look at its context before its first await.
        let call = context.scope(async { self.service.call(request).await });
        let method = route.method.name();
        match panic::catch(deadline, call).await {
            Ended::Done(reply) => {
                let status = reply.status();
                if status.is_some_and(|status| status.code() == Code::InvalidArgument) {
                    self.counters.malformed.add();
                    let service = self.service_name();
                    tracing::warn!(service, method, ?status, "a request was refused");
                }
                reply
            }
            Ended::Late => {
                let text = format!("`{method}` was stopped at its deadline");
                Reply::failed(Status::new(Code::DeadlineExceeded, text))
            }
            Ended::Panicked(text) => {
                self.counters.panics.add();
                let service = self.service_name();
                tracing::error!(service, method, panic = text, "a handler panicked");
                Reply::panicked(method, &text)
            }
        }
    }

    fn refused(&self, status: Status) -> Reply {
        self.counters.malformed.add();
        tracing::warn!(service = self.service_name(), %status, "a request was refused");
        Reply::failed(status)
    }

    /// Hands the reply over, to be written before the request is acknowledged.
    fn reply(&self, lane: &Lane, head: RequestHead, reply: Reply) -> Settlement {
        let Some(reply_to) = head.reply_to else {
            return Settlement::Ack;
        };
        let Reply {
            mut status,
            mut body,
        } = reply;
        if body.len() > self.max_message {
            let text = format!(
                "the reply has {} bytes, the limit is {}",
                body.len(),
                self.max_message
            );
            tracing::warn!(
                service = self.service_name(),
                method = head.method,
                "{text}"
            );
            status = ReplyStatus::Failed(Status::new(Code::ResourceExhausted, text));
            body = Bytes::new();
        }
        let head = ReplyHead {
            status,
            correlation_id: head.correlation_id,
            content_type: Some(head.content_type.unwrap_or_else(|| {
                self.service
                    .descriptor()
                    .default_codec()
                    .content_type()
                    .to_owned()
            })),
            server: Some(self.name.clone()),
        };
        let message = Outgoing {
            exchange: String::new(),
            // Replies to the pseudo-queue come back even when they were delivered.
            mandatory: !is_direct(&reply_to),
            routing_key: reply_to,
            properties: head.into_properties(),
            body,
        };
        match lane.write(message) {
            Ok(writing) => Settlement::AckOnceWritten(writing),
            // What cannot be said in AMQP at all would not be sayable the next time either.
            Err(error) => {
                tracing::warn!(service = self.service_name(), %error, "the reply cannot be sent");
                Settlement::Ack
            }
        }
    }
}

/// Where a request goes.
struct Route {
    method: &'static MethodDescriptor,
    codec: Codec,
}

/// How a request came.
#[derive(Clone, Copy)]
struct Arrival {
    deadline: Option<Instant>,
    redelivered: bool,
}

impl Handler for Dispatcher {
    async fn handle(&self, lane: Arc<Lane>, delivery: Delivery) -> Settlement {
        let Delivery { tag, message } = delivery;
        let arrived = Instant::now();
        let head = RequestHead::from_properties(message.properties);
        let deadline = head.time_left.map(|left| arrived + left);
        if head.time_left.is_some_and(|left| left.is_zero()) {
            self.counters.expired_requests.add();
            tracing::debug!(
                service = self.service_name(),
                method = head.method,
                "an expired request"
            );
            return Settlement::Ack;
        }
        let route = self.route(&head, message.body.len());
        let oneway = route.as_ref().is_ok_and(|route| route.method.is_oneway());
        if !oneway && (head.reply_to.is_none() || head.correlation_id.is_none()) {
            tracing::warn!(
                service = self.service_name(),
                method = head.method,
                reply_to = head.reply_to,
                correlation_id = head.correlation_id,
                "a request without an address for its reply"
            );
        }
        let arrival = Arrival {
            deadline,
            redelivered: message.redelivered,
        };
        let mut settled = false;
        let reply = match route {
            Err(status) => self.refused(status),
            // It has been with a worker that may have run it: an acknowledgement that was written
            // may still be lost.
            Ok(route) if route.method.is_at_most_once() && arrival.redelivered => {
                let (service, method) = (self.service_name(), route.method.name());
                tracing::debug!(service, method, "not run, it may have been before");
                let text = "delivered before, and perhaps executed: this method runs at most once";
                Reply::failed(Status::new(Code::Aborted, text))
            }
            Ok(route) => {
                // Acknowledged before it runs: a worker that dies now has lost it, not doubled it.
                settled = route.method.is_at_most_once();
                if settled {
                    lane.ack(tag, Extent::One);
                }
                self.run(&route, &head, message.body, arrival).await
            }
        };
        // RabbitMQ before 4.0 ends the connection over a direct reply to an address that it does
        // not know. A request that may have done so must not come a third time.
        if !settled && arrival.redelivered && head.reply_to.as_deref().is_some_and(is_direct) {
            lane.ack(tag, Extent::One);
            settled = true;
        }
        let settlement = self.reply(&lane, head, reply);
        if settled {
            // Written or not, there is nothing left to acknowledge.
            Settlement::Settled
        } else {
            settlement
        }
    }
}

fn is_direct(reply_to: &str) -> bool {
    reply_to.starts_with(DIRECT_REPLY)
}
