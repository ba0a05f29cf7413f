//! Publishing events to one exchange: confirmed, or as fast as the socket takes them.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::exchange_publisher::{ExchangePublisher, Safety};
use super::key::RoutingKey;
use super::kind::{ByHeaders, ByKey, ByPattern, Kind, ToAll};
use super::publish::Publish;
use super::spec::Spec;
use crate::error::Error;
use crate::link::Connection;

/// Publishes events of type `T` to one exchange. Cheap to clone; clones share one channel and one
/// limit of what is in flight.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::Topic;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct LogLine {
///     text: String,
/// }
///
/// let publisher = Topic::<LogLine>::new("topic_logs").publisher(&connection);
/// let line = LogLine { text: "A critical kernel error".to_owned() };
/// publisher.publish("kern.critical", &line).await?;
///
/// match publisher.publish("kern.info", &line).mandatory().await {
///     Err(error) if error.is_unroutable() => println!("nobody listened"),
///     other => other?,
/// }
/// # Ok(())
/// # }
/// ```
pub struct EventPublisher<K, T> {
    publisher: Arc<ExchangePublisher>,
    options: Options,
    takes: PhantomData<fn(K, T)>,
}

/// What publishes have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) persistent: bool,
    pub(super) mandatory: bool,
    pub(super) safety: Safety,
    pub(super) timeout: Duration,
}

impl<K: Kind, T> EventPublisher<K, T> {
    pub(super) fn new(connection: &Connection, spec: Spec) -> Self {
        Self {
            publisher: Arc::new(ExchangePublisher::new(connection, spec)),
            options: Options {
                persistent: false,
                mandatory: false,
                safety: Safety::Confirmed,
                timeout: crate::publish::TIMEOUT,
            },
            takes: PhantomData,
        }
    }

    /// Publishes return when the event is written to the socket, without waiting for the broker's
    /// confirm: several times faster from one task, and an event may be lost in silence, with the
    /// connection or with the exchange.
    #[must_use]
    pub fn unconfirmed(mut self) -> Self {
        self.options.safety = Safety::Unconfirmed;
        self
    }

    /// Events are persistent: in durable queues they outlive a restart of the broker. Default:
    /// transient.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.options.persistent = true;
        self
    }

    /// Every publish is [`mandatory`](Publish::mandatory).
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.options.mandatory = true;
        self
    }

    /// How long a publish may take, from the wait for a connection to the confirm. Default 10 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = limit;
        self
    }

    /// How many publishes may be in flight; further ones wait for a place, within their timeout.
    /// Default 1024. The publisher has a channel and a limit of its own from here on.
    #[must_use]
    pub fn max_in_flight(mut self, publishes: usize) -> Self {
        self.publisher = Arc::new(self.publisher.with_limit(publishes));
        self
    }

    /// Declares the exchange now, instead of with the first publish, so that a mismatch is known
    /// early.
    ///
    /// # Errors
    /// As [`EventExchange::declare`](super::EventExchange::declare).
    ///
    /// Cancel-safe: the declaration goes on.
    pub async fn declare(&self) -> Result<(), Error> {
        self.publisher.declare().await
    }

    fn prepare<Q>(&self, key: Result<RoutingKey, Error>, event: &Q) -> Publish
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        let spec = self.publisher.spec();
        let encoded = key.and_then(|key| {
            let encoded = spec.typing.encode(spec.codec, &event)?;
            Ok((key, encoded))
        });
        Publish::new(Arc::clone(&self.publisher), self.options, encoded)
    }
}

impl<T> EventPublisher<ToAll, T> {
    /// Prepares a publish to every subscription; awaiting it makes it. The routing key is empty,
    /// unless [`key`](Publish::key) sets one for exchanges further on.
    pub fn publish<Q>(&self, event: &Q) -> Publish
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.prepare(RoutingKey::literal("").map_err(Error::from), event)
    }
}

impl<T> EventPublisher<ByHeaders, T> {
    /// Prepares a publish to the subscriptions that its headers match; awaiting it makes it. Set
    /// them with [`header`](Publish::header).
    pub fn publish<Q>(&self, event: &Q) -> Publish
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.prepare(RoutingKey::literal("").map_err(Error::from), event)
    }
}

macro_rules! by_key {
    ($kind:ident) => {
        impl<T> EventPublisher<$kind, T> {
            /// Prepares a publish under this key; awaiting it makes it. A key that is none is an
            /// [`is_invalid`](Error::is_invalid) error then.
            pub fn publish<R, Q>(&self, key: R, event: &Q) -> Publish
            where
                R: TryInto<RoutingKey, Error: Into<Error>>,
                T: Borrow<Q>,
                Q: Serialize + ?Sized,
            {
                self.prepare(key.try_into().map_err(Into::into), event)
            }
        }
    };
}

by_key!(ByKey);
by_key!(ByPattern);

impl<K, T> Clone for EventPublisher<K, T> {
    fn clone(&self) -> Self {
        Self {
            publisher: Arc::clone(&self.publisher),
            options: self.options,
            takes: PhantomData,
        }
    }
}

impl<K, T> fmt::Debug for EventPublisher<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPublisher")
            .field("exchange", &self.publisher.spec().label())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
