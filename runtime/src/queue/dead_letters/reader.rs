//! Dead letters taken one at a time (`basic.get`), each to be replayed or left.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::dead_queue::DeadQueue;
use super::letter::DeadLetter;
use crate::error::Error;
use crate::link::{AckRange, Delivery, Session};
use crate::publish::{OnMissing, Publisher, TIMEOUT, Target};
use crate::queue::polled_queue::PolledQueue;
use crate::service::BoxFuture;
use crate::sync::lock;
use crate::wire::envelope::{self, DeathRecord};
use crate::wire::message::Outgoing;
use crate::wire::topology::Topology;

/// The time that requeued letters get to be ready again in their queue.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest and the longest pause between two looks at the queue's message count.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Reads dead letters one at a time: each is [replayed](Self::replay), or stays in its queue.
///
/// It reads no more letters than there are when it starts, because a job that is replayed and fails again comes back
/// to this queue.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// let letters = lepus::WorkQueue::<String>::new("mails").dead_letters(&connection);
/// let mut reader = letters.reader().await?;
/// let mut replayed = 0;
/// while replayed < 100 {
///     let Some(letter) = reader.next().await? else { break };
///     if letter.reason() != "attempts" {
///         continue;
///     }
///     match reader.replay().await {
///         Ok(()) => replayed += 1,
///         // It stays here.
///         Err(error) if error.is_rejected() => println!("{}: {error}", letter.to_json()),
///         Err(error) => return Err(error),
///     }
/// }
/// reader.close().await;
/// # Ok(())
/// # }
/// ```
///
/// Letters that were read and not replayed are held until the reader is [closed](Self::close); until then nobody else
/// sees them. If the reader or its process ends without that, the broker puts them back. The broker closes a reader that
/// holds letters for longer than its `consumer_timeout` (30 minutes unless configured otherwise): the next read fails
/// then, and the letters are back in their queue.
#[must_use = "letters that were read are held until it is closed"]
pub struct DeadLetterReader<'a, T> {
    letters: &'a DeadQueue,
    queue: Arc<PolledQueue>,
    session: Arc<Session>,
    publisher: Publisher,
    range: ReadRange,
    /// The letter that was read last, unless it was replayed.
    last: Option<Delivery>,
    unsettled: HeldTags,
    payload: PhantomData<fn() -> T>,
}

/// The delivery tags of the letters that were read and not replayed, in their order.
type HeldTags = Arc<Mutex<BTreeSet<u64>>>;

/// The letters that a reader may still read.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReadRange {
    /// All, also those that arrive meanwhile.
    All,
    /// Those that were there when the first one was read.
    Present,
    /// So many.
    Left(u32),
}

impl<'a, T: DeserializeOwned> DeadLetterReader<'a, T> {
    pub(super) async fn open(letters: &'a DeadQueue, range: ReadRange) -> Result<Self, Error> {
        let session = letters.declared_session().await?;
        let queue = letters.spec.dead()?;
        let name = letters.namespace().scope(queue.name().as_str());
        let topology = Topology::queue(queue);
        let is_foreign = letters.spec.passive;
        let queue = PolledQueue::open(&letters.connection, name, &topology, is_foreign).await?;
        Ok(Self {
            publisher: Publisher::without_size_limit(&letters.connection),
            letters,
            queue,
            session,
            range,
            last: None,
            unsettled: HeldTags::default(),
            payload: PhantomData,
        })
    }

    /// Reads the next letter. `None` when all that were present have been read.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses. The letters that this reader holds are back in their
    /// queue then, if the connection was lost.
    ///
    /// # Cancel safety
    /// If the future is dropped, a letter that it has taken stays in its queue.
    pub async fn next(&mut self) -> Result<Option<DeadLetter<T>>, Error> {
        self.last = None;
        if let ReadRange::Left(0) = self.range {
            return Ok(None);
        }
        let Some(delivery) = self.queue.poll().await? else {
            return Ok(None);
        };
        // Noted before anything can fail, so that a failure leaves the letter here.
        lock(&self.unsettled).insert(delivery.tag);
        match &mut self.range {
            ReadRange::All => {}
            ReadRange::Left(left) => *left -= 1,
            // They are counted after the first one was taken: the count of a quorum queue leaves out messages that
            // were requeued just before, until the queue has delivered another message.
            ReadRange::Present => {
                let others = self.letters.ready_count(&self.session).await?;
                self.range = ReadRange::Left(others);
            }
        }
        let DeadQueue {
            connection,
            spec,
            is_by_task,
        } = self.letters;
        let letter = DeadLetter::read(&delivery, spec, *is_by_task, connection.namespace());
        self.last = Some(delivery);
        Ok(Some(letter))
    }

    /// Returns the letter that was read last to the work queue, where it starts with its first attempt. It is removed
    /// here only when the broker has confirmed its copy there: a failure in between leaves it in both queues, and
    /// never in none.
    ///
    /// The future borrows nothing, so that others can be read meanwhile, and several be replayed at once. They may
    /// come to the work queue in another order then.
    ///
    /// # Errors
    /// [`is_invalid`](Error::is_invalid) if no letter was read, or the last one is replayed already. Otherwise those of
    /// a [push](crate::jobs::Push): the letter stays in its queue, and others can be read.
    ///
    /// # Cancel safety
    /// If the future is dropped, the letter stays in its queue, and may be in the work queue as well.
    pub fn replay(&mut self) -> BoxFuture<Result<(), Error>> {
        let prepared = match self.last.take() {
            Some(delivery) => self.prepare(delivery),
            None => Err(Error::invalid(
                "there is no dead letter to replay: none was read, or the last one is replayed already",
            )),
        };
        Box::pin(async move { prepared?.replay().await })
    }

    /// Makes the copy of a letter for the work queue: a new job.
    fn prepare(&self, delivery: Delivery) -> Result<Replay, Error> {
        let DeadQueue {
            connection, spec, ..
        } = self.letters;
        let Delivery { tag, message } = delivery;
        let queue = connection.namespace().scope(&spec.name);
        let task = message.properties.kind.as_deref();
        let target = Target {
            service: spec.name.as_str().into(),
            method: task.unwrap_or_default().into(),
            queue: queue.as_str().into(),
        };
        let mut properties = DeathRecord::erase(message.properties);
        envelope::replace_user_id(&mut properties, connection.user());
        let job = Outgoing {
            exchange: String::new(),
            routing_key: queue,
            mandatory: true,
            properties,
            body: message.body,
        };
        Ok(Replay {
            tag,
            job: Arc::new(job),
            target,
            on_missing: spec.on_missing(spec.topology()?),
            publisher: self.publisher.clone(),
            queue: Arc::clone(&self.queue),
            unsettled: Arc::clone(&self.unsettled),
        })
    }

    /// Puts the letters back that were read and not replayed, in their order, and waits until they can be read again,
    /// for two seconds at the most.
    ///
    /// Replays that have not ended yet should be awaited before: their letters are put back as well, and are then in
    /// both queues.
    ///
    /// # Cancel safety
    /// If the future is dropped, the letters are put back all the same.
    pub async fn close(self) {
        let Self {
            letters,
            queue,
            session,
            unsettled,
            ..
        } = self;
        let unsettled = std::mem::take(&mut *lock(&unsettled));
        requeue(letters, &queue, &session, unsettled).await;
    }
}

/// A letter on its way back to the work queue.
struct Replay {
    tag: u64,
    job: Arc<Outgoing>,
    target: Target,
    on_missing: OnMissing,
    publisher: Publisher,
    queue: Arc<PolledQueue>,
    unsettled: HeldTags,
}

impl Replay {
    async fn replay(self) -> Result<(), Error> {
        let Self {
            publisher,
            on_missing,
            ..
        } = &self;
        let published = publisher.publish_or_declare(Arc::clone(&self.job), TIMEOUT, on_missing);
        let published = published.await;
        published.map_err(|failure| failure.into_error(&self.target))?;
        // If the reader was closed meanwhile, the letter is back in its queue already.
        if lock(&self.unsettled).remove(&self.tag) {
            self.queue.channel().ack(self.tag, AckRange::One);
        }
        Ok(())
    }
}

/// Requeues deliveries one by one (`basic.nack`) and closes the channel. A quorum queue appends
/// them in the order in which they are requeued; if they were requeued by the closing of the
/// channel, that order would be arbitrary.
///
/// Waits until the letters are ready again, so that a call of `replay` right after `list` does not
/// miss them: in a quorum queue this takes a moment, and for some of them until it has processed
/// the closing of the channel. The wait is limited, because the count says nothing if others take
/// letters at the same time.
async fn requeue(
    letters: &DeadQueue,
    queue: &PolledQueue,
    session: &Arc<Session>,
    tags: BTreeSet<u64>,
) {
    let channel = queue.channel();
    let requeued = tags.len();
    let before = if tags.is_empty() {
        None
    } else {
        letters.ready_count(session).await.ok()
    };
    for tag in tags {
        channel.requeue(tag);
    }
    if let Some(before) = before {
        let requeued = u32::try_from(requeued).unwrap_or(u32::MAX);
        let ready = wait_for_count(letters, session, before.saturating_add(requeued));
        if tokio::time::timeout(REQUEUE_TIMEOUT, ready).await.is_err() {
            tracing::debug!(
                queue = letters.spec.name,
                requeued,
                "requeued dead letters are not all ready again"
            );
        }
    }
    channel.close().await;
}

async fn wait_for_count(letters: &DeadQueue, session: &Arc<Session>, count: u32) {
    let mut pause = FIRST_PAUSE;
    // An error means that the connection is lost, which requeues the letters as well.
    while let Ok(ready) = letters.ready_count(session).await {
        if ready >= count {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

impl<T> fmt::Debug for DeadLetterReader<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterReader")
            .field("of", &self.letters.spec.name)
            .field("range", &self.range)
            .field("held", &lock(&self.unsettled).len())
            .finish_non_exhaustive()
    }
}
