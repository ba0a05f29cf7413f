//! One call from its request to its answer, whatever happens in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::call::Plan;
use super::caller::{Answer, Replied, Slot, Stage, Station};
use super::letter::Letter;
use super::{Backend, Client, DEFAULT_TIMEOUT, Place, Remote};
use crate::clock;
use crate::context::{Context, Invocation};
use crate::error::{Error, Kind, Outcome};
use crate::escape::Escaped;
use crate::panic::{self, Apart, Ended};
use crate::policy::refusal;
use crate::publish::PublishFailure;
use crate::service::{BoxFuture, Reply, Request, Service};
use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::ReplyStatus;
use crate::wire::message::MessageInfo;

/// Before a request that was not sent is tried again: its channel is being replaced.
const NEXT_TRY: Duration = Duration::from_millis(5);

/// The longest a call can take: what RabbitMQ's `expiration` can say.
const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

static MESSAGES: AtomicU64 = AtomicU64::new(1);

/// A request under way.
pub(super) struct Flight {
    letter: Arc<Letter>,
    way: Way,
    _place: Place,
}

/// A request that has left, or has to wait before it can. Nearly all can leave at once: the waiting
/// is boxed, so that the future of a call stays small.
pub(super) enum Launch {
    Done(Result<Flight, Error>),
    Waiting(BoxFuture<Result<Flight, Error>>),
}

enum Way {
    Remote(Arc<Remote>, Slot),
    Oneway(BoxFuture<Result<(), PublishFailure>>),
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
}

impl Launch {
    /// Sends the request, if there is nothing to wait for.
    pub(super) fn of(plan: Plan) -> Self {
        let (client, letter) = match write(plan) {
            Ok(written) => written,
            Err(error) => return Self::Done(Err(error)),
        };
        let client = match client.place() {
            Ok(place) => return set_out(letter, place),
            Err(client) => client,
        };
        Self::Waiting(Box::pin(async move {
            match timeout_at(letter.deadline, client.next_place()).await {
                Ok(Some(place)) => set_out(letter, place).done().await,
                Ok(None) | Err(_) => Err(letter.failed(Kind::Timeout, Outcome::NotSent)),
            }
        }))
    }

    /// Once the request has left.
    pub(super) async fn done(self) -> Result<Flight, Error> {
        match self {
            Self::Done(flight) => flight,
            Self::Waiting(flight) => flight.await,
        }
    }
}

fn write(plan: Plan) -> Result<(Client, Letter), Error> {
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
        .or(client.inner.timeout)
        .unwrap_or(DEFAULT_TIMEOUT)
        .min(LONGEST);
    let own = clock::deadline(started, limit);
    let mut letter = Letter {
        service: client.inner.descriptor,
        method,
        queue: client.queue_of(method),
        started,
        deadline: context.deadline().map_or(own, |outer| outer.min(own)),
        codec: client.inner.codec,
        body: Bytes::new(),
        message_id: None,
        priority,
        headers,
        trace: context.trace().clone(),
    };
    Error::check_runtime().map_err(|error| letter.not_sent(error))?;
    letter.body = body.map_err(|error| letter.not_sent(error))?;
    Ok((client, letter))
}

fn set_out(letter: Letter, place: Place) -> Launch {
    match &place.client.inner.backend {
        Backend::Local(service) => {
            let call = call_locally(Arc::clone(service), &letter);
            let way = if letter.method.is_oneway() {
                tokio::spawn(call);
                Way::Gone
            } else {
                Way::Local(Local::Here(Box::pin(call)))
            };
            Launch::Done(Ok(Flight {
                letter: Arc::new(letter),
                way,
                _place: place,
            }))
        }
        Backend::Remote(remote) => send_off(Arc::clone(remote), letter, place),
    }
}

fn send_off(remote: Arc<Remote>, mut letter: Letter, place: Place) -> Launch {
    let method = letter.method;
    let (size, limit) = (letter.body.len(), remote.connection.max_message());
    if size > limit {
        let error = Error::new(Kind::TooLarge { size, limit });
        return Launch::Done(Err(letter.not_sent(error)));
    }
    if letter.time_left().is_zero() {
        return Launch::Done(Err(letter.failed(Kind::Timeout, Outcome::NotSent)));
    }
    if method.is_oneway() || method.is_idempotent() {
        letter.message_id = Some(message_id_of(&remote));
    }
    let letter = Arc::new(letter);
    let flight = |letter, way| Flight {
        letter,
        way,
        _place: place,
    };
    if method.is_oneway() {
        return Launch::Waiting(Box::pin(async move {
            let name = remote.connection.given_name();
            let message = Arc::new(letter.outgoing(name, None, false));
            let (now, left) = (Instant::now(), letter.time_left());
            let receipt = remote.publisher.send(message, now, left).await;
            let receipt = receipt.map_err(|failure| failure.into_error(&letter.what()))?;
            Ok(flight(letter, Way::Oneway(Box::pin(receipt.wait()))))
        }));
    }
    let shared = remote.coalescer.as_ref();
    let shared = shared.and_then(|coalescer| coalescer.take(&remote.caller, &letter));
    match shared.or_else(|| send_at_once(&remote, &letter)) {
        Some(slot) => Launch::Done(Ok(flight(letter, Way::Remote(remote, slot)))),
        None => Launch::Waiting(Box::pin(async move {
            let slot = send(&remote, &letter).await?;
            Ok(flight(letter, Way::Remote(remote, slot)))
        })),
    }
}

impl Flight {
    /// Lets it go on while nobody waits for it.
    pub(super) fn detach(mut self) -> Self {
        if let Way::Local(Local::Here(call)) = self.way {
            self.way = Way::Local(Local::Apart(Apart::start(call)));
        }
        self
    }

    pub(super) fn undecodable(&self, error: CodecError) -> Error {
        self.answered(Kind::Decode).caused_by(error)
    }

    /// What its answer makes of it.
    pub(super) fn answered(&self, kind: Kind) -> Error {
        self.letter.failed(kind, Outcome::Answered)
    }

    /// Waits for the answer, once. What is rare in it is boxed: thousands of these may wait at once.
    pub(super) async fn land(&mut self) -> Result<Answered, Error> {
        let letter = &self.letter;
        // It may have been sent from somewhere else.
        let is_here = Error::check_runtime();
        is_here.map_err(|error| {
            letter
                .what()
                .describe(error, letter.started, Outcome::SentNoReply)
        })?;
        let (remote, slot) = match &mut self.way {
            Way::Remote(remote, slot) => (remote, slot),
            Way::Local(local) => {
                let ended = match local {
                    Local::Here(call) => call.await,
                    Local::Apart(task) => task.ended().await,
                };
                let Reply { status, body } = match ended {
                    Ended::Done(reply) => reply,
                    Ended::Panicked(text) => {
                        let (service, method) = (letter.service.name(), letter.method.name());
                        let panic = Escaped(&text);
                        tracing::error!(service, method, %panic, "a handler panicked");
                        Reply::panicked(method, None)
                    }
                    Ended::Late => {
                        return Err(letter.failed(Kind::Timeout, Outcome::SentNoReply));
                    }
                };
                let codec = letter.codec;
                return Ok(Answered {
                    status,
                    codec,
                    body,
                });
            }
            Way::Oneway(receipt) => {
                receipt
                    .await
                    .map_err(|failure| failure.into_error(&letter.what()))?;
                return Ok(Answered::nothing());
            }
            Way::Gone => return Ok(Answered::nothing()),
        };
        let mut sent_before = false;
        loop {
            let answer = match timeout_at(letter.deadline, slot.answer()).await {
                Ok(answer) => answer,
                Err(_) => {
                    let outcome = if slot.is_waiting() && !sent_before {
                        Outcome::NotSent
                    } else {
                        Outcome::SentNoReply
                    };
                    return Err(letter.failed(Kind::Timeout, outcome));
                }
            };
            let (again, is_apart) = match next(remote, letter, answer, sent_before)? {
                Next::Read(answered) => return Ok(answered),
                Next::Send => (false, false),
                Next::SendAgain { is_apart } => (true, is_apart),
            };
            sent_before |= again;
            let sending = async {
                if is_apart {
                    send_apart(remote, letter).await
                } else {
                    send(remote, letter).await
                }
            };
            *slot = Box::pin(sending).await.map_err(|error| {
                if !sent_before {
                    return error;
                }
                // Whatever keeps it from being sent again, the first request may have been executed.
                let kind = error.kind().clone();
                letter.failed(kind, Outcome::SentNoReply).caused_by(error)
            })?;
        }
    }
}

/// What an answer asks for.
enum Next {
    Read(Answered),
    /// It was not executed.
    Send,
    /// It may have been. Apart: on a channel where the broker's refusal is about this request alone.
    SendAgain {
        is_apart: bool,
    },
}

fn next(
    remote: &Remote,
    letter: &Letter,
    answer: Answer,
    sent_before: bool,
) -> Result<Next, Error> {
    match answer {
        Answer::Returned => {
            // The queue may have gone after it took the first request.
            let outcome = if sent_before {
                Outcome::SentNoReply
            } else {
                Outcome::Unroutable
            };
            Err(letter.failed(Kind::Unroutable, outcome))
        }
        Answer::Reply(reply) => {
            if let Some(coalescer) = &remote.coalescer {
                coalescer.heard(reply.form);
            }
            read(letter, reply, remote.connection.max_message()).map(Next::Read)
        }
        Answer::Alone { refused } => {
            if let Some(coalescer) = remote.coalescer.as_ref().filter(|_| refused) {
                coalescer.refused();
            }
            Ok(Next::Send)
        }
        Answer::Refused(reason) => {
            let error = refusal::told(&reason, letter.body.len());
            let outcome = if sent_before {
                Outcome::SentNoReply
            } else {
                Outcome::Rejected
            };
            Err(letter
                .failed(error.kind().clone(), outcome)
                .caused_by(error))
        }
        Answer::Lost(reason) if letter.method.is_idempotent() && !reason.is_closed() => {
            tracing::debug!(call = ?letter.what(), "sent again after a lost connection or channel");
            // It may itself be what the broker closed the channel over.
            let is_apart = reason.amqp_code().is_some();
            Ok(Next::SendAgain { is_apart })
        }
        Answer::Lost(reason) => {
            let kind = reason.kind().clone();
            let failed = letter.failed(kind, Outcome::SentNoReply);
            Err(failed.caused_by(reason))
        }
    }
}

impl Answered {
    /// The answer to a request that has none: `()`, in whatever codec.
    fn nothing() -> Self {
        Self {
            status: ReplyStatus::Success,
            codec: Codec::Json,
            body: Bytes::from_static(b"null"),
        }
    }
}

fn read(letter: &Letter, reply: Replied, limit: usize) -> Result<Answered, Error> {
    let Replied {
        status,
        content_type,
        size,
        body,
        ..
    } = reply;
    if size > limit {
        return Err(letter.failed(Kind::TooLarge { size, limit }, Outcome::Answered));
    }
    let codec = letter.codec.for_content_type(content_type.as_deref());
    let codec = codec.map_err(|name| {
        let name = Escaped(name);
        let text = format!("the reply is `{name}`, the request was `{}`", letter.codec);
        letter
            .failed(Kind::Decode, Outcome::Answered)
            .caused_by(text)
    })?;
    Ok(Answered {
        status,
        codec,
        body,
    })
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
    Some(station.publish(&message, slot.id).map(|()| slot))
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

/// Sends the request with a confirm, so that the broker's refusal is about this one alone.
async fn send_apart(remote: &Remote, letter: &Letter) -> Result<Slot, Error> {
    loop {
        let station = match timeout_at(letter.deadline, remote.caller.station()).await {
            Ok(Ok(station)) => station,
            Ok(Err(error)) => return Err(letter.not_sent(error)),
            Err(_) => return Err(letter.failed(Kind::Timeout, Outcome::NotSent)),
        };
        if letter.time_left().is_zero() {
            return Err(letter.failed(Kind::Timeout, Outcome::NotSent));
        }
        let Some(slot) = station.register(Stage::Alone) else {
            tokio::time::sleep(NEXT_TRY).await;
            continue;
        };
        let name = remote.connection.given_name();
        let message = Arc::new(letter.outgoing(name, Some(slot.address()), false));
        let published = remote.publisher.publish(message, letter.time_left()).await;
        return published
            .map(|()| slot)
            .map_err(|failure| failure.into_error(&letter.what()));
    }
}

fn message_id_of(remote: &Remote) -> String {
    let number = MESSAGES.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", remote.caller.identity)
}

fn call_locally(
    service: Arc<dyn Service>,
    letter: &Letter,
) -> impl Future<Output = Ended<Reply>> + Send + 'static {
    let request = Request::new(letter.method, letter.codec, letter.body.clone());
    let context = Context::new(Invocation {
        service: Some(letter.service.name().into()),
        method: Some(letter.method.name().into()),
        deadline: Some(letter.deadline),
        message: MessageInfo {
            headers: letter.headers.clone(),
            trace: letter.trace.clone(),
            attempt: 1,
            ..MessageInfo::default()
        },
    });
    let call = context.handler(|| service.call(request));
    panic::catch(Some(letter.deadline), call)
}
