//! Publisher of events to one exchange, with or without publisher confirms.

use std::borrow::Borrow;
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;

use super::binding::{ByHeaders, ByKey, ByPattern, Kind, RoutingKey, ToAll};
use super::exchange_publisher::ExchangePublisher;
use super::options::{PublishOptions, Safety};
use super::publish::Publish;
use super::spec::ExchangeSpec;
use crate::error::Error;
use crate::link::Connection;
use crate::middleware::{Middleware, Next, Publication};
use crate::wire::value::Table;

/// Publishes events of type `T` to one exchange. Cheap to clone; clones share one channel and one
/// limit of publishes in flight.
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
///     Err(error) if error.is_unroutable() => println!("no subscriber"),
///     other => other?,
/// }
///
/// // Many at once: each is sent before the confirms of those before it have arrived.
/// let lines = ["one", "two"].map(|text| LogLine { text: text.to_owned() });
/// let results = publisher.publish_all(lines.iter().map(|line| ("kern.info", line))).await;
/// println!("{} failed", results.iter().filter(|result| result.is_err()).count());
/// # Ok(())
/// # }
/// ```
pub struct EventPublisher<K, T> {
    publisher: Arc<ExchangePublisher>,
    options: PublishOptions,
    /// The layers that a publish passes, if there are any.
    layers: Option<Arc<Next<Publication>>>,
    payload: PhantomData<fn(K, T)>,
}

impl<K: Kind, T> EventPublisher<K, T> {
    pub(super) fn new(connection: &Connection, spec: ExchangeSpec) -> Self {
        Self {
            publisher: Arc::new(ExchangePublisher::new(connection, spec)),
            options: PublishOptions {
                persistent: false,
                mandatory: false,
                safety: Safety::Confirmed,
                timeout: crate::publish::TIMEOUT,
            },
            layers: None,
            payload: PhantomData,
        }
    }

    /// Turns publisher confirms off: a publish returns when the event is written to the socket. This
    /// is several times faster from one task, but an event can be lost without an error, with the
    /// connection or with the exchange.
    #[must_use]
    pub fn unconfirmed(mut self) -> Self {
        self.options.safety = Safety::Unconfirmed;
        self
    }

    /// Makes events persistent: in durable queues they outlive a restart of the broker. Default:
    /// transient.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.options.persistent = true;
        self
    }

    /// Makes every publish [`mandatory`](Publish::mandatory).
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.options.mandatory = true;
        self
    }

    /// Limits the time of a publish, from the wait for a connection to the confirm. Default: 10 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = limit;
        self
    }

    /// Limits the number of publishes in flight; further ones wait within their timeout. Default:
    /// 1024. The publisher no longer shares its channel and its limit with the one it was cloned
    /// from.
    #[must_use]
    pub fn max_in_flight(mut self, publishes: usize) -> Self {
        self.publisher = Arc::new(self.publisher.with_limit(publishes));
        self
    }

    /// Puts a layer around the publishes of this publisher and its later clones
    /// ([`middleware`](crate::middleware)): the last one that is added sees a publish first. A layer is a
    /// [`Middleware`] of [`Publication`]s, such as [`from_fn`](crate::middleware::from_fn) of a function.
    /// [`Producer::layer`](crate::jobs::Producer::layer) has an example.
    #[must_use]
    pub fn layer(mut self, layer: impl Middleware<Publication>) -> Self {
        let mut layers = self.layers.as_deref().cloned();
        Next::add(&mut layers, layer);
        self.layers = layers.map(Arc::new);
        self
    }

    /// Declares the exchange now, instead of with the first publish, so that a mismatch is known
    /// early.
    ///
    /// # Errors
    /// As [`EventExchange::declare`](super::EventExchange::declare).
    ///
    /// # Cancel safety
    /// A declaration that has begun is completed even if the future is dropped.
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
        Publish::new(
            Arc::clone(&self.publisher),
            self.layers.clone(),
            self.options,
            encoded,
        )
    }

    async fn await_all(
        &self,
        publishes: impl Iterator<Item = Publish> + Send,
    ) -> Vec<Result<(), Error>> {
        self.publisher.wait_until_ready(self.options).await;
        let in_flight = self.publisher.max_in_flight();
        stream::iter(publishes.map(Publish::into_future))
            .buffered(in_flight)
            .collect()
            .await
    }
}

impl<T> EventPublisher<ToAll, T> {
    /// Publishes to every subscription, when the result is awaited. The routing key is empty, unless
    /// [`key`](Publish::key) sets one for exchanges that are bound to this one.
    pub fn publish<Q>(&self, event: &Q) -> Publish
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.prepare(RoutingKey::literal("").map_err(Error::from), event)
    }

    /// Publishes many events without waiting for each confirm before
    /// the next publish. They are sent in their order, apart from those that have to be published
    /// again. At most [`max_in_flight`](Self::max_in_flight) of them are in flight at once. Returns one
    /// result for each event, in their order; its errors are those of a [`Publish`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is not known which of the events were stored.
    pub async fn publish_all<'a, Q>(
        &self,
        events: impl IntoIterator<Item = &'a Q, IntoIter: Send>,
    ) -> Vec<Result<(), Error>>
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized + 'a,
    {
        let publishes = events.into_iter().map(|event| self.publish(event));
        self.await_all(publishes).await
    }
}

impl<T> EventPublisher<ByHeaders, T> {
    /// Publishes to the subscriptions that match the event's headers, when the result is awaited.
    /// Headers are set with [`header`](Publish::header).
    pub fn publish<Q>(&self, event: &Q) -> Publish
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.prepare(RoutingKey::literal("").map_err(Error::from), event)
    }

    /// Publishes many events, each with its headers, without waiting for each confirm before
    /// the next publish. They are sent in their order, apart from those that have to be published
    /// again. At most [`max_in_flight`](Self::max_in_flight) of them are in flight at once. Returns one
    /// result for each event, in their order; its errors are those of a [`Publish`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is not known which of the events were stored.
    pub async fn publish_all<'a, Q>(
        &self,
        events: impl IntoIterator<Item = (Table, &'a Q), IntoIter: Send>,
    ) -> Vec<Result<(), Error>>
    where
        T: Borrow<Q>,
        Q: Serialize + ?Sized + 'a,
    {
        let publishes = events.into_iter();
        let publishes = publishes.map(|(headers, event)| self.publish(event).headers(headers));
        self.await_all(publishes).await
    }
}

macro_rules! by_key {
    ($kind:ident) => {
        impl<T> EventPublisher<$kind, T> {
            /// Publishes with this routing key, when the result is awaited. An invalid key is an
            /// [`is_invalid`](Error::is_invalid) error then.
            pub fn publish<R, Q>(&self, key: R, event: &Q) -> Publish
            where
                R: TryInto<RoutingKey, Error: Into<Error>>,
                T: Borrow<Q>,
                Q: Serialize + ?Sized,
            {
                self.prepare(key.try_into().map_err(Into::into), event)
            }

            /// Publishes many events, each with its routing key, without waiting for each confirm before
            /// the next publish. They are sent in their order, apart from those that have to be published
            /// again. At most [`max_in_flight`](Self::max_in_flight) of them are in flight at once. Returns one
            /// result for each event, in their order; its errors are those of a [`Publish`].
            ///
            /// # Cancel safety
            /// If the future is dropped, it is not known which of the events were stored.
            pub async fn publish_all<'a, R, Q>(
                &self,
                events: impl IntoIterator<Item = (R, &'a Q), IntoIter: Send>,
            ) -> Vec<Result<(), Error>>
            where
                R: TryInto<RoutingKey, Error: Into<Error>>,
                T: Borrow<Q>,
                Q: Serialize + ?Sized + 'a,
            {
                let publishes = events.into_iter();
                let publishes = publishes.map(|(key, event)| self.publish(key, event));
                self.await_all(publishes).await
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
            layers: self.layers.clone(),
            payload: PhantomData,
        }
    }
}

impl<K, T> fmt::Debug for EventPublisher<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPublisher")
            .field("exchange", &self.publisher.spec().name())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
