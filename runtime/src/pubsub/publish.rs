//! One publish: its options, and the `basic.publish` that is made when it is awaited.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::binding::RoutingKey;
use super::event::EncodedEvent;
use super::exchange_publisher::ExchangePublisher;
use super::options::PublishOptions;
use crate::clock;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Outcome};
use crate::middleware::{Next, Publication};
use crate::observe::{Published, publish_outcome};
use crate::publish::Target;
use crate::span::MessageSpan;
use crate::stats::HandlerKind;
use crate::wire::envelope::{self, EventHead};
use crate::wire::message::Outgoing;
use crate::wire::value::{Table, Value};

/// A publish that is made when it is awaited. Unless its publisher is
/// [unconfirmed](super::EventPublisher::unconfirmed), it returns when the broker has confirmed the
/// event, that is, when every queue it is routed to has taken it.
///
/// # Errors
/// When it is awaited, each about this event alone:
/// [`is_invalid`](Error::is_invalid) (an invalid key, name or option),
/// [`is_mismatch`](Error::is_mismatch) (the exchange exists with other properties),
/// [`is_unroutable`](Error::is_unroutable) (no queue takes the event, and it is
/// [mandatory](Self::mandatory)),
/// [`is_rejected`](Error::is_rejected) (the queue of a shared subscription is full),
/// [`is_unconfirmed`](Error::is_unconfirmed) (the connection was lost before the confirm: the broker
/// may have stored the event), [`is_timeout`](Error::is_timeout), [`is_blocked`](Error::is_blocked),
/// [`is_too_large`](Error::is_too_large), [`is_encode`](Error::is_encode),
/// [`is_closed`](Error::is_closed).
///
/// If the broker closes the channel because of another event, this one is published again with the
/// same identity, within its timeout: subscribers may receive it twice.
///
/// # Cancel safety
/// Dropping the future does not take back an event that was sent.
#[must_use = "a publish is made when it is awaited"]
pub struct Publish {
    publisher: Arc<ExchangePublisher>,
    options: PublishOptions,
    event: Result<(RoutingKey, EncodedEvent), Error>,
    headers: Table,
    priority: Option<u8>,
    time_to_live: Option<Duration>,
    message_id: Option<String>,
    /// The layers of its publisher, if there are any.
    layers: Option<Next<Publication>>,
}

impl Publish {
    pub(super) fn new(
        publisher: Arc<ExchangePublisher>,
        layers: Option<Next<Publication>>,
        options: PublishOptions,
        event: Result<(RoutingKey, EncodedEvent), Error>,
    ) -> Self {
        Self {
            publisher,
            layers,
            options,
            event,
            headers: Table::new(),
            priority: None,
            time_to_live: None,
            message_id: None,
        }
    }

    /// Sets the routing key. Fanout and headers exchanges ignore it, but exchanges bound to them
    /// may use it, and subscribers receive it.
    pub fn key<R>(mut self, key: R) -> Self
    where
        R: TryInto<RoutingKey, Error: Into<Error>>,
    {
        self.event = self.event.and_then(|(_, encoded)| {
            let key = key.try_into().map_err(Into::into)?;
            Ok((key, encoded))
        });
        self
    }

    /// Adds a header, which a headers exchange routes by and subscribers receive.
    ///
    /// With a [reserved](Table#reserved-names-of-headers) name the publish fails with
    /// [`is_invalid`](Error::is_invalid), and nothing is sent: a group would take the event for one
    /// that has failed before.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// Adds several headers. A header that was added before under the same name is replaced.
    pub fn headers(mut self, headers: Table) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Makes the event persistent: in durable queues it outlives a restart of the broker.
    pub fn persistent(mut self) -> Self {
        self.options.persistent = true;
        self
    }

    /// Makes the publish fail with [`is_unroutable`](Error::is_unroutable) if no queue takes the event
    /// (AMQP's `mandatory`).
    pub fn mandatory(mut self) -> Self {
        self.options.mandatory = true;
        self
    }

    /// Limits the time that this publish may take. Inside a handler or a [`Context`](crate::Context) with a deadline,
    /// it ends with that at the latest.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = limit;
        self
    }

    /// Limits the time that the event may wait in a queue before the broker drops it (AMQP's
    /// `expiration`), in whole milliseconds, rounded up. More than 2³²−1 ms (49 days, the longest
    /// `expiration` that RabbitMQ accepts) counts as that.
    pub fn time_to_live(mut self, ttl: Duration) -> Self {
        self.time_to_live = Some(ttl);
        self
    }

    /// Sets the event's priority, for queues with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets the event's identity, by which subscribers recognise a repeated event. Default: a new one.
    pub fn message_id(mut self, id: &str) -> Self {
        self.message_id = Some(id.to_owned());
        self
    }

    /// Prepares the message at once, so that the future does not hold the options that it is made of.
    fn send(mut self) -> impl Future<Output = Result<(), Error>> + Send {
        let started = Instant::now();
        let layers = self.layers.take();
        let prepared = self.prepare(started);
        async move {
            let event = prepared?;
            let sent = match layers {
                None => event.send(started).await,
                // Boxed, so that the future of a publish without layers stays small.
                Some(layers) => Box::pin(event.send_through(layers, started)).await,
            };
            event.ended(started, &sent);
            sent
        }
    }

    fn prepare(self, started: Instant) -> Result<PreparedEvent, Error> {
        let Self {
            publisher,
            mut options,
            event,
            mut headers,
            priority,
            time_to_live,
            message_id,
            layers: _,
        } = self;
        let context = Context::current();
        if let Some(left) = context.time_left() {
            options.timeout = options.timeout.min(left);
        }
        let exchange = publisher.spec().name();
        let checked = event.and_then(|event| {
            envelope::check_headers(headers.keys())?;
            Ok(event)
        });
        let (key, encoded) = checked
            .map_err(|error| target(exchange, "").describe(error, started, Outcome::NotSent))?;
        let connection = publisher.connection();
        connection.propagated().add(&context, &mut headers);
        let message_id = message_id.unwrap_or_else(|| publisher.message_id());
        let full_name = connection.namespace().scope(exchange);
        let mut trace = context.message().trace.clone();
        let (target, id) = ((&*full_name, key.as_str()), Some(&*message_id));
        let span = MessageSpan::publish(connection.hooks(), exchange, target, id, &mut trace);
        let head = EventHead {
            kind: encoded.event_type,
            content_type: Some(publisher.spec().codec.content_type().to_owned()),
            message_id: Some(message_id),
            published_at: clock::unix_seconds(),
            publisher: connection.given_name().map(str::to_owned),
            persistent: options.persistent,
            priority,
            time_to_live,
            headers,
            trace,
        };
        let message = Arc::new(Outgoing {
            exchange: full_name,
            routing_key: key.as_str().to_owned(),
            mandatory: options.mandatory,
            properties: head.into_properties(),
            body: encoded.body,
        });
        Ok(PreparedEvent {
            publisher,
            message,
            options,
            span,
        })
    }
}

/// An event as a message, with the options of its publish.
struct PreparedEvent {
    publisher: Arc<ExchangePublisher>,
    message: Arc<Outgoing>,
    options: PublishOptions,
    span: MessageSpan,
}

impl PreparedEvent {
    async fn send(&self, started: Instant) -> Result<(), Error> {
        let message = Arc::clone(&self.message);
        let sent = self.publisher.publish(message, self.options, started).await;
        sent.map_err(|failure| failure.into_error(&self.target()))
    }

    /// Passes the layers, and publishes inside them.
    async fn send_through(&self, layers: Next<Publication>, started: Instant) -> Result<(), Error> {
        let (publisher, target) = (Arc::clone(&self.publisher), self.target());
        let options = self.options;
        let exchange = Arc::from(publisher.spec().name());
        let deadline = clock::deadline(started, options.timeout);
        let message = Arc::clone(&self.message);
        let publication = Publication::new(exchange, message, deadline, move |message, timeout| {
            let (publisher, target) = (Arc::clone(&publisher), target.clone());
            let options = PublishOptions { timeout, ..options };
            Box::pin(async move {
                let sent = publisher.publish(message, options, Instant::now()).await;
                sent.map_err(|failure| failure.into_error(&target))
            })
        });
        publication.pass(layers).await.unwrap_or_else(|outcome| {
            let late = Error::new(ErrorKind::Timeout);
            Err(self.target().describe(late, started, outcome))
        })
    }

    /// Reports the end of the publish.
    fn ended(&self, started: Instant, sent: &Result<(), Error>) {
        let outcome = publish_outcome(sent);
        self.span.published(outcome);
        if let Some(observe) = &self.publisher.connection().hooks().observe {
            observe.published(&Published {
                kind: HandlerKind::Event,
                destination: self.publisher.spec().name(),
                outcome,
                duration: started.elapsed(),
            });
        }
    }

    fn target(&self) -> Target {
        target(self.publisher.spec().name(), &self.message.routing_key)
    }
}

/// The name of an event in errors.
fn target(exchange: &str, key: &str) -> Target {
    let service = if key.is_empty() {
        format!("event to exchange `{exchange}`")
    } else {
        format!("event `{key}` to exchange `{exchange}`")
    };
    Target {
        service: service.into(),
        method: "".into(),
        queue: "".into(),
    }
}

impl IntoFuture for Publish {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("exchange", &self.publisher.spec().name())
            .field("key", &self.event.as_ref().map(|(key, _)| key))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(Publish: Send);

    /// Each publish allocates its future, and thousands may wait at once.
    #[test]
    fn the_future_of_a_publish_stays_small() {
        let size = crate::size_of_future(Publish::send);
        assert!(size <= 1024, "{size}");
    }
}
