//! One call from its request to its answer, whatever happens in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::call::Plan;
use super::caller::{Answer, Slot};
use super::{Backend, DEFAULT_TIMEOUT, Remote};
use crate::codec::{Codec, CodecError};
use crate::context::{Context, Facts};
use crate::envelope::{ReplyHead, ReplyStatus, RequestHead};
use crate::error::{Error, Kind, Outcome};
use crate::message::{Incoming, Outgoing};
use crate::panic::{self, Ended};
use crate::publisher::{Receipt, What};
use crate::service::{Reply, Request, Service};
use crate::status::Status;

/// Before a request that was not sent is tried again: its channel is being replaced.
const NEXT_TRY: Duration = Duration::from_millis(5);

/// The longest a call can take: what RabbitMQ's `expiration` can say.
const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

static MESSAGES: AtomicU64 = AtomicU64::new(1);

/// A request under way.
pub(super) struct Flight {
    letter: Letter,
    way: Way,
    /// Its place among the calls in flight.
    _place: OwnedSemaphorePermit,
}

/// What is sent, and what its errors say.
struct Letter {
    what: What,
    started: Instant,
    deadline: Instant,
    queue: String,
    head: RequestHead,
    body: Bytes,
    codec: Codec,
    idempotent: bool,
}

enum Way {
    Remote(Remote, Slot),
    Oneway(Receipt),
    Local(Local),
    /// There is nothing to wait for.
    Gone,
}

/// A local call runs on its own task once it is sent, as a remote one would.
struct Local(tokio::task::JoinHandle<Ended<Reply>>);

impl Drop for Local {
    fn drop(&mut self) {
        let handle: AbortHandle = self.0.abort_handle();
        handle.abort();
    }
}

/// An answer, still encoded.
pub(super) struct Answered {
    pub(super) status: ReplyStatus,
    pub(super) codec: Codec,
    pub(super) body: Bytes,
    what: What,
    started: Instant,
}

impl Answered {
    pub(super) fn undecodable(&self, error: CodecError) -> Error {
        self.at(Error::new(Kind::Decode).caused_by(error))
    }

    pub(super) fn failed(&self, status: Status) -> Error {
        self.at(Error::new(Kind::Status(status)))
    }

    fn at(&self, error: Error) -> Error {
        self.what.failed(error, self.started, Outcome::Answered)
    }
}

impl Letter {
    fn failed(&self, kind: Kind, outcome: Outcome) -> Error {
        self.what.failed(Error::new(kind), self.started, outcome)
    }

    fn not_sent(&self, error: Error) -> Error {
        self.what.failed(error, self.started, Outcome::NotSent)
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The message as it goes out now: the time left is part of it.
    fn outgoing(&self) -> Outgoing {
        let mut head = self.head.clone();
        head.time_left = Some(self.time_left());
        Outgoing {
            exchange: String::new(),
            routing_key: self.queue.clone(),
            mandatory: true,
            properties: head.into_properties(),
            body: self.body.clone(),
        }
    }
}

impl Flight {
    /// Sends the request.
    pub(super) async fn launch(plan: Plan) -> Result<Self, Error> {
        let started = Instant::now();
        let Plan {
            client,
            method,
            body,
            timeout,
            priority,
            headers,
        } = plan;
        let context = Context::current();
        let limit = timeout
            .or(method.timeout())
            .or(client.timeout)
            .unwrap_or(DEFAULT_TIMEOUT)
            .min(LONGEST);
        let own = started + limit;
        let deadline = context.deadline().map_or(own, |outer| outer.min(own));
        let queue = method.own_queue().unwrap_or(client.descriptor.queue_name());
        let queue = match &client.backend {
            Backend::Remote(remote) => remote.connection.namespace().scope(queue),
            Backend::Local(_) => queue.to_owned(),
        };
        let what = What {
            service: client.descriptor.name().to_owned(),
            method: method.name().to_owned(),
            queue: queue.clone(),
        };
        let head = RequestHead {
            method: Some(method.name().to_owned()),
            content_type: Some(client.codec.content_type().to_owned()),
            priority,
            headers,
            trace: context.trace().clone(),
            ..RequestHead::default()
        };
        let body = body.map_err(|error| what.failed(error, started, Outcome::NotSent))?;
        let (codec, idempotent) = (client.codec, method.is_idempotent());
        let mut letter = Letter {
            what,
            started,
            deadline,
            queue,
            head,
            body,
            codec,
            idempotent,
        };
        let place = Arc::clone(&client.in_flight).acquire_owned();
        let place = match timeout_at(deadline, place).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(letter.failed(Kind::Timeout, Outcome::NotSent)),
        };
        let way = match client.backend {
            Backend::Local(service) => {
                let call = tokio::spawn(call_locally(service, method, &letter));
                if method.is_oneway() {
                    Way::Gone
                } else {
                    Way::Local(Local(call))
                }
            }
            Backend::Remote(remote) => {
                let limit = remote.connection.max_message();
                let size = letter.body.len();
                if size > limit {
                    return Err(letter.not_sent(Error::new(Kind::TooLarge { size, limit })));
                }
                letter.head.caller = Some(remote.connection.name().to_owned());
                if letter.time_left().is_zero() {
                    return Err(letter.failed(Kind::Timeout, Outcome::NotSent));
                }
                if method.is_oneway() {
                    letter.head.message_id = Some(message_id(&remote));
                    let message = letter.outgoing();
                    let (what, left) = (letter.what.clone(), letter.time_left());
                    Way::Oneway(remote.publisher.send(message, what, left).await?)
                } else {
                    if idempotent {
                        letter.head.message_id = Some(message_id(&remote));
                    }
                    let slot = send(&remote, &letter).await?;
                    Way::Remote(remote, slot)
                }
            }
        };
        Ok(Self {
            letter,
            way,
            _place: place,
        })
    }

    /// Waits for the answer.
    pub(super) async fn land(self) -> Result<Answered, Error> {
        let Self {
            letter,
            way,
            _place,
        } = self;
        match way {
            Way::Oneway(receipt) => {
                receipt.wait().await?;
                Ok(letter.nothing())
            }
            Way::Gone => Ok(letter.nothing()),
            Way::Local(mut local) => {
                let Reply { status, body } = match (&mut local.0).await {
                    Ok(Ended::Done(reply)) => reply,
                    Ok(Ended::Panicked(text)) => Reply::panicked(&letter.what.method, &text),
                    // It ends by itself at the deadline; its runtime may have ended before.
                    Ok(Ended::Late) | Err(_) => {
                        return Err(letter.failed(Kind::Timeout, Outcome::SentNoReply));
                    }
                };
                Ok(letter.answered(status, letter.codec, body))
            }
            Way::Remote(remote, mut slot) => loop {
                match timeout_at(letter.deadline, slot.answer()).await {
                    Err(_) => return Err(letter.failed(Kind::Timeout, Outcome::SentNoReply)),
                    Ok(Answer::Returned) => {
                        return Err(letter.failed(Kind::Unroutable, Outcome::Unroutable));
                    }
                    Ok(Answer::Reply(reply)) => {
                        return letter.read(reply, remote.connection.max_message());
                    }
                    Ok(Answer::Lost(reason)) if letter.idempotent && !reason.is_closed() => {
                        tracing::debug!(call = ?letter.what, "sent again after a lost connection");
                        slot = send(&remote, &letter).await.map_err(|error| {
                            // It was sent before: whatever keeps it from being sent again, that
                            // first request may have been executed.
                            let kind = error.kind().clone();
                            letter.failed(kind, Outcome::SentNoReply).caused_by(error)
                        })?;
                    }
                    Ok(Answer::Lost(reason)) => {
                        let kind = reason.kind().clone();
                        return Err(letter.failed(kind, Outcome::SentNoReply).caused_by(reason));
                    }
                }
            },
        }
    }
}

impl Letter {
    fn answered(&self, status: ReplyStatus, codec: Codec, body: Bytes) -> Answered {
        let (what, started) = (self.what.clone(), self.started);
        Answered {
            status,
            codec,
            body,
            what,
            started,
        }
    }

    /// The answer to a request that has none: `()`, in whatever codec.
    fn nothing(&self) -> Answered {
        self.answered(
            ReplyStatus::Success,
            Codec::Json,
            Bytes::from_static(b"null"),
        )
    }

    fn read(&self, reply: Incoming, limit: usize) -> Result<Answered, Error> {
        let size = reply.body.len();
        if size > limit {
            return Err(self.failed(Kind::TooLarge { size, limit }, Outcome::Answered));
        }
        let head = ReplyHead::from_properties(reply.properties);
        let codec = match head.content_type.as_deref() {
            None => self.codec,
            Some(name) => Codec::from_content_type(name).ok_or_else(|| {
                let text = format!("the reply is `{name}`, the request was `{}`", self.codec);
                self.failed(Kind::Decode, Outcome::Answered).caused_by(text)
            })?,
        };
        Ok(self.answered(head.status, codec, reply.body))
    }
}

/// Registers the call and publishes its request, on the first connection that takes it.
async fn send(remote: &Remote, letter: &Letter) -> Result<Slot, Error> {
    loop {
        let station = match timeout_at(letter.deadline, remote.caller.station()).await {
            Ok(Ok(station)) => station,
            Ok(Err(error)) => return Err(letter.not_sent(error)),
            Err(_) => {
                let kind = remote.caller.blocked().map_or(Kind::Timeout, Kind::Blocked);
                return Err(letter.failed(kind, Outcome::NotSent));
            }
        };
        if letter.time_left().is_zero() {
            return Err(letter.failed(Kind::Timeout, Outcome::NotSent));
        }
        let Some(slot) = station.register() else {
            tokio::time::sleep(NEXT_TRY).await;
            continue;
        };
        let mut message = letter.outgoing();
        message.properties.reply_to = Some(station.reply_to.clone());
        message.properties.correlation_id = Some(slot.id.to_string());
        match station.publish(message) {
            Ok(()) => return Ok(slot),
            Err(error) if error.is_disconnected() => {
                tracing::debug!(%error, "not sent, waiting for the next connection");
                tokio::time::sleep(NEXT_TRY).await;
            }
            Err(error) => return Err(letter.not_sent(error)),
        }
    }
}

fn message_id(remote: &Remote) -> String {
    let number = MESSAGES.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", remote.caller.identity)
}

fn call_locally(
    service: Arc<dyn Service>,
    method: &'static crate::descriptor::MethodDescriptor,
    letter: &Letter,
) -> impl Future<Output = Ended<Reply>> + Send + 'static {
    let request = Request::new(method, letter.codec, letter.body.clone());
    let context = Context::new(Facts {
        service: letter.what.service.clone(),
        method: letter.what.method.clone(),
        deadline: Some(letter.deadline),
        headers: letter.head.headers.clone(),
        trace: letter.head.trace.clone(),
        attempt: 1,
        ..Facts::default()
    });
    let call = context.scope(async move { service.call(request).await });
    panic::catch(Some(letter.deadline), call)
}
