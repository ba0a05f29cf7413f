//! One call from its request to its answer, whatever happens in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::call::Plan;
use super::caller::{Answer, Slot, Stage, Station};
use super::letter::Letter;
use super::{Backend, DEFAULT_TIMEOUT, Remote};
use crate::codec::{Codec, CodecError};
use crate::context::{Context, Facts};
use crate::descriptor::MethodDescriptor;
use crate::envelope::{ReplyHead, ReplyStatus};
use crate::error::{Error, Kind, Outcome};
use crate::panic::{self, Apart, Ended};
use crate::publisher::Receipt;
use crate::service::{BoxFuture, Reply, Request, Service};
use crate::status::Status;

/// Before a request that was not sent is tried again: its channel is being replaced.
const NEXT_TRY: Duration = Duration::from_millis(5);

/// The longest a call can take: what RabbitMQ's `expiration` can say.
const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

static MESSAGES: AtomicU64 = AtomicU64::new(1);

/// A request under way.
pub(super) struct Flight {
    letter: Arc<Letter>,
    way: Way,
    /// Its place among the calls in flight.
    _place: OwnedSemaphorePermit,
}

enum Way {
    Remote(Remote, Slot),
    Oneway(Receipt),
    Local(Local),
    /// There is nothing to wait for.
    Gone,
}

/// A local call: where it is awaited, or on its own task once it is sent, as a remote one would.
enum Local {
    Here(BoxFuture<Ended<Reply>>),
    Apart(Apart<Reply>),
}

/// An answer, still encoded.
pub(super) struct Answered {
    pub(super) status: ReplyStatus,
    pub(super) codec: Codec,
    pub(super) body: Bytes,
    letter: Arc<Letter>,
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
        // What nearly always can be had at once is tried so first: the waiting is boxed, and the
        // future of a call stays small.
        let place = match Arc::clone(&client.in_flight).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let place = Arc::clone(&client.in_flight).acquire_owned();
                match Box::pin(timeout_at(deadline, place)).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(_)) | Err(_) => {
                        return Err(letter.failed(Kind::Timeout, Outcome::NotSent));
                    }
                }
            }
        };
        let (letter, way) = match client.backend {
            Backend::Local(service) => {
                let call = call_locally(service, method, &letter);
                let way = if method.is_oneway() {
                    tokio::spawn(call);
                    Way::Gone
                } else {
                    Way::Local(Local::Here(Box::pin(call)))
                };
                (Arc::new(letter), way)
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
                let letter = Arc::new(letter);
                let way = if method.is_oneway() {
                    let message =
                        Arc::new(letter.outgoing(remote.connection.given_name(), None, false));
                    let (now, left) = (Instant::now(), letter.time_left());
                    let sending = remote.publisher.send(message, now, left);
                    let receipt = Box::pin(sending).await;
                    Way::Oneway(receipt.map_err(|fault| fault.of(&letter.what()))?)
                } else {
                    let among_others = remote.coalescer.as_ref();
                    let slot = match among_others.and_then(|c| c.take(&remote.caller, &letter)) {
                        Some(slot) => slot,
                        None => match send_at_once(&remote, &letter) {
                            Some(slot) => slot,
                            None => Box::pin(send(&remote, &letter)).await?,
                        },
                    };
                    Way::Remote(remote, slot)
                };
                (letter, way)
            }
        };
        Ok(Self {
            letter,
            way,
            _place: place,
        })
    }

    /// Lets it go on while nobody waits for it.
    pub(super) fn detach(mut self) -> Self {
        if let Way::Local(Local::Here(call)) = self.way {
            self.way = Way::Local(Local::Apart(Apart::start(call)));
        }
        self
    }

    /// Waits for the answer. What is rare in it is boxed: thousands of these may wait at once.
    pub(super) async fn land(self) -> Result<Answered, Error> {
        let Self {
            letter,
            way,
            _place,
        } = self;
        match way {
            Way::Oneway(receipt) => {
                let stored = Box::pin(receipt.wait()).await;
                stored.map_err(|fault| fault.of(&letter.what()))?;
                Ok(nothing(letter))
            }
            Way::Gone => Ok(nothing(letter)),
            Way::Local(local) => {
                let ended = match local {
                    Local::Here(call) => call.await,
                    Local::Apart(task) => task.ended().await,
                };
                let Reply { status, body } = match ended {
                    Ended::Done(reply) => reply,
                    Ended::Panicked(text) => Reply::panicked(letter.method.name(), &text),
                    Ended::Late => {
                        return Err(letter.failed(Kind::Timeout, Outcome::SentNoReply));
                    }
                };
                let codec = letter.codec;
                Ok(answered(letter, status, codec, body))
            }
            Way::Remote(remote, mut slot) => {
                let mut sent_before = false;
                loop {
                    match timeout_at(letter.deadline, slot.answer()).await {
                        Err(_) => {
                            let outcome = if slot.is_waiting() && !sent_before {
                                Outcome::NotSent
                            } else {
                                Outcome::SentNoReply
                            };
                            return Err(letter.failed(Kind::Timeout, outcome));
                        }
                        Ok(Answer::Returned) => {
                            // The queue may have gone after it took the first request.
                            let outcome = if sent_before {
                                Outcome::SentNoReply
                            } else {
                                Outcome::Unroutable
                            };
                            return Err(letter.failed(Kind::Unroutable, outcome));
                        }
                        Ok(Answer::Reply { head, body }) => {
                            if let Some(coalescer) = &remote.coalescer {
                                coalescer.heard(head.form);
                            }
                            return read(letter, head, body, remote.connection.max_message());
                        }
                        Ok(Answer::Alone { refused }) => {
                            if let Some(coalescer) = remote.coalescer.as_ref().filter(|_| refused) {
                                coalescer.refused();
                            }
                            slot = Box::pin(send(&remote, &letter)).await?;
                        }
                        Ok(Answer::Lost(reason))
                            if letter.method.is_idempotent() && !reason.is_closed() =>
                        {
                            tracing::debug!(call = ?letter.what(), "sent again after a lost connection");
                            sent_before = true;
                            let again = Box::pin(send(&remote, &letter));
                            slot = again.await.map_err(|error| {
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

fn answered(letter: Arc<Letter>, status: ReplyStatus, codec: Codec, body: Bytes) -> Answered {
    Answered {
        status,
        codec,
        body,
        letter,
    }
}

/// The answer to a request that has none: `()`, in whatever codec.
fn nothing(letter: Arc<Letter>) -> Answered {
    let null = Bytes::from_static(b"null");
    answered(letter, ReplyStatus::Success, Codec::Json, null)
}

fn read(
    letter: Arc<Letter>,
    head: ReplyHead,
    body: Bytes,
    limit: usize,
) -> Result<Answered, Error> {
    let size = body.len();
    if size > limit {
        return Err(letter.failed(Kind::TooLarge { size, limit }, Outcome::Answered));
    }
    let codec = match head.content_type.as_deref() {
        None => letter.codec,
        Some(name) => Codec::from_content_type(name).ok_or_else(|| {
            let text = format!("the reply is `{name}`, the request was `{}`", letter.codec);
            letter
                .failed(Kind::Decode, Outcome::Answered)
                .caused_by(text)
        })?,
    };
    Ok(answered(letter, head.status, codec, body))
}

/// Registers the call with a station and publishes its request there. `None`: no answer can come
/// to that one any more.
fn send_over(
    station: &Arc<Station>,
    remote: &Remote,
    letter: &Letter,
) -> Option<Result<Slot, Error>> {
    let slot = station.register(Stage::Alone)?;
    let asks = remote.coalescer.as_ref().is_some_and(|c| c.asks());
    let name = remote.connection.given_name();
    let message = letter.outgoing(name, Some(slot.address()), asks);
    Some(station.publish(message).map(|()| slot))
}

/// Sends the request if there is nothing to wait for.
fn send_at_once(remote: &Remote, letter: &Letter) -> Option<Slot> {
    send_over(&remote.caller.ready()?, remote, letter)?.ok()
}

/// Sends the request on the first connection that takes it.
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
        match send_over(&station, remote, letter) {
            Some(Ok(slot)) => return Ok(slot),
            Some(Err(error)) if !error.is_disconnected() => return Err(letter.not_sent(error)),
            Some(Err(error)) => {
                tracing::debug!(%error, "not sent, waiting for the next connection");
            }
            None => {}
        }
        tokio::time::sleep(NEXT_TRY).await;
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
    let call = context.handler(|| service.call(request));
    panic::catch(Some(letter.deadline), call)
}
