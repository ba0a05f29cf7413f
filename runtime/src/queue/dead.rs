//! The jobs that were given up: listed, replayed, purged.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::Spec;
use super::polling::PolledQueue;
use super::pool::codec;
use crate::error::{Error, Kind};
use crate::link::{self, AckRange, Connection, Delivery, QueueCounts, Session};
use crate::publish;
use crate::publish::{Publisher, TIMEOUT, Target};
use crate::wire::envelope::{self, JobHead, Obituary};
use crate::wire::message::Outgoing;
use crate::wire::topology::Topology;
use crate::wire::value::Table;

/// How long letters that were looked at may take to be back in their queue.
const PUT_BACK: Duration = Duration::from_secs(2);
/// The pauses in which they are looked for grow between these.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// The dead-letter queue of a work queue.
pub struct DeadLetters<T> {
    connection: Connection,
    spec: Spec,
    payload: PhantomData<fn() -> T>,
}

impl<T> DeadLetters<T> {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            connection: connection.clone(),
            spec,
            payload: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> DeadLetters<T> {
    /// How many dead letters there are.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn count(&self) -> Result<u32, Error> {
        let (session, dead, namespace) =
            (self.session().await?, self.spec.dead()?, self.namespace());
        let QueueCounts { messages, .. } = link::count(&session, &dead, &namespace).await?;
        Ok(messages)
    }

    /// Looks at the first dead letters, `most` at the most, and leaves them in their queue.
    ///
    /// While it looks, others do not see them; when it returns, they can be looked at and replayed
    /// again, and are marked as redelivered. A classic queue keeps their order, the oldest first; a
    /// quorum queue puts those that were looked at behind the others.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn list(&self, most: usize) -> Result<Vec<DeadLetter<T>>, Error> {
        let polling = self.polling().await?;
        let (mut letters, mut tags) = (Vec::new(), Vec::new());
        let looked = loop {
            if letters.len() >= most {
                break Ok(());
            }
            match polling.poll().await {
                Ok(Some(delivery)) => {
                    letters.push(self.read(&delivery));
                    tags.push(delivery.tag);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.put_back(&polling, tags).await;
        looked.map(|()| letters)
    }

    /// Puts every dead letter that is there now back on the work queue, its first attempt before
    /// it, and says how many there were.
    ///
    /// # Errors
    /// As [`replay_where`](Self::replay_where).
    pub async fn replay(&self) -> Result<u32, Error> {
        self.replay_where(|_| true).await
    }

    /// Puts the dead letter with this message id back on the work queue; false when there is none.
    ///
    /// # Errors
    /// As [`replay_where`](Self::replay_where).
    pub async fn replay_one(&self, message_id: &str) -> Result<bool, Error> {
        let mut found = false;
        let choose = |letter: &DeadLetter<T>| {
            if std::mem::take(&mut found) {
                return Choice::Stop;
            }
            found = letter.message_id() == Some(message_id);
            if found { Choice::Replay } else { Choice::Flush }
        };
        let replayed = self.replay_chosen(choose).await;
        replayed.map(|replayed| replayed > 0)
    }

    /// Puts those dead letters back on the work queue that `choose` says, and tells how many. Each
    /// is removed here only when the broker has confirmed its copy there: a failure in between
    /// leaves it in both, never in none.
    ///
    /// # Errors
    /// The connection was lost or closed, the broker refuses, or the work queue is full; what was
    /// replayed until then stays so.
    ///
    /// Cancel-safe in the same sense.
    pub async fn replay_where(
        &self,
        mut choose: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Result<u32, Error> {
        let choose = |letter: &DeadLetter<T>| {
            if choose(letter) {
                Choice::Replay
            } else {
                Choice::Flush
            }
        };
        self.replay_chosen(choose).await
    }

    async fn replay_chosen(
        &self,
        mut choose: impl FnMut(&DeadLetter<T>) -> Choice,
    ) -> Result<u32, Error> {
        let publisher = Publisher::without_size_limit(&self.connection);
        let session = self.session().await?;
        let polling = self.polling().await?;
        let (mut replayed, mut left) = (0, Vec::new());
        let mut next = polling.poll().await?;
        // Not more than there are now: a replayed job that dies again comes back here. They are
        // counted behind the first one, for a quorum queue tells what it had a moment ago: what
        // was given back before is not counted until it has given out another message.
        let others = match &next {
            Some(_) => self.ready(&session).await,
            None => Ok(0),
        };
        let result = async {
            for others in (0..=others?).rev() {
                let Some(delivery) = next.take() else {
                    break;
                };
                let choice = choose(&self.read(&delivery));
                // First of all: a failure leaves it here.
                left.push(delivery.tag);
                match choice {
                    Choice::Flush => {}
                    Choice::Stop => break,
                    Choice::Replay => {
                        self.revive(&publisher, &delivery).await?;
                        polling.channel().ack(delivery.tag, AckRange::One);
                        left.pop();
                        replayed += 1;
                    }
                }
                if others > 0 {
                    next = polling.poll().await?;
                }
            }
            Ok(())
        };
        let result: Result<(), Error> = result.await;
        self.put_back(&polling, left).await;
        result.map(|()| replayed)
    }

    /// Removes all dead letters for good, and says how many there were.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn purge(&self) -> Result<u32, Error> {
        let (session, dead, namespace) =
            (self.session().await?, self.spec.dead()?, self.namespace());
        link::purge(&session, &dead, &namespace).await
    }

    /// Once the queue is there.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let link = self.connection.consuming();
        let topology = Topology::queue(self.spec.dead()?);
        publish::declare(link, &topology, &self.namespace()).await
    }

    fn namespace(&self) -> link::Namespace {
        self.connection.namespace().clone()
    }

    /// How many letters wait to be taken.
    async fn ready(&self, session: &Arc<Session>) -> Result<u32, Error> {
        let counts = link::count(session, &self.spec.dead()?, &self.namespace()).await?;
        Ok(counts.messages)
    }

    /// Gives deliveries back one by one: a quorum queue appends them in the order it gets them back,
    /// which is any when the channel closes.
    ///
    /// Returns when the broker has them ready again. A quorum queue does not have them at once, and
    /// some not before it has heard that the channel was closed; `list` and then `replay` would miss
    /// them. While others take letters too, their number says nothing, so it waits for a while and
    /// not for ever.
    async fn put_back(&self, polling: &PolledQueue, tags: Vec<u64>) {
        let channel = polling.channel();
        let (session, given_back) = (Arc::clone(channel.session()), tags.len());
        let before = if tags.is_empty() {
            None
        } else {
            self.ready(&session).await.ok()
        };
        for tag in tags {
            channel.requeue(tag);
        }
        if let Some(before) = before {
            let given_back = u32::try_from(given_back).unwrap_or(u32::MAX);
            let there = self.until_ready(&session, before.saturating_add(given_back));
            if tokio::time::timeout(PUT_BACK, there).await.is_err() {
                let queue = self.spec.name.as_str();
                tracing::debug!(
                    queue,
                    given_back,
                    "not all dead letters are seen to be back"
                );
            }
        }
        channel.close().await;
    }

    async fn until_ready(&self, session: &Arc<Session>, letters: u32) {
        let mut pause = FIRST_PAUSE;
        // On a connection that is lost they are back anyway.
        while let Ok(ready) = self.ready(session).await {
            if ready >= letters {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn polling(&self) -> Result<PolledQueue, Error> {
        let queue = self.spec.dead()?;
        let name = self.connection.namespace().scope(queue.name().as_str());
        let topology = Topology::queue(queue);
        PolledQueue::open(&self.connection, name, &topology, self.spec.passive).await
    }

    fn read(&self, delivery: &Delivery) -> DeadLetter<T> {
        let properties = &delivery.message.properties;
        let head = JobHead::read(properties);
        let payload = codec(self.spec.codec(), head.content_type.as_deref())
            .and_then(|codec| {
                codec
                    .decode(&delivery.message.body)
                    .map_err(|error| error.to_string())
            })
            .map_err(|reason| Error::new(Kind::Decode).caused_by(reason));
        DeadLetter {
            payload,
            body: delivery.message.body.clone(),
            obituary: Obituary::read(properties),
            headers: properties.headers.clone(),
            head,
        }
    }

    async fn revive(&self, publisher: &Publisher, delivery: &Delivery) -> Result<(), Error> {
        let message = &delivery.message;
        let queue = self.connection.namespace().scope(&self.spec.name);
        let what = Target {
            service: self.spec.name.as_str().into(),
            method: message
                .properties
                .kind
                .as_deref()
                .unwrap_or_default()
                .into(),
            queue: queue.as_str().into(),
        };
        let mut properties = Obituary::erase(message.properties.clone());
        envelope::sent_by(&mut properties, self.connection.user());
        let outgoing = Arc::new(Outgoing {
            exchange: String::new(),
            routing_key: queue,
            mandatory: true,
            properties,
            body: message.body.clone(),
        });
        let home = self.spec.home(self.spec.topology()?);
        let published = publisher.publish_or_declare(outgoing, TIMEOUT, &home).await;
        published.map_err(|fault| fault.into_error(&what))
    }
}

/// What to do with a dead letter.
enum Choice {
    Replay,
    Flush,
    /// Flush it, and do not look at any more.
    Stop,
}

impl<T> fmt::Debug for DeadLetters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("of", &self.spec.name)
            .finish_non_exhaustive()
    }
}

/// A job that was given up, and why.
#[derive(Debug)]
pub struct DeadLetter<T> {
    payload: Result<T, Error>,
    body: Bytes,
    head: JobHead,
    obituary: Obituary,
    headers: Table,
}

impl<T> DeadLetter<T> {
    /// The payload.
    ///
    /// # Errors
    /// [`is_decode`](Error::is_decode) when it does not decode, which may be why it is here.
    pub fn payload(&self) -> Result<&T, &Error> {
        self.payload.as_ref()
    }

    /// The payload's bytes, as they came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Why it was given up: `attempts` (the last one failed), `rejected` (by its handler, or not
    /// to be understood), `abandoned` (no worker lived to settle it); or the broker's own word:
    /// `expired`, `delivery_limit`, `maxlen`, `rejected`.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.obituary.reason
    }

    /// The last error; empty where the broker gave it up.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.obituary.error
    }

    /// The first error, which is the last one where there was one attempt; `None` where the broker
    /// gave it up.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.obituary.first_error.as_deref()
    }

    /// How many attempts there were; 0 where the broker gave it up.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.obituary.attempts
    }

    /// The queue it was given up on.
    #[must_use]
    pub fn source_queue(&self) -> &str {
        &self.obituary.source_queue
    }

    /// When it was given up, to the second.
    #[must_use]
    pub fn failed_at(&self) -> Option<SystemTime> {
        time(self.obituary.failed_at)
    }

    /// When it was first pushed, to the second, if its producer said so.
    #[must_use]
    pub fn first_seen(&self) -> Option<SystemTime> {
        time(self.head.pushed_at)
    }

    /// The task, where the queue carries tasks.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.head.task.as_deref()
    }

    /// The job's idempotency key.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.head.message_id.as_deref()
    }

    /// All headers, its producer's and those of its death.
    #[must_use]
    pub fn headers(&self) -> &Table {
        &self.headers
    }
}

fn time(seconds: Option<u64>) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds?))
}
