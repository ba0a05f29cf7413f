//! The dead-letter queue of a work queue: listed, replayed and purged (`queue.purge`).

mod dead_queue;
mod letter;
mod reader;

use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

pub use letter::DeadLetter;
pub use reader::DeadLetterReader;

use super::QueueSpec;
use crate::error::Error;
use crate::link::Connection;
use dead_queue::DeadQueue;
use reader::ReadRange;

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
///
/// [`reader`](Self::reader) takes them one at a time, for a replay with a limit, with progress, or with a decision
/// that takes time.
///
/// The type of the payload need not be known: `serde::de::IgnoredAny` stands for any, and
/// [`to_json`](DeadLetter::to_json) shows it. With [`passive`](super::WorkQueue::passive), neither need be the
/// properties of the queues:
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::WorkQueue;
/// use serde::de::IgnoredAny;
///
/// let letters = WorkQueue::<IgnoredAny>::new("mails").passive().dead_letters(&connection);
/// for letter in letters.list(10).await? {
///     println!("{}: {}", letter.reason(), letter.to_json());
/// }
/// # Ok(())
/// # }
/// ```
pub struct DeadLetters<T> {
    queue: DeadQueue,
    payload: PhantomData<fn() -> T>,
}

impl<T> DeadLetters<T> {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self::of(connection, spec, false)
    }

    pub(super) fn by_task(connection: &Connection, spec: QueueSpec) -> Self {
        Self::of(connection, spec, true)
    }

    fn of(connection: &Connection, spec: QueueSpec, is_by_task: bool) -> Self {
        Self {
            queue: DeadQueue {
                connection: connection.clone(),
                spec,
                is_by_task,
            },
            payload: PhantomData,
        }
    }
}

impl<T: DeserializeOwned> DeadLetters<T> {
    /// The number of dead letters.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn count(&self) -> Result<u32, Error> {
        let session = self.queue.declared_session().await?;
        self.queue.ready_count(&session).await
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
        let mut reader = DeadLetterReader::open(&self.queue, ReadRange::All).await?;
        let mut letters = Vec::new();
        let read = loop {
            if letters.len() >= most {
                break Ok(());
            }
            match reader.next().await {
                Ok(Some(letter)) => letters.push(letter),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        reader.close().await;
        read.map(|()| letters)
    }

    /// A reader of the letters that are in the queue now, which takes them one at a time.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn reader(&self) -> Result<DeadLetterReader<'_, T>, Error> {
        DeadLetterReader::open(&self.queue, ReadRange::Present).await
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
        let is_it = |letter: &DeadLetter<T>| letter.message_id() == Some(message_id);
        let replayed = self.replay_most(1, is_it).await;
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
        choose: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Result<u32, Error> {
        self.replay_most(u32::MAX, choose).await
    }

    async fn replay_most(
        &self,
        most: u32,
        mut choose: impl FnMut(&DeadLetter<T>) -> bool,
    ) -> Result<u32, Error> {
        let mut reader = self.reader().await?;
        let mut replayed = 0;
        let result = async {
            while replayed < most {
                let Some(letter) = reader.next().await? else {
                    break;
                };
                if choose(&letter) {
                    reader.replay().await?;
                    replayed += 1;
                }
            }
            Ok(())
        };
        let result: Result<(), Error> = result.await;
        reader.close().await;
        result.map(|()| replayed)
    }

    /// Removes all dead letters for good, and returns their number.
    ///
    /// # Errors
    /// The connection was lost or closed, or the broker refuses.
    pub async fn purge(&self) -> Result<u32, Error> {
        self.queue.purge().await
    }
}

impl<T> fmt::Debug for DeadLetters<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("of", &self.queue.spec.name)
            .finish_non_exhaustive()
    }
}
