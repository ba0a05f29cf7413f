//! A queue that is polled (`basic.get`), without putting others at risk.
//!
//! RabbitMQ has no `basic.get` for streams: it answers 540 NOT_IMPLEMENTED and closes the connection,
//! with all the consumers on it. Nothing in AMQP tells a queue's type, so a queue that Lepus has not
//! declared is first polled on a connection of its own.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::declaring;
use crate::error::{Error, Kind};
use crate::link::{Channel, Connection, Delivery, GetChannel, Session};
use crate::sync::lock;
use crate::wire::topology::Topology;

/// AMQP's NOT_IMPLEMENTED.
const NOT_IMPLEMENTED: u16 = 540;
/// How RabbitMQ's text begins then.
const PREFIX: &str = "NOT_IMPLEMENTED";
/// For how long a queue that cannot be polled is not asked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// One queue and the channel that it is polled on.
#[derive(Debug)]
pub(super) struct PolledQueue {
    polling: GetChannel,
    /// Its name on the broker.
    queue: String,
    known: Arc<Known>,
    apart: Option<Arc<Apart>>,
}

impl PolledQueue {
    /// Makes the queue be there and opens a channel. `is_foreign`: its type is not known.
    pub(super) async fn open(
        connection: &Connection,
        queue: String,
        topology: &Topology,
        is_foreign: bool,
    ) -> Result<Self, Error> {
        let known = connection.shared(Known::default);
        let is_apart = is_foreign && !known.is_pollable(&queue)?;
        let (link, namespace) = (connection.consuming(), connection.namespace());
        let session = declaring::declare(link, connection.io(), topology, namespace).await?;
        let apart = if is_apart {
            let session = connection.open_separate_session().await?;
            let io = connection.io().clone();
            Some(Arc::new(Apart { session, io }))
        } else {
            None
        };
        let session = apart.as_ref().map_or(&session, |apart| &apart.session);
        Ok(Self {
            polling: GetChannel::open(session).await?,
            queue,
            known,
            apart,
        })
    }

    /// Takes one message; see [`GetChannel::poll`].
    pub(super) async fn poll(&self) -> Result<Option<Delivery>, Error> {
        let polled = self.polling.poll(&self.queue).await;
        if self.apart.is_none() {
            return polled;
        }
        match polled {
            Ok(delivery) => {
                self.known.note(&self.queue, None);
                Ok(delivery)
            }
            Err(error) => Err(match not_implemented(&error) {
                Some(refused) => {
                    self.known.note(&self.queue, Some(refused.clone()));
                    refused
                }
                None => error,
            }),
        }
    }

    /// Where what was taken is settled.
    pub(super) fn channel(&self) -> &Arc<Channel> {
        self.polling.channel()
    }

    /// The connection of its own, to be held as long as anything on it.
    pub(super) fn apart(&self) -> Option<Arc<Apart>> {
        self.apart.clone()
    }

    /// Whether the next message is to be taken on another channel: this one is gone, or its
    /// connection is not needed any more.
    pub(super) fn is_over(&self) -> bool {
        let is_known = || matches!(self.known.is_pollable(&self.queue), Ok(true));
        !self.channel().is_open() || self.apart.is_some() && is_known()
    }
}

/// A connection that nobody else uses, closed when this is dropped.
#[derive(Debug)]
pub(super) struct Apart {
    session: Arc<Session>,
    io: Handle,
}

impl Drop for Apart {
    fn drop(&mut self) {
        let session = Arc::clone(&self.session);
        self.io.spawn(async move { session.close().await });
    }
}

/// The queues that were polled on a connection of their own.
#[derive(Debug, Default)]
struct Known {
    queues: Mutex<HashMap<String, Polled>>,
}

#[derive(Debug)]
struct Polled {
    at: Instant,
    /// Why it cannot be.
    refusal: Option<Error>,
}

impl Known {
    /// Whether a queue is known to be one that can be polled.
    ///
    /// # Errors
    /// It is known that it cannot.
    fn is_pollable(&self, queue: &str) -> Result<bool, Error> {
        match self.queues().get(queue) {
            None => Ok(false),
            Some(Polled { refusal: None, .. }) => Ok(true),
            Some(Polled {
                at,
                refusal: Some(refusal),
            }) if at.elapsed() < REMEMBERED_FOR => Err(refusal.clone()),
            Some(_) => Ok(false),
        }
    }

    fn note(&self, queue: &str, refusal: Option<Error>) {
        let at = Instant::now();
        self.queues()
            .insert(queue.to_owned(), Polled { at, refusal });
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<String, Polled>> {
        lock(&self.queues)
    }
}

/// The broker's refusal to let a queue be polled, which it closed the connection over.
fn not_implemented(error: &Error) -> Option<Error> {
    if error.amqp_code() == Some(NOT_IMPLEMENTED) {
        return Some(error.clone());
    }
    let mut cause: Option<&dyn StdError> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if let Some((_, rest)) = text.split_once(PREFIX) {
            let text = format!("{PREFIX}{rest}");
            let code = NOT_IMPLEMENTED;
            return Some(Error::new(Kind::Broker { code, text }));
        }
        cause = error.source();
    }
    None
}
