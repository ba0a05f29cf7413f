//! Answers to a question, as they come.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::Named;
use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::link::{Channel, Consumer, ConsumerEnd, Flush};
use crate::wire::codec::Codec;
use crate::wire::envelope::{AnswerHead, QuestionHead, QuestionKind};
use crate::wire::message::{IncomingMessage, Outgoing};
use crate::wire::reply_code;

/// An answer to a question. Its fields are those of `A`, which it derefs to.
#[derive(Clone, Debug)]
pub struct Answer<A> {
    body: A,
    elapsed: Duration,
}

impl<A> Answer<A> {
    /// The time from the question to this answer.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The answer itself.
    #[must_use]
    pub fn into_inner(self) -> A {
        self.body
    }
}

impl<A> Deref for Answer<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.body
    }
}

/// The answers to a question ([`Question::stream`](super::Question::stream)), in the order in which they come. It
/// is a [`Stream`]. Dropping it deletes the queue of the answers.
#[must_use = "dropping it ends the question"]
pub struct Answers<A> {
    answers: Pin<Box<dyn Stream<Item = Result<Answer<A>, Error>> + Send>>,
}

#[allow(private_bounds, reason = "the answers are those of this module")]
impl<A: DeserializeOwned + Named + Send + 'static> Answers<A> {
    pub(super) fn new(asked: AskedQuestion, quiet: Duration, expected: Option<usize>) -> Self {
        let waiting = WaitingAsker {
            asked,
            quiet,
            left: expected.unwrap_or(usize::MAX),
            last: None,
        };
        let next = |waiting: Option<WaitingAsker>| async move { waiting?.next().await };
        let answers = stream::unfold(Some(waiting), next);
        Self {
            answers: Box::pin(answers),
        }
    }
}

impl<A> Answers<A> {
    /// Waits for the next answer. `None` when no more are expected.
    ///
    /// An answer that cannot be read is an error that is [`is_decode`](Error::is_decode), after which others may
    /// follow. Any other error is the last item: the connection was lost, or the broker refuses the question.
    ///
    /// # Cancel safety
    /// No answer is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Answer<A>, Error>> {
        std::future::poll_fn(|cx| self.answers.as_mut().poll_next(cx)).await
    }
}

impl<A> Stream for Answers<A> {
    type Item = Result<Answer<A>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.as_mut().poll_next(cx)
    }
}

impl<A> fmt::Debug for Answers<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// A message or an event that concerns a question.
#[derive(Debug)]
pub(super) enum AskerEvent {
    /// An answer, and the time at which it came.
    Answer(Instant, Box<IncomingMessage>),
    /// The broker returned the question: no instance is bound by its routing key.
    Returned,
    /// The channel of the question was closed.
    Closed(Error),
}

/// A question that was published, and the queue of its answers.
pub(super) struct AskedQuestion {
    pub(super) kind: QuestionKind,
    pub(super) reply_to: String,
    pub(super) correlation_id: Vec<u8>,
    pub(super) asker: Option<String>,
    /// The exchanges and routing keys that are left to try.
    pub(super) addresses: VecDeque<(String, String)>,
    pub(super) channel: Arc<Channel>,
    pub(super) consumer: Consumer,
    pub(super) received: mpsc::UnboundedReceiver<AskerEvent>,
    pub(super) asked_at: Instant,
    pub(super) deadline: Instant,
}

impl AskedQuestion {
    /// Publishes the question to the next address. `false` if there is none.
    ///
    /// # Errors
    /// The channel is closed.
    pub(super) fn ask_next(&mut self) -> Result<bool, Error> {
        let Some((exchange, routing_key)) = self.addresses.pop_front() else {
            return Ok(false);
        };
        let now = Instant::now();
        let head = QuestionHead {
            kind: self.kind,
            reply_to: self.reply_to.clone(),
            correlation_id: self.correlation_id.clone(),
            time_left: Some(self.deadline.saturating_duration_since(now)),
            asker: self.asker.clone(),
        };
        let question = Outgoing {
            exchange,
            routing_key,
            mandatory: true,
            properties: head.into_properties(),
            body: Bytes::new(),
        };
        self.asked_at = now;
        self.channel.publish(&question, Flush::Inline)?;
        Ok(true)
    }

    /// Reads an answer. `None` if it is none to this question.
    fn read<A: DeserializeOwned + Named>(
        &self,
        at: Instant,
        answer: IncomingMessage,
    ) -> Option<Result<Answer<A>, Error>> {
        let head = AnswerHead::from_properties(answer.properties);
        if head
            .is_none_or(|head| head.kind != self.kind || head.correlation_id != self.correlation_id)
        {
            tracing::debug!("message is no answer to this question, dropped");
            return None;
        }
        let unreadable = |cause: String| Error::new(ErrorKind::Decode).caused_by(cause);
        Some(match Codec::Json.decode::<A>(&answer.body) {
            Ok(body) => match body.names() {
                ("", _) | (_, "") => Err(unreadable("it has no `name` or no `id`".to_owned())),
                _ => Ok(Answer {
                    body,
                    elapsed: at.saturating_duration_since(self.asked_at),
                }),
            },
            Err(error) => Err(unreadable(error.to_string())),
        })
    }
}

/// The state of an asker who waits for answers.
struct WaitingAsker {
    asked: AskedQuestion,
    quiet: Duration,
    /// The number of answers that are still expected.
    left: usize,
    /// The time of the last answer.
    last: Option<Instant>,
}

impl WaitingAsker {
    /// The next item, and the state after it: `None` after the last item.
    async fn next<A: DeserializeOwned + Named>(
        mut self,
    ) -> Option<(Result<Answer<A>, Error>, Option<Self>)> {
        loop {
            if self.left == 0 {
                return None;
            }
            let end = match self.last {
                Some(last) => self.asked.deadline.min(clock::deadline(last, self.quiet)),
                None => self.asked.deadline,
            };
            let received = tokio::select! {
                // The end is looked at first, so that answers that never stop coming do not put it off.
                biased;
                () = tokio::time::sleep_until(end) => return None,
                received = self.asked.received.recv() => received?,
                ended = self.asked.consumer.next() => match ended {
                    // Answers come by the callback.
                    Ok(_) => continue,
                    Err(ConsumerEnd::Cancelled) => {
                        let lost = Error::new(ErrorKind::Disconnected);
                        let error = lost.caused_by("the queue of the answers was deleted");
                        return Some((Err(error), None));
                    }
                    Err(ConsumerEnd::Lost(error)) => return Some((Err(error), None)),
                },
            };
            match received {
                AskerEvent::Answer(at, answer) => {
                    if let Some(answer) = self.asked.read(at, *answer) {
                        self.last = Some(at);
                        self.left -= 1;
                        return Some((answer, Some(self)));
                    }
                }
                AskerEvent::Returned => match self.asked.ask_next() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some((Err(error), None)),
                },
                // There is no exchange for questions.
                AskerEvent::Closed(error) if error.amqp_code() == Some(reply_code::NOT_FOUND) => {
                    return None;
                }
                AskerEvent::Closed(error) => return Some((Err(error), None)),
            }
        }
    }
}
