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
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::envelope::{ReplyHead, ReplyStatus, RequestHead};
use crate::error::{Error, Kind, Outcome};
use crate::message::{Incoming, Outgoing};
use crate::panic::{self, Ended};
use crate::publisher::{Receipt, What};
use crate::service::{Reply, Request, Service};
use crate::status::Status;
use crate::value::Table;

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
    service: &'static ServiceDescriptor,
    method: &'static MethodDescriptor,
    queue: Arc<str>,
    started: Instant,
    deadline: Instant,
    codec: Codec,
    body: Bytes,
    message_id: Option<String>,
    priority: Option<u8>,
    headers: Table,
    trace: Table,
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
    letter: Letter,
}

impl Answered {
    pub(super) fn undecodable(&self, error: CodecError) -> Error {
        self.at(Error::new(Kind::Decode).caused_by(error))
    }

    pub(super) fn failed(&self, status: Status) -> Error {
        self.at(Error::new(Kind::Status(status)))
    }

    fn at(&self, error: Error) -> Error {
        self.letter
            .what()
            .failed(error, self.letter.started, Outcome::Answered)
    }
}

impl Letter {
    fn what(&self) -> What {
        let (service, method) = (self.service.name().into(), self.method.name().into());
        What {
            service,
            method,
            queue: Arc::clone(&self.queue),
        }
    }

    fn failed(&self, kind: Kind, outcome: Outcome) -> Error {
        self.what().failed(Error::new(kind), self.started, outcome)
    }

    fn not_sent(&self, error: Error) -> Error {
        self.what().failed(error, self.started, Outcome::NotSent)
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The message as it goes out now: the time left is part of it.
    fn outgoing(&self, remote: &Remote, answer: Option<&Slot>) -> Outgoing {
        let head = RequestHead {
            method: Some(self.method.name().to_owned()),
            reply_to: answer.map(|slot| slot.reply_to().to_owned()),
            correlation_id: answer.map(|slot| slot.id.to_string()),
            message_id: self.message_id.clone(),
            content_type: Some(self.codec.content_type().to_owned()),
            time_left: Some(self.time_left()),
            priority: self.priority,
            caller: Some(remote.connection.name().to_owned()),
            headers: self.headers.clone(),
            trace: self.trace.clone(),
            persistent: false,
        };
        Outgoing {
            exchange: String::new(),
            routing_key: self.queue.to_string(),
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
        let queue = client.queue_of(method);
        let (service, codec, trace) = (client.descriptor, client.codec, context.trace().clone());
        let mut letter = Letter {
            service,
            method,
            queue,
            started,
            deadline,
            codec,
            body: Bytes::new(),
            message_id: None,
            priority,
            headers,
            trace,
        };
        letter.body = body.map_err(|error| letter.not_sent(error))?;
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
                if letter.time_left().is_zero() {
                    return Err(letter.failed(Kind::Timeout, Outcome::NotSent));
                }
                if method.is_oneway() || method.is_idempotent() {
                    letter.message_id = Some(message_id_of(&remote));
                }
                if method.is_oneway() {
                    let message = letter.outgoing(&remote, None);
                    let left = letter.time_left();
                    Way::Oneway(remote.publisher.send(message, letter.what(), left).await?)
                } else {
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
                    Ok(Ended::Panicked(text)) => Reply::panicked(letter.method.name(), &text),
                    // It ends by itself at the deadline; its runtime may have ended before.
                    Ok(Ended::Late) | Err(_) => {
                        return Err(letter.failed(Kind::Timeout, Outcome::SentNoReply));
                    }
                };
                let codec = letter.codec;
                Ok(letter.answered(status, codec, body))
            }
            Way::Remote(remote, mut slot) => {
                let mut sent_before = false;
                loop {
                    match timeout_at(letter.deadline, slot.answer()).await {
                        Err(_) => return Err(letter.failed(Kind::Timeout, Outcome::SentNoReply)),
                        Ok(Answer::Returned) => {
                            // The queue may have gone after it took the first request.
                            let outcome = if sent_before {
                                Outcome::SentNoReply
                            } else {
                                Outcome::Unroutable
                            };
                            return Err(letter.failed(Kind::Unroutable, outcome));
                        }
                        Ok(Answer::Reply(reply)) => {
                            return letter.read(reply, remote.connection.max_message());
                        }
                        Ok(Answer::Lost(reason))
                            if letter.method.is_idempotent() && !reason.is_closed() =>
                        {
                            tracing::debug!(call = ?letter.what(), "sent again after a lost connection");
                            sent_before = true;
                            slot = send(&remote, &letter).await.map_err(|error| {
                                // It was sent before: whatever keeps it from being sent again, that
                                // first request may have been executed.
                                let kind = error.kind().clone();
                                letter.failed(kind, Outcome::SentNoReply).caused_by(error)
                            })?;
                        }
                        Ok(Answer::Lost(reason)) => {
                            let kind = reason.kind().clone();
                            return Err(letter
                                .failed(kind, Outcome::SentNoReply)
                                .caused_by(reason));
                        }
                    }
                }
            }
        }
    }
}

impl Letter {
    fn answered(self, status: ReplyStatus, codec: Codec, body: Bytes) -> Answered {
        Answered {
            status,
            codec,
            body,
            letter: self,
        }
    }

    /// The answer to a request that has none: `()`, in whatever codec.
    fn nothing(self) -> Answered {
        self.answered(
            ReplyStatus::Success,
            Codec::Json,
            Bytes::from_static(b"null"),
        )
    }

    fn read(self, reply: Incoming, limit: usize) -> Result<Answered, Error> {
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
        match station.publish(letter.outgoing(remote, Some(&slot))) {
            Ok(()) => return Ok(slot),
            Err(error) if error.is_disconnected() => {
                tracing::debug!(%error, "not sent, waiting for the next connection");
                tokio::time::sleep(NEXT_TRY).await;
            }
            Err(error) => return Err(letter.not_sent(error)),
        }
    }
}

fn message_id_of(remote: &Remote) -> String {
    let number = MESSAGES.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", remote.caller.identity)
}

fn call_locally(
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    letter: &Letter,
) -> impl Future<Output = Ended<Reply>> + Send + 'static {
    let request = Request::new(method, letter.codec, letter.body.clone());
    let context = Context::new(Facts {
        service: letter.service.name().into(),
        method: letter.method.name().into(),
        deadline: Some(letter.deadline),
        headers: letter.headers.clone(),
        trace: letter.trace.clone(),
        attempt: 1,
        ..Facts::default()
    });
    let call = context.scope(async move { service.call(request).await });
    panic::catch(Some(letter.deadline), call)
}
