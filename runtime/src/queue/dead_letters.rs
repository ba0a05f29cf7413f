//! The dead-letter queue of a work queue: listed, replayed and purged (`queue.purge`).

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::QueueSpec;
use super::job::{decode_payload, payload_codec};
use super::polled_queue::PolledQueue;
use crate::clock;
use crate::error::{Error, ErrorKind};
use crate::escape;
use crate::link::{self, AckRange, Connection, Delivery, Namespace, QueueCounts, Session};
use crate::publish::{self, Publisher, TIMEOUT, Target};
use crate::wire::codec::{self, Codec, VariantError, variant};
use crate::wire::envelope::{self, DeathRecord, JobHead, SourceRoute};
use crate::wire::message::{MessageInfo, Outgoing, message_accessors};
use crate::wire::topology::Topology;
use crate::wire::value::Table;

/// The time that requeued letters get to be ready again in their queue.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest and the longest pause between two looks at the queue's message count.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The dead-letter queue of a work queue.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// let letters = lepus::WorkQueue::<String>::new("mails").dead_letters(&connection);
/// println!("{} mails were not sent", letters.count().await?);
/// for letter in letters.list(100).await? {
///     let (reason, error, attempts) = (letter.reason(), letter.error(), letter.attempt());
///     match letter.payload() {
///         Ok(address) => println!("{address}: {reason} after {attempts} attempts: {error}"),
///         Err(error) => println!("{} does not decode: {error}", letter.to_json()),
///     }
/// }
/// // The jobs start again with their first attempt.
/// let replayed = letters.replay_where(|letter| letter.error().contains("busy")).await?;
/// println!("{replayed} mails are tried again");
/// # Ok(())
/// # }
/// ```
pub struct DeadLetters<T> {
    connection: Connection,
    spec: QueueSpec,
    /// Whether the payload is an enum, and the task of a job names its variant.
    is_by_task: bool,
    payload: PhantomData<fn() -> T>,
}

impl<T> DeadLetters<T> {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            connection: connection.clone(),
            spec,
            is_by_task: false,
            payload: PhantomData,
        }
    }

    pub(super) fn by_task(connection: &Connection, spec: QueueSpec) -> Self {
        let is_by_task = true;
        let plain = Self::new(connection, spec);
        Self {
            is_by_task,
            ..plain
        }
    }
}

impl<T: DeserializeOwned> DeadLetters<T> {
    /// The number of dead letters.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn count(&self) -> Result<u32, Error> {
        let session = self.declared_session().await?;
        self.ready_count(&session).await
    }

    /// Reads the first dead letters, `most` at the most, and leaves them in their queue.
    ///
    /// While they are read, others do not see them. When this returns they can be read and replayed
    /// again, and are marked as redelivered. A classic queue keeps their order, the oldest first; a
    /// quorum queue moves those that were read to its end.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn list(&self, most: usize) -> Result<Vec<DeadLetter<T>>, Error> {
        let queue = self.polled_queue().await?;
        let (mut letters, mut tags) = (Vec::new(), Vec::new());
        let read = loop {
            if letters.len() >= most {
                break Ok(());
            }
            match queue.poll().await {
                Ok(Some(delivery)) => {
                    letters.push(self.read(&delivery));
                    tags.push(delivery.tag);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.requeue(&queue, tags).await;
        read.map(|()| letters)
    }

    /// Returns all present dead letters to the work queue, where they start with their first attempt,
    /// and returns their number.
    ///
    /// # Errors
    /// Those of [`replay_where`](Self::replay_where).
    pub async fn replay(&self) -> Result<u32, Error> {
        self.replay_where(|_| true).await
    }

    /// Returns the dead letter with this message id to the work queue; `false` if there is none.
    ///
    /// # Errors
    /// Those of [`replay_where`](Self::replay_where).
    pub async fn replay_one(&self, message_id: &str) -> Result<bool, Error> {
        let mut is_found = false;
        let choose = |letter: &DeadLetter<T>| {
            if std::mem::take(&mut is_found) {
                return ReplayChoice::Stop;
            }
            is_found = letter.message_id() == Some(message_id);
            if is_found {
                ReplayChoice::Replay
            } else {
                ReplayChoice::Keep
            }
        };
        let replayed = self.replay_chosen(choose).await;
        replayed.map(|replayed| replayed > 0)
    }

    /// Returns the dead letters that `choose` selects to the work queue, and returns their number. A
    /// letter is removed here only when the broker has confirmed its copy there: a failure in between
    /// leaves it in both queues, and never in none.
    ///
    /// # Errors
    /// The connection was lost or closed, the broker refuses, or the work queue is full. Letters that
    /// were replayed before the error stay in the work queue.
    ///
    /// # Cancel safety
    /// If the future is dropped, each letter is in one of the two queues or in both.
    pub async fn replay_where(
        &self,
        mut choose: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Result<u32, Error> {
        let choose = |letter: &DeadLetter<T>| {
            if choose(letter) {
                ReplayChoice::Replay
            } else {
                ReplayChoice::Keep
            }
        };
        self.replay_chosen(choose).await
    }

    async fn replay_chosen(
        &self,
        mut choose: impl FnMut(&DeadLetter<T>) -> ReplayChoice,
    ) -> Result<u32, Error> {
        let publisher = Publisher::without_size_limit(&self.connection);
        let session = self.declared_session().await?;
        let queue = self.polled_queue().await?;
        let (mut replayed, mut unsettled) = (0, Vec::new());
        let mut next = queue.poll().await?;
        // No more letters are read than are there now, because a replayed job that fails again comes
        // back to this queue. They are counted after the first one was taken: the count of a quorum
        // queue leaves out messages that were requeued just before, until the queue has delivered
        // another message.
        let others = match &next {
            Some(_) => self.ready_count(&session).await,
            None => Ok(0),
        };
        let result = async {
            for others in (0..=others?).rev() {
                let Some(delivery) = next.take() else {
                    break;
                };
                let choice = choose(&self.read(&delivery));
                // Noted before anything can fail, so that a failure leaves the letter here.
                unsettled.push(delivery.tag);
                match choice {
                    ReplayChoice::Keep => {}
                    ReplayChoice::Stop => break,
                    ReplayChoice::Replay => {
                        self.republish(&publisher, &delivery).await?;
                        queue.channel().ack(delivery.tag, AckRange::One);
                        unsettled.pop();
                        replayed += 1;
                    }
                }
                if others > 0 {
                    next = queue.poll().await?;
                }
            }
            Ok(())
        };
        let result: Result<(), Error> = result.await;
        self.requeue(&queue, unsettled).await;
        result.map(|()| replayed)
    }

    /// Removes all dead letters for good, and returns their number.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn purge(&self) -> Result<u32, Error> {
        let session = self.declared_session().await?;
        link::purge(&session, &self.spec.dead()?, self.namespace()).await
    }

    /// A session on which the queue is declared.
    async fn declared_session(&self) -> Result<Arc<Session>, Error> {
        let topology = Topology::queue(self.spec.dead()?);
        publish::declare(self.connection.consuming(), &topology, self.namespace()).await
    }

    fn namespace(&self) -> &Namespace {
        self.connection.namespace()
    }

    /// The number of letters that are ready for delivery.
    async fn ready_count(&self, session: &Arc<Session>) -> Result<u32, Error> {
        let dead = self.spec.dead()?;
        let QueueCounts { messages, .. } = link::count(session, &dead, self.namespace()).await?;
        Ok(messages)
    }

    /// Requeues deliveries one by one (`basic.reject`) and closes the channel. A quorum queue appends
    /// them in the order in which they are requeued; if they were requeued by the closing of the
    /// channel, that order would be arbitrary.
    ///
    /// Waits until the letters are ready again, so that a call of `replay` right after `list` does not
    /// miss them: in a quorum queue this takes a moment, and for some of them until it has processed
    /// the closing of the channel. The wait is limited, because the count says nothing if others take
    /// letters at the same time.
    async fn requeue(&self, queue: &PolledQueue, tags: Vec<u64>) {
        let channel = queue.channel();
        let (session, requeued) = (Arc::clone(channel.session()), tags.len());
        let before = if tags.is_empty() {
            None
        } else {
            self.ready_count(&session).await.ok()
        };
        for tag in tags {
            channel.requeue(tag);
        }
        if let Some(before) = before {
            let requeued = u32::try_from(requeued).unwrap_or(u32::MAX);
            let ready = self.wait_for_count(&session, before.saturating_add(requeued));
            if tokio::time::timeout(REQUEUE_TIMEOUT, ready).await.is_err() {
                tracing::debug!(
                    queue = self.spec.name,
                    requeued,
                    "requeued dead letters are not all ready again"
                );
            }
        }
        channel.close().await;
    }

    async fn wait_for_count(&self, session: &Arc<Session>, letters: u32) {
        let mut pause = FIRST_PAUSE;
        // An error means that the connection is lost, which requeues the letters as well.
        while let Ok(ready) = self.ready_count(session).await {
            if ready >= letters {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn polled_queue(&self) -> Result<Arc<PolledQueue>, Error> {
        let queue = self.spec.dead()?;
        let name = self.namespace().scope(queue.name().as_str());
        let topology = Topology::queue(queue);
        PolledQueue::open(&self.connection, name, &topology, self.spec.passive).await
    }

    fn read(&self, delivery: &Delivery) -> DeadLetter<T> {
        let message = &delivery.message;
        let record = DeathRecord::read(&message.properties);
        let job = DeathRecord::erase(message.properties.clone());
        let mut head = JobHead::read(&job);
        head.route = self.source_route(&record, head.route);
        let info = head.into_info(message, record.attempts);
        let codec = self.spec.codec();
        let payload = if self.is_by_task {
            decode_task(codec, &info, &message.body)
        } else {
            decode_payload(codec, info.content_type.as_deref(), &message.body)
        };
        DeadLetter {
            payload,
            body: message.body.clone(),
            codec: payload_codec(codec, info.content_type.as_deref()).ok(),
            record,
            headers: message.properties.headers.clone(),
            info,
        }
    }

    /// The exchange and the routing key that the job was published with. `recorded` are those that
    /// its headers name.
    fn source_route(
        &self,
        record: &DeathRecord,
        recorded: Option<SourceRoute>,
    ) -> Option<SourceRoute> {
        match (record.route.clone(), recorded) {
            // The broker dead-lettered what came through an exchange: the headers are its sender's.
            (Some(route), _) if !route.exchange.is_empty() => Some(route),
            (_, Some(recorded)) => Some(recorded),
            (Some(route), None) => Some(route),
            (None, None) if record.source_queue.is_empty() => None,
            // A job that was pushed to its queue.
            (None, None) => Some(SourceRoute {
                exchange: String::new(),
                routing_key: self.namespace().scope(&record.source_queue),
            }),
        }
    }

    /// Publishes a copy of a letter to the work queue, as a new job.
    async fn republish(&self, publisher: &Publisher, delivery: &Delivery) -> Result<(), Error> {
        let message = &delivery.message;
        let queue = self.namespace().scope(&self.spec.name);
        let task = message.properties.kind.as_deref();
        let target = Target {
            service: self.spec.name.as_str().into(),
            method: task.unwrap_or_default().into(),
            queue: queue.as_str().into(),
        };
        let mut properties = DeathRecord::erase(message.properties.clone());
        envelope::replace_user_id(&mut properties, self.connection.user());
        let outgoing = Arc::new(Outgoing {
            exchange: String::new(),
            routing_key: queue,
            mandatory: true,
            properties,
            body: message.body.clone(),
        });
        let on_missing = self.spec.on_missing(self.spec.topology()?);
        let published = publisher.publish_or_declare(outgoing, TIMEOUT, &on_missing);
        let published = published.await;
        published.map_err(|failure| failure.into_error(&target))
    }
}

/// Decodes the arguments of a task as the variant that it names.
fn decode_task<T: DeserializeOwned>(
    own: Codec,
    info: &MessageInfo,
    body: &Bytes,
) -> Result<T, Error> {
    let decoded = || {
        let task = info.kind.as_deref().ok_or("the job names no task")?;
        let codec = payload_codec(own, info.content_type.as_deref())?;
        variant::decode(task, codec, body).map_err(|error| match error {
            VariantError::UnknownName(reason) => escape::Escaped(reason).to_string(),
            VariantError::Malformed(reason) => {
                format!(
                    "the arguments of `{}` do not decode: {reason}",
                    escape::Escaped(task)
                )
            }
        })
    };
    let decoded: Result<T, String> = decoded();
    decoded.map_err(|reason| Error::new(ErrorKind::Decode).caused_by(reason))
}

/// The choice for one dead letter of a replay.
enum ReplayChoice {
    Replay,
    Keep,
    /// Keep it, and read no further letters.
    Stop,
}

impl<T> fmt::Debug for DeadLetters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("of", &self.spec.name)
            .finish_non_exhaustive()
    }
}

/// A job in the dead-letter queue, and the reason.
///
/// See [`DeadLetters`] for an example.
#[derive(Debug)]
pub struct DeadLetter<T> {
    payload: Result<T, Error>,
    body: Bytes,
    /// The codec of the payload, if it is known.
    codec: Option<Codec>,
    info: MessageInfo,
    record: DeathRecord,
    headers: Table,
}

impl<T> DeadLetter<T> {
    fn info(&self) -> &MessageInfo {
        &self.info
    }

    /// The payload.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when it does not decode, which may be why it is here.
    pub fn payload(&self) -> Result<&T, &Error> {
        self.payload.as_ref()
    }

    /// The payload, taken out.
    ///
    /// # Errors
    /// Those of [`payload`](Self::payload).
    pub fn into_payload(self) -> Result<T, Error> {
        self.payload
    }

    /// A view of the payload as JSON text that loses nothing, whether or not it decodes: see
    /// [`Codec::to_json`]. If there is no codec for its content type, it is
    /// `{"$body":"<base 64>"}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self.codec {
            Some(codec) => codec.to_json(&self.body),
            None => codec::undecoded(&self.body),
        }
    }

    message_accessors! {
        bytes key exchange content_type message_id timestamp app_id headers header trace redelivered
    }

    /// The number of the last attempt, which is the number of attempts; 0 if the broker moved the job
    /// here by itself.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info.attempt
    }

    /// The reason for which it is here: `attempts` (the last one failed), `rejected` (by its handler,
    /// or because it does not decode), `abandoned` (its workers crashed before they settled it); or
    /// the broker's own reason: `expired`, `delivery_limit`, `maxlen`, `rejected`.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.record.reason
    }

    /// The last error; empty if the broker moved it here by itself.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.record.error
    }

    /// The first error, which is the last one if there was one attempt; `None` if the broker moved it
    /// here by itself.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.record.first_error.as_deref()
    }

    /// The queue from which it was moved here.
    #[must_use]
    pub fn source_queue(&self) -> &str {
        &self.record.source_queue
    }

    /// The time at which it was moved here, to the second.
    #[must_use]
    pub fn failed_at(&self) -> Option<SystemTime> {
        clock::from_unix_seconds(self.record.failed_at?)
    }

    /// The task, if the queue carries tasks (AMQP's `type`).
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.info.kind.as_deref()
    }

    /// All headers, as they are on the broker: those that the sender set, and those in which Lepus
    /// and the broker have recorded the failures.
    #[must_use]
    pub fn all_headers(&self) -> &Table {
        &self.headers
    }
}
