//! Polling of a queue (`basic.get`) that costs no other user of the connection anything.
//!
//! RabbitMQ does not support `basic.get` on streams: it answers 540 (NOT_IMPLEMENTED) and closes the
//! connection, with all consumers on it. AMQP has no way to ask for the type of a queue. So a queue
//! that Lepus did not declare is first polled on a connection of its own.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::link::{Channel, Connection, Delivery, GetChannel, Session};
use crate::publish::{self, Reusable};
use crate::sync::lock;
use crate::wire::reply_code;
use crate::wire::topology::Topology;

/// The beginning of RabbitMQ's text for it.
const PREFIX: &str = "NOT_IMPLEMENTED";
/// The time for which a queue that cannot be polled is not polled again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// A queue and the channel that it is polled on.
#[derive(Debug)]
pub(super) struct PolledQueue {
    get: GetChannel,
    /// Its name on the broker.
    queue: String,
    queues: Arc<PolledQueues>,
    connection: Option<Arc<DedicatedConnection>>,
}

impl PolledQueue {
    /// Declares the queue and opens a channel. `is_foreign` says that the queue's type is not known.
    pub(super) async fn open(
        connection: &Connection,
        queue: String,
        topology: &Topology,
        is_foreign: bool,
    ) -> Result<Arc<Self>, Error> {
        let queues = connection.shared(PolledQueues::default);
        let needs_connection = is_foreign && !queues.is_pollable(&queue)?;
        let (link, namespace) = (connection.consuming(), connection.namespace());
        let session = publish::declare(link, topology, namespace).await?;
        let dedicated = if needs_connection {
            Some(DedicatedConnection::open(connection).await?)
        } else {
            None
        };
        let session = dedicated
            .as_ref()
            .map_or(&session, |dedicated| &dedicated.session);
        Ok(Arc::new(Self {
            get: GetChannel::open(session).await?,
            queue,
            queues,
            connection: dedicated,
        }))
    }

    /// Takes one message; see [`GetChannel::poll`].
    pub(super) async fn poll(&self) -> Result<Option<Delivery>, Error> {
        let polled = self.get.poll(&self.queue).await;
        if self.connection.is_none() {
            return polled;
        }
        match polled {
            Ok(delivery) => {
                self.queues.note(&self.queue, None);
                Ok(delivery)
            }
            Err(error) => Err(match not_implemented(&error) {
                Some(refusal) => {
                    self.queues.note(&self.queue, Some(refusal.clone()));
                    refusal
                }
                None => error,
            }),
        }
    }

    /// The channel on which messages are settled.
    pub(super) fn channel(&self) -> &Arc<Channel> {
        self.get.channel()
    }

    /// The connection of its own, if it has one. It has to be held until every message that was
    /// taken is settled.
    pub(super) fn connection(&self) -> Option<Arc<DedicatedConnection>> {
        self.connection.clone()
    }
}

impl Reusable for PolledQueue {
    /// A connection of its own is given up as soon as the queue is known to be pollable.
    fn is_usable(&self) -> bool {
        let needs_connection = || !matches!(self.queues.is_pollable(&self.queue), Ok(true));
        self.channel().is_open() && (self.connection.is_none() || needs_connection())
    }
}

/// A connection for one channel, closed when this is dropped.
#[derive(Debug)]
pub(super) struct DedicatedConnection {
    session: Arc<Session>,
    io: Handle,
}

impl DedicatedConnection {
    /// Opens one in a task of its own: if the caller is dropped meanwhile, the connection is still
    /// closed with a handshake and not cut off.
    async fn open(connection: &Connection) -> Result<Arc<Self>, Error> {
        let opening = {
            let connection = connection.clone();
            let io = connection.io().clone();
            async move {
                let session = connection.open_separate_session().await?;
                Ok(Arc::new(Self { session, io }))
            }
        };
        let opened = connection.tasks().spawn(opening).await;
        opened.map_err(|ended| Error::new(ErrorKind::Closed).caused_by(ended))?
    }
}

impl Drop for DedicatedConnection {
    fn drop(&mut self) {
        let session = Arc::clone(&self.session);
        self.io.spawn(async move { session.close().await });
    }
}

/// The queues that were polled on a connection of their own, for all getters of a connection.
#[derive(Debug, Default)]
struct PolledQueues {
    results: Mutex<HashMap<String, PollResult>>,
}

/// The result of the first poll of a queue.
#[derive(Debug)]
struct PollResult {
    at: Instant,
    /// The broker's error, if the queue cannot be polled.
    refusal: Option<Error>,
}

impl PolledQueues {
    /// Whether a queue is known to be pollable. `false` if nothing is known of it.
    ///
    /// # Errors
    /// The queue is known not to be pollable.
    fn is_pollable(&self, queue: &str) -> Result<bool, Error> {
        match self.results().get(queue) {
            None => Ok(false),
            Some(PollResult { refusal: None, .. }) => Ok(true),
            Some(PollResult {
                at,
                refusal: Some(refusal),
            }) if at.elapsed() < REFUSED_FOR => Err(refusal.clone()),
            Some(_) => Ok(false),
        }
    }

    fn note(&self, queue: &str, refusal: Option<Error>) {
        let at = Instant::now();
        let result = PollResult { at, refusal };
        self.results().insert(queue.to_owned(), result);
    }

    fn results(&self) -> MutexGuard<'_, HashMap<String, PollResult>> {
        lock(&self.results)
    }
}

/// The broker's refusal to poll a queue, with which it closed the connection: the error itself, or
/// the text of one of its causes, since an error of a lost connection has no code.
fn not_implemented(error: &Error) -> Option<Error> {
    if error.amqp_code() == Some(reply_code::NOT_IMPLEMENTED) {
        return Some(error.clone());
    }
    let mut cause: Option<&dyn StdError> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if let Some((_, rest)) = text.split_once(PREFIX) {
            let text = format!("{PREFIX}{rest}");
            let code = reply_code::NOT_IMPLEMENTED;
            return Some(Error::new(ErrorKind::Broker { code, text }));
        }
        cause = error.source();
    }
    None
}
