//! Typed description of an exchange, which creates its publishers and subscriptions.

use std::fmt;
use std::marker::PhantomData;

use super::binding::{ByHeaders, ByKey, ByPattern, IntoBinding, Kind, ToAll};
use super::event::EventTyping;
use super::publisher::EventPublisher;
use super::spec::ExchangeSpec;
use super::subscription::{Broadcast, Subscribe};
use crate::error::Error;
use crate::link::Connection;
use crate::publish::Publisher;
use crate::wire::codec::Codec;
use crate::wire::name::Name;
use crate::wire::topology::{Binding, Destination, Topology};
use crate::wire::value::{Table, Value};

/// A fanout exchange of events: each event goes to every subscription.
pub type Fanout<T> = EventExchange<ToAll, T>;
/// A direct exchange of events: each event goes to the subscriptions bound by its routing key.
pub type Direct<T> = EventExchange<ByKey, T>;
/// A topic exchange of events: each event goes to the subscriptions bound by a
/// [`Pattern`](super::Pattern) that matches its routing key.
pub type Topic<T> = EventExchange<ByPattern, T>;
/// A headers exchange of events: each event goes to the subscriptions bound by a
/// [`Match`](super::Match) that its headers fulfil.
pub type Headers<T> = EventExchange<ByHeaders, T>;

/// An exchange that carries events of type `T`: [`Fanout`], [`Direct`], [`Topic`] or [`Headers`].
///
/// A value of this type is only a description, cheap to create and to clone. The exchange is declared
/// when it is first published to or subscribed to, and again on every new connection: publishers and
/// subscribers both declare it, so that neither has to be first.
///
/// By default the exchange is durable (it outlives a restart of the broker), and events are encoded
/// as MessagePack. RabbitMQ refuses a declaration that differs from the existing exchange; such an
/// error [`is_mismatch`](Error::is_mismatch) and names the exchange, the argument and both values. The RabbitMQ tutorials declare their exchanges transient and send plain text:
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::Topic;
///
/// let logs = Topic::text("topic_logs").transient();
/// logs.publisher(&connection).publish("kern.critical", "A critical kernel error").await?;
/// # Ok(())
/// # }
/// ```
pub struct EventExchange<K, T> {
    spec: ExchangeSpec,
    payload: PhantomData<InAndOut<K, T>>,
}

/// Events are published and received: the exchange is invariant in their type.
type InAndOut<K, T> = (fn(K, T), fn() -> (K, T));

impl<K: Kind, T> EventExchange<K, T> {
    /// Describes a durable exchange of this name, with events in MessagePack. A name that AMQP does
    /// not allow is an [`is_invalid`](Error::is_invalid) error where the exchange is first used.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::of(ExchangeSpec {
            name: name.to_owned(),
            kind: K::KIND,
            durable: true,
            auto_delete: false,
            internal: false,
            passive: false,
            arguments: Table::new(),
            codec: Codec::default(),
            typing: EventTyping::default(),
            dependencies: Topology::default(),
            invalid: None,
        })
    }

    /// Makes the exchange non-durable (`durable=false`): it does not outlive a restart of the broker.
    /// The RabbitMQ tutorials declare such exchanges. This does not concern messages; see
    /// [`persistent`](EventPublisher::persistent).
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.spec.durable = false;
        self
    }

    /// Makes the broker delete the exchange when the last queue or exchange is unbound from it.
    #[must_use]
    pub fn auto_delete(mut self) -> Self {
        self.spec.auto_delete = true;
        self
    }

    /// Makes the exchange internal: it receives events only through bindings to other exchanges.
    /// Publishing to it is an [`is_invalid`](Error::is_invalid) error.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.spec.internal = true;
        self
    }

    /// Declares the exchange passively: it must exist already, with any properties. If it does not,
    /// the broker answers 404 ([`amqp_code`](Error::amqp_code)).
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.spec.passive = true;
        self
    }

    /// Sets the alternate exchange (`alternate-exchange`), which receives the events that no queue
    /// takes here, and is declared as well. Events that a queue takes there count as routed, also for
    /// a [mandatory](super::Publish::mandatory) publish.
    #[must_use]
    pub fn alternate<K2: Kind, U>(mut self, other: &EventExchange<K2, U>) -> Self {
        let name = Value::from(other.name());
        self.spec
            .arguments
            .insert("alternate-exchange".into(), name);
        self.spec.depend_on(other.spec.topology());
        self
    }

    /// Binds this exchange to another one (`exchange.bind`): it receives the events that the source
    /// exchange routes by this binding, with their routing keys and headers. The source is declared
    /// as well. The binding to a fanout exchange is `()`.
    #[must_use]
    pub fn bound_to<K2, U, B>(mut self, source: &EventExchange<K2, U>, binding: B) -> Self
    where
        K2: Kind,
        B: IntoBinding<K2::Binding>,
    {
        self.spec.depend_on(source.spec.topology());
        let bind = || -> Result<Binding, Error> {
            let binding = binding.into_binding()?;
            let amqp = K2::to_amqp(&binding)?;
            Ok(Binding {
                exchange: Name::parse(source.name())?,
                destination: Destination::Exchange(Name::parse(&self.spec.name)?),
                routing_key: amqp.routing_key,
                arguments: amqp.arguments,
            })
        };
        match bind() {
            Ok(binding) => self.spec.dependencies.bindings.push(binding),
            Err(error) => self.spec.set_invalid(error),
        }
        self
    }

    /// Sets an argument of `exchange.declare` that has no method here.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.spec.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the codec of events. Default: MessagePack. Subscribers decode by the content type of an
    /// event, and use this codec for events without one.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.spec.codec = codec;
        self
    }

    /// Sets the type of the events, for an exchange that carries several types: publishers write it
    /// to AMQP's `type`, and subscribers receive no other type.
    ///
    /// ```
    /// use lepus::Topic;
    ///
    /// # struct Placed;
    /// # struct Paid;
    /// let placed = Topic::<Placed>::new("orders").event_type("order.placed");
    /// let paid = Topic::<Paid>::new("orders").event_type("order.paid");
    /// ```
    ///
    /// A subscriber to several types uses an enum and [`types_by_variant`](Self::types_by_variant).
    /// An enum whose payload names the variant (serde's own tags) needs neither.
    #[must_use]
    pub fn event_type(mut self, name: &str) -> Self {
        self.spec.typing = EventTyping::Named(name.to_owned());
        self
    }

    /// Makes each variant of the enum `T` an event type, for an exchange that carries several types:
    /// the variant's name (serde's, so `#[serde(rename = "…")]` counts) is AMQP's `type`, and the
    /// payload is the content of the variant. Programs that publish only one of these types
    /// ([`event_type`](Self::event_type)) send the same messages.
    ///
    /// ```
    /// use lepus::Topic;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum OrderEvent {
    ///     #[serde(rename = "order.placed")]
    ///     Placed { id: u64 },
    ///     #[serde(rename = "order.paid")]
    ///     Paid { id: u64, cents: u64 },
    /// }
    ///
    /// let orders = Topic::<OrderEvent>::new("orders").types_by_variant();
    /// ```
    #[must_use]
    pub fn types_by_variant(mut self) -> Self {
        self.spec.typing = EventTyping::Variant;
        self
    }

    /// Describes the same exchange with another type of events.
    #[must_use]
    pub fn carrying<U>(&self) -> EventExchange<K, U> {
        EventExchange::of(self.spec.clone())
    }

    /// The exchange's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Declares the exchange, and those it is bound to, now instead of when it is first used.
    ///
    /// # Errors
    /// [`is_mismatch`](Error::is_mismatch) if it exists with other properties;
    /// [`is_invalid`](Error::is_invalid) for an invalid name or option; the broker refuses; the
    /// connection was lost or closed.
    ///
    /// # Cancel safety
    /// A declaration that has begun is completed even if the future is dropped.
    pub async fn declare(&self, connection: &Connection) -> Result<(), Error> {
        let topology = self.spec.topology()?;
        Publisher::without_size_limit(connection)
            .declare(topology)
            .await
    }

    /// Creates a publisher of events to this exchange.
    #[must_use]
    pub fn publisher(&self, connection: &Connection) -> EventPublisher<K, T> {
        EventPublisher::new(connection, self.spec.clone())
    }

    /// Creates a builder of subscriptions. By default the subscription is in
    /// [broadcast](super::Subscription) mode, with a queue of its own; see
    /// [`shared`](Subscribe::shared) and [`singleton`](Subscribe::singleton) for the other modes.
    pub fn subscribe(&self, connection: &Connection) -> Subscribe<K, T, Broadcast> {
        Subscribe::new(connection, self.spec.clone())
    }

    fn of(spec: ExchangeSpec) -> Self {
        Self {
            spec,
            payload: PhantomData,
        }
    }
}

impl<K: Kind> EventExchange<K, String> {
    /// Describes a durable exchange of plain text (`text/plain`), for programs in any language.
    #[must_use]
    pub fn text(name: &str) -> Self {
        Self::new(name).codec(Codec::Text)
    }
}

impl<K: Kind> EventExchange<K, Vec<u8>> {
    /// Describes a durable exchange of plain bytes (`application/octet-stream`).
    #[must_use]
    pub fn bytes(name: &str) -> Self {
        Self::new(name).codec(Codec::Bytes)
    }
}

impl<K, T> Clone for EventExchange<K, T> {
    fn clone(&self) -> Self {
        Self {
            spec: self.spec.clone(),
            payload: PhantomData,
        }
    }
}

impl<K, T> fmt::Debug for EventExchange<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.spec, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::topology::ExchangeKind;

    #[test]
    fn an_exchange_is_durable_unless_asked_otherwise() {
        let topology = Fanout::<String>::new("logs").spec.topology().unwrap();
        let [logs] = &topology.exchanges[..] else {
            panic!("{topology:?}");
        };
        assert!(logs.durable && !logs.auto_delete && !logs.internal && !logs.passive);
        assert_eq!(logs.kind, ExchangeKind::Fanout);
        let text = Direct::text("direct_logs").transient().spec;
        assert!(!text.topology().unwrap().exchanges[0].durable);
        assert_eq!(text.codec, Codec::Text);
    }

    #[test]
    fn dependencies_are_declared_first() {
        let all = Fanout::<String>::new("all");
        let lost = Fanout::<String>::new("lost");
        let kernel = Topic::<String>::new("kernel")
            .bound_to(&all, ())
            .alternate(&lost);
        let urgent = Direct::<String>::new("urgent").bound_to(&kernel, "kern.*");
        let topology = urgent.spec.topology().unwrap();
        let names: Vec<_> = topology.exchanges.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["all", "lost", "kernel", "urgent"]);
        let keys: Vec<_> = topology
            .bindings
            .iter()
            .map(|b| b.routing_key.as_str())
            .collect();
        assert_eq!(keys, ["", "kern.*"]);
    }

    #[test]
    fn an_invalid_option_is_reported_when_the_exchange_is_used() {
        let all = Topic::<String>::new("all");
        let invalid = Fanout::<String>::new("some").bound_to(&all, "kern.crit*");
        let error = invalid.spec.topology().unwrap_err();
        assert!(
            error.is_invalid() && error.to_string().contains("`crit*`"),
            "{error}"
        );
        assert!(
            Fanout::<String>::new("")
                .spec
                .topology()
                .unwrap_err()
                .is_invalid()
        );
    }
}
