//! The way of a session's streams to their clients, and the streams by their requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OnceCell;

use crate::error::Error;
use crate::link::{BurstDetector, Channel, Flush, Session};
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::message::Outgoing;

/// The channel that items and ends are published on.
#[derive(Debug)]
pub(super) struct StreamOutlet {
    pub(super) session: Arc<Session>,
    pub(super) channel: Arc<Channel>,
    /// The channel for the ends of streams whose channel was closed.
    spare: OnceCell<Arc<Channel>>,
    /// The name on the broker of the queue for the messages of clients.
    pub(super) queue: String,
    pub(super) app_id: Option<String>,
    burst: BurstDetector,
}

impl StreamOutlet {
    pub(super) async fn open(
        session: &Arc<Session>,
        queue: String,
        app_id: Option<String>,
    ) -> Result<Self, Error> {
        Ok(Self {
            session: Arc::clone(session),
            channel: Channel::open(session).await?,
            spare: OnceCell::new(),
            queue,
            app_id,
            burst: BurstDetector::default(),
        })
    }

    /// Appends a message to the write buffer; [`flush`](Self::flush) writes it.
    ///
    /// # Errors
    /// The channel is closed.
    pub(super) fn append(&self, message: &Outgoing) -> Result<(), Error> {
        self.channel.publish(message, Flush::Deferred).map(drop)
    }

    pub(super) fn flush(&self) {
        self.channel.flush(self.burst.next());
    }

    /// Publishes the end of a stream whose channel was closed.
    pub(super) async fn publish_on_spare(&self, message: &Outgoing) -> Result<(), Error> {
        let open = || Channel::open(&self.session);
        let channel = self.spare.get_or_try_init(open).await?;
        channel.publish(message, Flush::Inline).map(drop)
    }
}

/// The key of a stream: the reply queue and the correlation id of its request.
pub(super) fn stream_key(reply_to: &str, correlation_id: &[u8]) -> Vec<u8> {
    // A queue's name has no zero byte.
    [reply_to.as_bytes(), b"\0", correlation_id].concat()
}

/// The streams that are open, by their keys.
#[derive(Debug)]
pub(super) struct StreamTable<S> {
    /// `None` once the queue of the streams is lost.
    streams: Mutex<Option<HashMap<Vec<u8>, Arc<S>>>>,
    counters: Arc<Counters>,
}

impl<S> StreamTable<S> {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            streams: Mutex::new(Some(HashMap::new())),
            counters,
        }
    }

    fn streams(&self) -> MutexGuard<'_, Option<HashMap<Vec<u8>, Arc<S>>>> {
        lock(&self.streams)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.streams().is_none()
    }

    /// Adds a stream. `false` if there is one of this key, or if the queue is lost.
    pub(super) fn insert(&self, key: &[u8], stream: &Arc<S>) -> bool {
        let mut streams = self.streams();
        let Some(streams) = streams.as_mut().filter(|all| !all.contains_key(key)) else {
            return false;
        };
        streams.insert(key.to_owned(), Arc::clone(stream));
        self.counters.open_streams.add();
        true
    }

    pub(super) fn remove(&self, key: &[u8]) {
        let mut streams = self.streams();
        let removed = streams.as_mut().and_then(|streams| streams.remove(key));
        if removed.is_some() {
            self.counters.open_streams.remove();
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<S>> {
        self.streams().as_ref()?.get(key).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<S>> {
        let streams = self.streams();
        streams
            .iter()
            .flat_map(HashMap::values)
            .map(Arc::clone)
            .collect()
    }

    /// Removes all streams. None can be added after this.
    pub(super) fn take(&self) -> Vec<Arc<S>> {
        let streams = self.streams().take().unwrap_or_default();
        self.counters.open_streams.remove_all(streams.len());
        streams.into_values().collect()
    }
}
