//! An exchange as its users write it: how it routes, what it carries, how it is declared.

use std::fmt;
use std::marker::PhantomData;

use super::kind::{ByHeaders, ByKey, ByPattern, Kind, ToAll};
use super::publisher::EventPublisher;
use super::spec::Spec;
use super::subscribe::{Broadcast, Subscribe};
use super::typing::Typing;
use crate::error::Error;
use crate::link::Connection;
use crate::publish::Publisher;
use crate::wire::codec::Codec;
use crate::wire::name::Name;
use crate::wire::topology::{Binding, Destination, Topology};
use crate::wire::value::{Table, Value};

/// A fanout exchange of events: each goes to every subscription.
pub type Fanout<T> = EventExchange<ToAll, T>;
/// A direct exchange of events: each goes to the subscriptions bound by its very key.
pub type Direct<T> = EventExchange<ByKey, T>;
/// A topic exchange of events: each goes to the subscriptions bound by a [`Pattern`](super::Pattern)
/// that matches its key.
pub type Topic<T> = EventExchange<ByPattern, T>;
/// A headers exchange of events: each goes to the subscriptions bound by a [`Match`](super::Match)
/// that its headers fulfil.
pub type Headers<T> = EventExchange<ByHeaders, T>;

/// An exchange that carries events of type `T`: [`Fanout`], [`Direct`], [`Topic`] or [`Headers`].
///
/// A value of this type is only a description, cheap to make and to clone. The broker gets to see
/// it when it is first published to or subscribed to, and again on every new connection:
/// publishers and subscribers both declare the exchange, so that neither has to be first.
///
/// Unless options say otherwise it is durable (it outlives a restart of the broker), and events
/// are encoded as MessagePack. RabbitMQ refuses a declaration that differs from the exchange that
/// is there; such an error [`is_mismatch`](Error::is_mismatch) and names the exchange, the argument
/// and both values. The RabbitMQ tutorials declare their exchanges transient and send plain text:
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
    spec: Spec,
    carries: PhantomData<Carries<K, T>>,
}

/// Events go in and come out.
type Carries<K, T> = (fn(K, T), fn() -> (K, T));

impl<K: Kind, T> EventExchange<K, T> {
    /// A durable exchange of this name, in MessagePack. A name that AMQP does not allow is an
    /// [`is_invalid`](Error::is_invalid) error where the exchange is first used.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::of(Spec {
            name: name.to_owned(),
            kind: K::KIND,
            durable: true,
            auto_delete: false,
            internal: false,
            passive: false,
            arguments: Table::new(),
            codec: Codec::default(),
            typing: Typing::default(),
            needs: Topology::default(),
            fault: None,
        })
    }

    /// The exchange goes with a restart of the broker (`durable=false`): what the RabbitMQ
    /// tutorials declare. This says nothing about messages; see
    /// [`persistent`](EventPublisher::persistent).
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.spec.durable = false;
        self
    }

    /// The exchange goes when the last queue or exchange is unbound from it.
    #[must_use]
    pub fn auto_delete(mut self) -> Self {
        self.spec.auto_delete = true;
        self
    }

    /// Only other exchanges publish to it, through their bindings: publishing is an
    /// [`is_invalid`](Error::is_invalid) error.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.spec.internal = true;
        self
    }

    /// The exchange must be there already, with whatever properties: it is looked for and not
    /// declared. Where it is missing, the broker answers 404
    /// ([`amqp_code`](Error::amqp_code)).
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.spec.passive = true;
        self
    }

    /// Events that no queue takes here go on to that exchange (`alternate-exchange`), which is
    /// declared as well. They count as routed if a queue takes them there: nothing comes back to
    /// a [mandatory](super::Publish::mandatory) publish then.
    #[must_use]
    pub fn alternate<K2: Kind, U>(mut self, other: &EventExchange<K2, U>) -> Self {
        let name = Value::from(other.name());
        self.spec
            .arguments
            .insert("alternate-exchange".into(), name);
        self.spec.need(other.spec.topology());
        self
    }

    /// Everything that the source exchange routes by this binding arrives here as well, with its
    /// own key and headers (an exchange-to-exchange binding). The source is declared too. A
    /// fanout exchange is bound by `()`.
    #[must_use]
    pub fn bound_to<K2, U, B>(mut self, source: &EventExchange<K2, U>, binding: B) -> Self
    where
        K2: Kind,
        B: TryInto<K2::Binding, Error: Into<Error>>,
    {
        self.spec.need(source.spec.topology());
        let bind = || -> Result<Binding, Error> {
            let binding = binding.try_into().map_err(Into::into)?;
            let route = K2::route(&binding)?;
            Ok(Binding {
                exchange: Name::parse(source.name())?,
                destination: Destination::Exchange(Name::parse(&self.spec.name)?),
                routing_key: route.key,
                arguments: route.arguments,
            })
        };
        match bind() {
            Ok(binding) => self.spec.needs.bindings.push(binding),
            Err(error) => self.spec.complain(error),
        }
        self
    }

    /// An argument of the declaration that has no method here.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.spec.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// How events are encoded. Default: MessagePack. Subscribers take any codec that an event's
    /// content type names, and this one for events that name none.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.spec.codec = codec;
        self
    }

    /// The exchange carries events of several types, and those handled here are of this one:
    /// publishers write it into AMQP's `type`, and subscribers take it and no other.
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
    /// A subscriber to several types at once uses an enum and
    /// [`types_by_variant`](Self::types_by_variant). An enum whose payload says which variant it
    /// is (serde's own tags) needs neither.
    #[must_use]
    pub fn event_type(mut self, name: &str) -> Self {
        self.spec.typing = Typing::Named(name.to_owned());
        self
    }

    /// The exchange carries events of several types, and `T` is an enum with a variant for each:
    /// the variant's name (serde's, so `#[serde(rename = "…")]` counts) is AMQP's `type`, and the
    /// payload is what is in the variant, bare. Programs that publish one of these types alone
    /// ([`event_type`](Self::event_type)) write the same.
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
        self.spec.typing = Typing::Variant;
        self
    }

    /// The same exchange, carrying another type.
    #[must_use]
    pub fn carrying<U>(&self) -> EventExchange<K, U> {
        EventExchange::of(self.spec.clone())
    }

    /// The exchange's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Declares the exchange, and what it is bound to, now instead of when it is first used.
    ///
    /// # Errors
    /// [`is_mismatch`](Error::is_mismatch) when it exists with other properties;
    /// [`is_invalid`](Error::is_invalid) for a name or an option that makes no sense; the broker
    /// refuses; the connection was lost or closed.
    ///
    /// Cancel-safe: the declaration goes on.
    pub async fn declare(&self, connection: &Connection) -> Result<(), Error> {
        let topology = self.spec.topology()?;
        Publisher::without_size_limit(connection)
            .declare(topology)
            .await
    }

    /// Publishes events here.
    #[must_use]
    pub fn publisher(&self, connection: &Connection) -> EventPublisher<K, T> {
        EventPublisher::new(connection, self.spec.clone())
    }

    /// Subscribes to events; a builder. As it is, the subscription is a
    /// [broadcast](super::Subscription) one with a queue of its own; see
    /// [`shared`](Subscribe::shared) and [`singleton`](Subscribe::singleton) for the others.
    pub fn subscribe(&self, connection: &Connection) -> Subscribe<K, T, Broadcast> {
        Subscribe::new(connection, self.spec.clone())
    }

    fn of(spec: Spec) -> Self {
        Self {
            spec,
            carries: PhantomData,
        }
    }
}

impl<K: Kind> EventExchange<K, String> {
    /// A durable exchange of plain text (`text/plain`), for programs in any language.
    #[must_use]
    pub fn text(name: &str) -> Self {
        Self::new(name).codec(Codec::Text)
    }
}

impl<K: Kind> EventExchange<K, Vec<u8>> {
    /// A durable exchange of plain bytes (`application/octet-stream`).
    #[must_use]
    pub fn bytes(name: &str) -> Self {
        Self::new(name).codec(Codec::Bytes)
    }
}

impl<K, T> Clone for EventExchange<K, T> {
    fn clone(&self) -> Self {
        Self {
            spec: self.spec.clone(),
            carries: PhantomData,
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
    fn what_an_exchange_needs_is_declared_before_it() {
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
    fn an_option_that_makes_no_sense_is_told_later() {
        let all = Topic::<String>::new("all");
        let fault = Fanout::<String>::new("some").bound_to(&all, "kern.crit*");
        let error = fault.spec.topology().unwrap_err();
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
