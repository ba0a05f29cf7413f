//! From a delivery to a handler and back to a reply.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::futures::TaskLocalFuture;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use super::Options;
use super::in_doubt::{InDoubt, Origin, Refusal, Written};
use super::limits::BrokerLimits;
use crate::context::{Context, Invocation};
use crate::descriptor::MethodDescriptor;
use crate::error::Error;
use crate::escape::{Escaped, escaped};
use crate::link::{AckRange, Channel, Connection, Delivery, Flush};
use crate::panic::{self, Apart, Ended, Made};
use crate::service::{Reply, Request, Service};
use crate::stats::Counters;
use crate::wire::codec::Codec;
use crate::wire::envelope::{CALLS, Form, ReplyHead, ReplyStatus, RequestHead};
use crate::wire::message::{MessageInfo, Outgoing};
use crate::wire::status::{Code, Status};
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
    name: Option<String>,
    max_message: usize,
    /// As many handlers as the concurrency says: a message of several calls may take more than one
    /// place.
    pub(super) places: Semaphore,
    /// Whether there is more than one.
    pub(super) side_by_side: bool,
    counters: Arc<Counters>,
    /// As the broker knows it.
    queue: String,
    limits: Arc<BrokerLimits>,
    replies: Mutex<SentReplies>,
    tasks: Handle,
    options: Options,
}

/// What becomes of the replies that were sent.
struct SentReplies {
    in_doubt: InDoubt,
    /// The channel in use.
    channel: Weak<Channel>,
    /// Why the broker closed the last one.
    refusal: String,
}

impl Dispatcher {
    pub(super) fn new(
        connection: &Connection,
        service: Arc<dyn Service>,
        (queue, unnamed): (&str, Unnamed),
        (concurrency, options): (u16, Options),
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
            name: connection.given_name().map(str::to_owned),
            max_message: connection.max_message(),
            places: Semaphore::new(concurrency.max(1).into()),
            side_by_side: concurrency > 1,
            counters: connection.counters(),
            queue: connection.namespace().scope(queue),
            limits: connection.shared(BrokerLimits::default),
            replies: Mutex::new(SentReplies {
                in_doubt: InDoubt::new(concurrency),
                channel: Weak::new(),
                refusal: String::new(),
            }),
            tasks: connection.tasks().clone(),
            options,
        }
    }

    fn replies(&self) -> MutexGuard<'_, SentReplies> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest body of a reply, in bytes.
    pub(super) fn largest(&self) -> usize {
        self.max_message.min(self.limits.largest())
    }

    pub(super) fn service_name(&self) -> &'static str {
        self.service.descriptor().name()
    }

    /// The method and the codec of a request, or the status it is answered with.
    fn route(&self, head: &RequestHead, size: usize) -> Result<Route, Status> {
        self.check_size(size)?;
        let method = self.method(head.method.as_deref())?;
        let codec = self.codec(head.content_type.as_deref())?;
        Ok(Route { method, codec })
    }

    pub(super) fn check_size(&self, size: usize) -> Result<(), Status> {
        if size > self.max_message {
            let text = format!(
                "the request has {size} bytes, the limit is {}",
                self.max_message
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }

    pub(super) fn method(&self, name: Option<&str>) -> Result<&'static MethodDescriptor, Status> {
        let method = match name {
            Some(name) => self.methods.get(name).copied(),
            None => self.unnamed,
        };
        method.ok_or_else(|| {
            let mut known: Vec<_> = self.methods.keys().copied().collect();
            known.sort_unstable();
            let asked = Escaped(name.unwrap_or("no method"));
            let text = format!(
                "`{}` has no method for `{asked}`; it has {}",
                self.service_name(),
                known.join(", ")
            );
            Status::new(Code::Unimplemented, text)
        })
    }

    pub(super) fn codec(&self, content_type: Option<&str>) -> Result<Codec, Status> {
        let own = self.service.descriptor().default_codec();
        own.for_content_type(content_type).map_err(|name| {
            let name = Escaped(name);
            let text = format!(
                "content type `{name}` is not understood; `{}` takes {own}, application/msgpack and application/json",
                self.service_name()
            );
            Status::new(Code::InvalidArgument, text)
        })
    }

    /// Puts a handler to work, which is done as it is awaited with [`run`](Self::run).
    pub(super) fn start(&self, work: Work) -> Running {
        let Work {
            route: Route { method, codec },
            facts,
            body,
        } = work;
        let deadline = facts.deadline;
        let request = Request::new(method, codec, body);
        let service = &self.service;
        Running {
            method: method.name(),
            deadline,
            call: Context::new(facts).handler(|| service.call(request)),
        }
    }

    /// Runs a handler to its end or its deadline.
    pub(super) async fn run(&self, running: Running, site: Site) -> Reply {
        let Running {
            method,
            deadline,
            call,
        } = running;
        let ended = match site {
            Site::Here => panic::catch(deadline, call).await,
            Site::Apart => Apart::start(panic::catch(deadline, call)).ended().await,
        };
        self.ended(method, ended)
    }

    fn ended(&self, method: &str, ended: Ended<Reply>) -> Reply {
        match ended {
            Ended::Done(reply) => {
                let status = reply.status();
                if status.is_some_and(|status| status.code() == Code::InvalidArgument) {
                    self.counters.malformed.add();
                    let service = self.service_name();
                    let status = status.map(|status| tracing::field::display(Escaped(status)));
                    tracing::warn!(service, method, status, "a request was refused");
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
                let panic = Escaped(&text);
                tracing::error!(service, method, %panic, "a handler panicked");
                Reply::panicked(method, self.options.tells_panics.then_some(&text))
            }
        }
    }

    pub(super) fn expired(&self, method: Option<&str>) {
        self.counters.expired_requests.add();
        let (service, method) = (self.service_name(), escaped(method));
        tracing::debug!(service, method, "an expired request");
    }

    pub(super) fn refused(&self, status: Status) -> Reply {
        self.counters.malformed.add();
        let service = self.service_name();
        tracing::warn!(service, status = %Escaped(&status), "a request was refused");
        Reply::failed(status)
    }

    /// The reply, or where it is too large to be sent the status that says so. A message of several
    /// replies adds so many bytes.
    pub(super) fn fitting(&self, method: Option<&str>, reply: Reply, added: usize) -> Reply {
        let (size, limit) = (reply.body.len(), self.largest());
        if size.saturating_add(added) <= limit {
            return reply;
        }
        self.too_large(method, size)
    }

    fn too_large(&self, method: Option<&str>, size: usize) -> Reply {
        let text = format!(
            "the reply has {size} bytes, the limit is {}",
            self.largest()
        );
        let (service, method) = (self.service_name(), escaped(method));
        tracing::warn!(service, method, "{text}");
        Reply::failed(Status::new(Code::ResourceExhausted, text))
    }

    /// Hands a reply over, to be written before its request is acknowledged: by whoever gets the
    /// settlement, if not along with it.
    pub(super) fn send(
        &self,
        channel: &Arc<Channel>,
        to: Address,
        (status, form): (ReplyStatus, Form),
        body: Bytes,
        (with, origin): (With, Origin),
    ) -> Settlement {
        let Some(reply_to) = to.reply_to else {
            return Settlement::Ack;
        };
        let head = ReplyHead {
            status,
            form,
            correlation_id: to.correlation_id,
            content_type: to.content_type,
            server: self.name.clone(),
        };
        let message = Outgoing {
            exchange: String::new(),
            // Replies to the pseudo-queue come back even when they were delivered.
            mandatory: !is_direct(&reply_to),
            routing_key: reply_to,
            properties: head.into_properties(),
            body,
        };
        self.write(channel, Written::new(origin, message), with)
    }

    /// Writes a reply, and remembers it for as long as the broker may not have taken it.
    fn write(&self, channel: &Arc<Channel>, reply: Written, with: With) -> Settlement {
        let now = Instant::now();
        if !self.limits.may_write(now) {
            let (service, method) = (self.service_name(), reply.origin.method);
            let queue = &self.queue;
            tracing::warn!(
                service,
                method,
                queue,
                "a reply is not sent: the broker refused others"
            );
            return Settlement::Ack;
        }
        let message = &reply.message;
        // Under the lock, so that a reply is remembered before its channel is found to be closed.
        let mut replies = self.replies();
        let sent = match with {
            With::Request(tag) => channel.reply(message, tag),
            With::Nothing(leave) => channel.publish(message, leave).map(|_| false),
        };
        match sent {
            Ok(is_acknowledged) => {
                replies.in_doubt.wrote(reply);
                if is_acknowledged {
                    Settlement::Settled
                } else {
                    Settlement::Ack
                }
            }
            Err(error) if error.is_disconnected() => {
                tracing::debug!(%error, "a reply was not sent");
                if channel.session().is_up() {
                    self.keep(&mut replies, reply, now);
                }
                Settlement::Settled
            }
            // It cannot be encoded in AMQP, nor could it be the next time.
            Err(error) => {
                tracing::warn!(service = self.service_name(), %error, "the reply cannot be sent");
                Settlement::Ack
            }
        }
    }

    /// Keeps a reply that its own channel did not take any more. That of a request which does not
    /// come back goes out on the next channel: on the one there is, or as soon as there is one.
    fn keep(&self, replies: &mut SentReplies, reply: Written, now: Instant) {
        let next = replies
            .channel
            .upgrade()
            .filter(|channel| channel.is_open());
        if let Some(channel) = next.filter(|_| reply.origin.is_acknowledged)
            && channel.publish(&reply.message, Flush::Inline).is_ok()
        {
            replies.in_doubt.wrote(reply);
        } else {
            replies.in_doubt.keep(reply, now);
        }
    }

    /// Sends a reply that was written before, or what its caller is told instead.
    fn send_again(&self, channel: &Arc<Channel>, mut reply: Written) {
        reply.origin.is_acknowledged = true;
        let (method, origin) = (reply.origin.method, reply.origin);
        let is_too_large = reply.size() > self.largest();
        if reply.is_kept() && !is_too_large && !reply.is_suspect() {
            self.write(channel, reply, With::Nothing(Flush::Inline));
            return;
        }
        let failed = if is_too_large {
            self.too_large(method, reply.size())
        } else {
            let refusal = self.replies().refusal.clone();
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
        let to = Address {
            reply_to: Some(routing_key),
            correlation_id: head.correlation_id,
            content_type: head.content_type,
            form: head.form,
        };
        if head.form == Form::Several {
            self.split(channel, to, &body, &failed, origin);
        } else {
            let Reply { status, body } = failed;
            let with = With::Nothing(Flush::Inline);
            let form = to.form;
            self.send(channel, to, (status, form), body, (with, origin));
        }
    }

    /// Which reply the broker has refused, as far as that can be told.
    fn report(&self, refusal: Refusal, reply: Option<&Written>, reason: &Error) {
        let service = self.service_name();
        let method = reply.and_then(|reply| reply.origin.method);
        let (queue, error) = (&self.queue, reason);
        match refusal {
            Refusal::Unrelated => {
                tracing::error!(service, queue, %error, "the broker closed the channel of a service");
            }
            Refusal::NotPermitted => tracing::error!(
                service,
                method,
                queue,
                %error,
                "the broker refused a reply: requests are acknowledged without an answer for a while"
            ),
            Refusal::TooLarge { .. } | Refusal::Unknown => tracing::error!(
                service,
                method,
                queue,
                %error,
                "the broker refused a reply and closed its channel"
            ),
        }
    }

    /// The replies to a request that was answered before, on a channel that the broker closed.
    fn answered_before(&self, head: &RequestHead, size: usize) -> Option<Vec<Written>> {
        let largest = self.largest();
        let mut replies = self.replies();
        replies.in_doubt.take(head, size, largest, Instant::now())
    }

    fn open(&self, channel: &Arc<Channel>, delivery: Delivery) -> Opened {
        let Delivery { tag, message } = delivery;
        let arrived = Instant::now();
        let head = RequestHead::from_properties(message.properties);
        if message.redelivered
            && let Some(replies) = self.answered_before(&head, message.size as usize)
        {
            return Opened::Answered(replies);
        }
        if head.time_left.is_some_and(|left| left.is_zero()) {
            self.expired(head.method.as_deref());
            return Opened::Unanswered;
        }
        let content = Content {
            size: message.size as usize,
            body: message.body,
            arrived,
            deadline: head.time_left.map(|left| arrived + left),
            redelivered: message.redelivered,
        };
        if head.method.as_deref() == Some(CALLS) {
            Opened::Several(Box::new((head, content)))
        } else {
            self.begin(channel, tag, head, content)
                .map_or(Opened::Unanswered, Opened::One)
        }
    }

    /// Hands over the answer to one call.
    fn answer(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        reply: Reply,
        to: Address,
        state: State,
    ) -> Settlement {
        let State {
            redelivered,
            mut settled,
            origin,
        } = state;
        settled |= self.acknowledge_first(channel, tag, &to, redelivered && !settled);
        let Reply { status, body } = reply;
        let form = to.form;
        let with = With::request(tag, settled);
        let origin = Origin {
            is_acknowledged: settled,
            ..origin
        };
        let settlement = self.send(channel, to, (status, form), body, (with, origin));
        if settled {
            // Written or not, there is nothing left to acknowledge.
            Settlement::Settled
        } else {
            settlement
        }
    }

    /// Begins to answer one call. All of the request that is not needed any more when its handler
    /// has ended is gone after this.
    ///
    /// None where its reply would go where none is to go.
    fn begin(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        mut head: RequestHead,
        content: Content,
    ) -> Option<Begun> {
        let (redelivered, size) = (content.redelivered, content.size);
        let route = self.route(&head, size);
        let oneway = route.as_ref().is_ok_and(|route| route.method.is_oneway());
        if !oneway && (head.reply_to.is_none() || head.correlation_id.is_none()) {
            let id = head.correlation_id.as_deref().map(String::from_utf8_lossy);
            tracing::warn!(
                service = self.service_name(),
                method = escaped(head.method.as_deref()),
                reply_to = escaped(head.reply_to.as_deref()),
                correlation_id = escaped(id.as_deref()),
                "a request without an address for its reply"
            );
        }
        let is_answered = self.may_answer(channel, &head);
        let mut to = self.address(&mut head);
        if !is_answered {
            if !oneway {
                return None;
            }
            to.reply_to = None;
        }
        let method = route.as_ref().ok().map(|route| route.method.name());
        let mut state = State {
            redelivered,
            settled: false,
            origin: Origin::of(method, size),
        };
        let route = match route {
            Err(status) => {
                let reply = self.refused(status);
                return Some(Begun::answered(reply, to, state));
            }
            // It has been with a worker that may have run it: an acknowledgement that was written
            // may still be lost.
            Ok(route) if route.method.is_at_most_once() && redelivered => {
                let (service, method) = (self.service_name(), route.method.name());
                tracing::debug!(service, method, "not run, it may have been before");
                let text = "delivered before, and perhaps executed: this method runs at most once";
                let reply = Reply::failed(Status::new(Code::Aborted, text));
                return Some(Begun::answered(reply, to, state));
            }
            Ok(route) => route,
        };
        // Acknowledged before it runs: a worker that dies now has lost it, not doubled it.
        state.settled = route.method.is_at_most_once();
        if state.settled {
            channel.ack(tag, AckRange::One);
        }
        let facts = Invocation {
            service: Some(self.service_name().into()),
            method: Some(route.method.name().into()),
            deadline: content.deadline,
            message: MessageInfo {
                headers: head.headers,
                trace: head.trace,
                app_id: head.caller,
                message_id: head.message_id,
                redelivered,
                attempt: 1,
                ..MessageInfo::default()
            },
        };
        let body = content.body;
        Some(Begun {
            step: Step::Run(self.start(Work { route, facts, body })),
            to,
            state,
        })
    }

    /// Whether the reply to a request may go where it says.
    pub(super) fn may_answer(&self, channel: &Arc<Channel>, head: &RequestHead) -> bool {
        let Some(reply_to) = head.reply_to.as_deref() else {
            return true;
        };
        let prefixes = &self.options.reply_to;
        let is_allowed = if is_direct(reply_to) && is_direct_risky(channel) {
            prefixes
                .iter()
                .any(|prefix| is_direct(prefix) && reply_to.starts_with(prefix))
        } else {
            prefixes.is_empty() || prefixes.iter().any(|prefix| reply_to.starts_with(prefix))
        };
        if !is_allowed {
            self.counters.malformed.add();
            tracing::warn!(
                service = self.service_name(),
                method = escaped(head.method.as_deref()),
                reply_to = %Escaped(reply_to),
                "a request is not answered: its reply would go where none is allowed to go"
            );
        }
        is_allowed
    }

    /// Where the answer to a request goes.
    pub(super) fn address(&self, head: &mut RequestHead) -> Address {
        let own = self.service.descriptor().default_codec();
        Address {
            reply_to: head.reply_to.take(),
            correlation_id: head.correlation_id.take(),
            content_type: match &head.content_type {
                None => Some(own.content_type().to_owned()),
                Some(_) => None,
            },
            form: if head.asks {
                Form::Coalescing
            } else {
                Form::Plain
            },
        }
    }

    /// The reply of a request that comes back may be one over which a broker closes the channel, or,
    /// RabbitMQ before 4.0 and a direct reply to an address that it does not know, the connection.
    /// It must not come a third time, whichever server it comes to: it is acknowledged right before
    /// its reply, in the same write.
    pub(super) fn acknowledge_first(
        &self,
        channel: &Arc<Channel>,
        tag: u64,
        to: &Address,
        again: bool,
    ) -> bool {
        let first = again && to.reply_to.is_some();
        if first {
            channel.ack_all([(tag, AckRange::One)], Flush::Deferred);
        }
        first
    }
}

/// What a reply leaves with.
#[derive(Clone, Copy, Debug)]
pub(super) enum With {
    /// The acknowledgement of this request, which gets no reply after it, if the two can leave at
    /// once.
    Request(u64),
    Nothing(Flush),
}

impl With {
    /// The last reply to a request that may be settled already.
    pub(super) fn request(tag: u64, settled: bool) -> Self {
        if settled {
            Self::Nothing(Flush::Inline)
        } else {
            Self::Request(tag)
        }
    }
}

/// A request that was looked at.
enum Opened {
    /// Nobody waits for its answer any more, or nobody is to have it.
    Unanswered,
    /// It was run before.
    Answered(Vec<Written>),
    Several(Box<(RequestHead, Content)>),
    One(Begun),
}

/// A request whose handler is about to run, or that is answered without one.
struct Begun {
    step: Step,
    to: Address,
    state: State,
}

enum Step {
    Answer(Reply),
    Run(Running),
}

/// How a request stands with the broker.
#[derive(Clone, Copy)]
struct State {
    redelivered: bool,
    /// It is acknowledged.
    settled: bool,
    origin: Origin,
}

impl Begun {
    fn answered(reply: Reply, to: Address, state: State) -> Self {
        let step = Step::Answer(reply);
        Self { step, to, state }
    }
}

/// A handler at work.
pub(super) struct Running {
    method: &'static str,
    deadline: Option<Instant>,
    call: TaskLocalFuture<Context, Made<Reply>>,
}

/// Where the answer to a request goes.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) reply_to: Option<String>,
    pub(super) correlation_id: Option<Vec<u8>>,
    /// How the body is written, where the request did not say: else it is written as that was.
    pub(super) content_type: Option<String>,
    /// Of one reply: it says what this server takes where the client has asked.
    pub(super) form: Form,
}

/// Where a request goes.
pub(super) struct Route {
    pub(super) method: &'static MethodDescriptor,
    pub(super) codec: Codec,
}

/// What a handler gets.
pub(super) struct Work {
    pub(super) route: Route,
    pub(super) facts: Invocation,
    pub(super) body: Bytes,
}

/// Where a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Here,
    /// On a task of its own.
    Apart,
}

/// A delivery without its head.
pub(super) struct Content {
    /// The body's size, also where it was left out for being too large.
    pub(super) size: usize,
    pub(super) body: Bytes,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) redelivered: bool,
}

impl Handler for Dispatcher {
    /// What is large is dealt with between the waits: one of these is moved to the heap for each
    /// request.
    async fn handle(self: Arc<Self>, channel: Arc<Channel>, delivery: Delivery) -> Settlement {
        let tag = delivery.tag;
        let Begun { step, to, state } = match self.open(&channel, delivery) {
            Opened::Unanswered => return Settlement::Ack,
            Opened::Answered(replies) => {
                channel.ack_all([(tag, AckRange::One)], Flush::Deferred);
                for reply in replies {
                    self.send_again(&channel, reply);
                }
                return Settlement::Settled;
            }
            Opened::Several(request) => {
                let (head, content) = *request;
                return Box::pin(self.answer_several(&channel, tag, head, content)).await;
            }
            Opened::One(begun) => begun,
        };
        let reply = match step {
            Step::Answer(reply) => reply,
            Step::Run(running) if state.settled => {
                return Box::pin(self.run_apart(channel, tag, running, to, state)).await;
            }
            Step::Run(Running {
                method,
                deadline,
                call,
            }) => {
                let _place = self.places.acquire().await;
                let ended = panic::catch(deadline, call).await;
                self.fitting(Some(method), self.ended(method, ended), 0)
            }
        };
        self.answer(&channel, tag, reply, to, state)
    }

    fn began(&self, channel: &Arc<Channel>) {
        self.limits.begin(channel.session().generation());
        let mut replies = self.replies();
        replies.channel = Arc::downgrade(channel);
        let acknowledged = replies.in_doubt.take_acknowledged();
        drop(replies);
        for reply in acknowledged {
            self.send_again(channel, reply);
        }
    }

    fn lost(&self, queue: &str, _: &Arc<Channel>, reason: &Error) {
        let now = Instant::now();
        let mut replies = self.replies();
        let Some(refusal) = Refusal::of(reason) else {
            replies.in_doubt.disconnected();
            tracing::debug!(queue, error = %reason, "the consumer was lost");
            return;
        };
        let cause = replies.in_doubt.closed(refusal, now);
        replies.refusal = reason.to_string();
        drop(replies);
        match refusal {
            Refusal::TooLarge { limit } => self.limits.learn_largest(limit),
            Refusal::NotPermitted => self.limits.deny(now),
            Refusal::Unrelated | Refusal::Unknown => {}
        }
        self.report(refusal, cause.as_ref(), reason);
    }
}

impl Dispatcher {
    /// Runs a request that is acknowledged, on a task of its own: it does not come back, so that it
    /// goes on when the channel alone is closed under it.
    async fn run_apart(
        self: Arc<Self>,
        channel: Arc<Channel>,
        tag: u64,
        running: Running,
        to: Address,
        state: State,
    ) -> Settlement {
        let (tasks, its_lane) = (self.tasks.clone(), Arc::clone(&channel));
        let task = tasks.spawn(async move {
            let Running {
                method,
                deadline,
                call,
            } = running;
            let _place = self.places.acquire().await;
            let ended = panic::catch(deadline, call).await;
            let reply = self.fitting(Some(method), self.ended(method, ended), 0);
            self.answer(&its_lane, tag, reply, to, state)
        });
        let survivor = Survivor {
            task: task.abort_handle(),
            channel,
        };
        survivor.ended(task).await
    }
}

/// A handler that is dropped with its connection or its server, and not with its channel alone.
struct Survivor {
    task: AbortHandle,
    channel: Arc<Channel>,
}

impl Survivor {
    async fn ended(self, task: JoinHandle<Settlement>) -> Settlement {
        // A handler's panic is caught in it: what ends its task otherwise ends its runtime.
        task.await.unwrap_or(Settlement::Settled)
    }
}

impl Drop for Survivor {
    fn drop(&mut self) {
        if self.channel.is_open() || !self.channel.session().is_up() {
            self.task.abort();
        }
    }
}

fn is_direct(reply_to: &str) -> bool {
    reply_to.starts_with(DIRECT_REPLY)
}

/// Whether a direct reply to an address that somebody has made up ends the connection, as RabbitMQ
/// before 4.0 does it (541).
fn is_direct_risky(channel: &Channel) -> bool {
    channel.session().broker().is_some_and(|broker| {
        let major = broker.version.split('.').next();
        let major = major.and_then(|major| major.parse::<u32>().ok());
        broker.product == "RabbitMQ" && major.is_some_and(|major| major < 4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_of_future;
    use crate::worker::work;

    /// One a request, and each is moved to the heap: the allocator is slow beyond 1 KiB.
    #[test]
    fn the_future_of_a_request_stays_small() {
        type Given = (Arc<Dispatcher>, Arc<Counters>, Arc<Channel>, Delivery);
        let work = size_of_future(|(dispatcher, counters, channel, delivery): Given| {
            work(dispatcher, counters, channel, delivery)
        });
        assert!(work <= 1024, "{work}");
    }
}
