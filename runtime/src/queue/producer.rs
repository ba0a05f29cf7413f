//! Pushing jobs: done when the broker has them.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use serde::Serialize;
use uuid::Uuid;

use super::Spec;
use crate::codec::Codec;
use crate::context::Context;
use crate::envelope;
use crate::error::{Error, Kind};
use crate::link::{Connection, Namespace};
use crate::message::{Outgoing, Properties};
use crate::publisher::{Publisher, TIMEOUT, UNCONFIRMED, What};
use crate::topology::{LONGEST_DELAY, Topology};
use crate::value::{Table, Value};

/// Pushes jobs to a work queue. Cheap to clone; clones share one channel.
pub struct Producer<T> {
    till: Till,
    payload: PhantomData<fn(T)>,
}

/// Where pushes go out, whatever their type.
#[derive(Clone, Debug)]
pub(super) struct Till {
    spec: Arc<Spec>,
    publisher: Publisher,
    namespace: Namespace,
    caller: String,
    timeout: Duration,
}

impl<T> Producer<T> {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            till: Till::new(connection, spec),
            payload: PhantomData,
        }
    }

    /// How long a push may take, from the wait for a connection to the confirm. Default 10 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.till.timeout = limit;
        self
    }

    /// How many pushes may wait for their confirm; further ones wait for a place, within their
    /// timeout. Default 1024.
    #[must_use]
    pub fn max_unconfirmed(mut self, connection: &Connection, pushes: usize) -> Self {
        self.till.publisher = Publisher::new(connection, pushes);
        self
    }
}

impl<T: Serialize> Producer<T> {
    /// Prepares a push; awaiting it makes it, and returns when the broker has confirmed the job
    /// (`basic.ack` in confirm mode: a persistent job is on disk then, on a quorum queue on most
    /// replicas).
    pub fn push(&self, job: &T) -> Push {
        self.till
            .push(None, self.till.spec.codec.encode(job).map_err(encode_error))
    }

    /// Pushes many jobs, without waiting for each confirm before the next push. One outcome a
    /// job, in their order.
    ///
    /// Not cancel-safe: a dropped future leaves the outcome of what was pushed unknown.
    pub async fn push_all<'a>(
        &self,
        jobs: impl IntoIterator<Item = &'a T>,
    ) -> Vec<Result<(), Error>>
    where
        T: 'a,
    {
        let mut outcomes = Vec::new();
        let mut pushes = FuturesOrdered::new();
        for job in jobs {
            if pushes.len() >= UNCONFIRMED
                && let Some(outcome) = pushes.next().await
            {
                outcomes.push(outcome);
            }
            pushes.push_back(self.push(job).into_future());
        }
        while let Some(outcome) = pushes.next().await {
            outcomes.push(outcome);
        }
        outcomes
    }
}

fn encode_error(error: crate::codec::CodecError) -> Error {
    Error::new(Kind::Encode).caused_by(error)
}

impl Till {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            spec: Arc::new(spec),
            publisher: Publisher::new(connection, UNCONFIRMED),
            namespace: connection.namespace().clone(),
            caller: connection.name().to_owned(),
            timeout: TIMEOUT,
        }
    }

    pub(super) fn codec(&self) -> Codec {
        self.spec.codec
    }

    pub(super) fn push(&self, task: Option<&str>, body: Result<Bytes, Error>) -> Push {
        Push {
            till: self.clone(),
            task: task.map(str::to_owned),
            body,
            delay: None,
            priority: None,
            message_id: None,
            headers: Table::new(),
        }
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self {
            till: self.till.clone(),
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("queue", &self.till.spec.name)
            .finish_non_exhaustive()
    }
}

/// A push that is not made yet: await it.
///
/// # Errors
/// When it is awaited, and each about this job and no other:
/// [`is_unroutable`](Error::is_unroutable) (only a [`passive`](super::WorkQueue::passive) queue
/// that is not there), [`is_rejected`](Error::is_rejected) (the queue is full),
/// [`is_unconfirmed`](Error::is_unconfirmed) (the connection went before the confirm: the broker
/// may have the job), [`is_timeout`](Error::is_timeout), [`is_blocked`](Error::is_blocked),
/// [`is_too_large`](Error::is_too_large) (also for headers, which have to fit in one frame of
/// 128 KiB), [`is_encode`](Error::is_encode), [`is_invalid`](Error::is_invalid) (an option that
/// makes no sense), [`is_closed`](Error::is_closed).
///
/// Dropping the future does not unsend a job that has left.
#[must_use = "a push is made when it is awaited"]
#[derive(Debug)]
pub struct Push {
    till: Till,
    task: Option<String>,
    body: Result<Bytes, Error>,
    delay: Option<Duration>,
    priority: Option<u8>,
    message_id: Option<String>,
    headers: Table,
}

impl Push {
    /// The job is delivered no earlier than this long after it was pushed; it waits on the broker,
    /// in whole milliseconds, 49 days at most.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The job's priority, on a queue with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// The job's idempotency key, kept over retries. Default: a fresh UUID.
    pub fn message_id(mut self, id: &str) -> Self {
        self.message_id = Some(id.to_owned());
        self
    }

    /// A header for the handler to read. Those that Lepus keeps a job's fate in (`attempt`,
    /// `attempts`, `error`, `first-error`, `reason`, `failed-at`, `source-queue`) and the broker's
    /// own are refused.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    async fn make(self) -> Result<(), Error> {
        let Self {
            till,
            task,
            body,
            delay,
            priority,
            message_id,
            mut headers,
        } = self;
        let Till {
            spec,
            publisher,
            namespace,
            caller,
            timeout,
        } = till;
        let what = What {
            service: spec.name.as_str().into(),
            method: task.as_deref().unwrap_or_default().into(),
            queue: namespace.scope(&spec.name).into(),
        };
        spec.check(&namespace)?;
        if let Some(name) = headers.keys().find(|name| envelope::is_reserved(name)) {
            return Err(Error::invalid(format!(
                "header `{name}` is not for producers: Lepus or the broker writes it"
            )));
        }
        let delay = delay.filter(|delay| !delay.is_zero());
        if delay.is_some_and(|delay| delay > LONGEST_DELAY) {
            return Err(Error::invalid(format!(
                "the broker holds a job for {LONGEST_DELAY:?} at most"
            )));
        }
        headers.extend(Context::current().trace().clone());
        let (queue, home) = match delay {
            None => (namespace.scope(&spec.name), spec.home(spec.topology()?)),
            Some(delay) => {
                let waiting = spec.delayed(delay)?;
                let name = namespace.scope(waiting.name().as_str());
                let mut topology: Topology = spec.topology()?;
                topology.queues.push(waiting);
                (name, spec.home(topology))
            }
        };
        let properties = Properties {
            content_type: Some(spec.codec.content_type().to_owned()),
            headers,
            persistent: spec.durable,
            priority,
            expiration: delay.map(envelope::expiration),
            message_id: Some(message_id.unwrap_or_else(|| Uuid::new_v4().to_string())),
            timestamp: now(),
            kind: task,
            app_id: Some(caller),
            ..Properties::default()
        };
        let message = Outgoing {
            exchange: String::new(),
            routing_key: queue,
            mandatory: true,
            properties,
            body: body?,
        };
        publisher.publish_home(message, what, timeout, &home).await
    }
}

impl IntoFuture for Push {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.make())
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> Option<u64> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}
