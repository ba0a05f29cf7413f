//! The four exchange types of AMQP (fanout, direct, topic, headers), each with its type of binding.

use super::header_match::Match;
use super::key::RoutingKey;
use super::pattern::Pattern;
use crate::error::Error;
use crate::wire::topology::ExchangeKind;
use crate::wire::value::Table;

/// An exchange type: [`ToAll`], [`ByKey`], [`ByPattern`] or [`ByHeaders`].
///
/// Code that works with each type of exchange names it as a bound. The trait is sealed: other crates
/// cannot implement it.
pub trait Kind: sealed::Routing {
    /// The binding of a queue, or of another exchange, to such an exchange.
    type Binding: Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static;
}

/// The exchange types that route by a binding, which a subscription has to name: all but
/// [`ToAll`]. Sealed as [`Kind`] is.
pub trait Selective: Kind {}

/// Marker of a [`Fanout`](crate::Fanout) exchange, which routes every event to every queue bound to it.
/// It has no values.
#[derive(Clone, Copy, Debug)]
pub enum ToAll {}

/// Marker of a [`Direct`](crate::Direct) exchange, which routes by equality of routing key and binding
/// key. It has no values.
#[derive(Clone, Copy, Debug)]
pub enum ByKey {}

/// Marker of a [`Topic`](crate::Topic) exchange, which matches the routing key against patterns of
/// words. It has no values.
#[derive(Clone, Copy, Debug)]
pub enum ByPattern {}

/// Marker of a [`Headers`](crate::Headers) exchange, which matches the event's headers. It has no
/// values.
#[derive(Clone, Copy, Debug)]
pub enum ByHeaders {}

pub(super) mod sealed {
    use super::{Error, ExchangeKind, Kind, Table};

    /// The routing key and the arguments of a `queue.bind` or an `exchange.bind`.
    #[derive(Debug)]
    pub struct AmqpBinding {
        pub(in crate::pubsub) routing_key: String,
        pub(in crate::pubsub) arguments: Table,
    }

    /// The part of [`Kind`] that the library alone uses and implements.
    pub trait Routing: Send + Sync + Sized + 'static {
        /// The type in `exchange.declare`.
        const KIND: ExchangeKind;

        /// The bindings of a subscription that has named none.
        fn default_bindings() -> Vec<<Self as Kind>::Binding>
        where
            Self: Kind;

        /// Validates a binding and translates it to AMQP.
        fn to_amqp(binding: &<Self as Kind>::Binding) -> Result<AmqpBinding, Error>
        where
            Self: Kind;
    }
}

use sealed::{AmqpBinding, Routing};

fn by_key(key: &str) -> AmqpBinding {
    AmqpBinding {
        routing_key: key.to_owned(),
        arguments: Table::new(),
    }
}

impl Routing for ToAll {
    const KIND: ExchangeKind = ExchangeKind::Fanout;

    fn default_bindings() -> Vec<()> {
        vec![()]
    }

    fn to_amqp((): &()) -> Result<AmqpBinding, Error> {
        Ok(by_key(""))
    }
}

impl Routing for ByKey {
    const KIND: ExchangeKind = ExchangeKind::Direct;

    fn default_bindings() -> Vec<RoutingKey> {
        Vec::new()
    }

    fn to_amqp(key: &RoutingKey) -> Result<AmqpBinding, Error> {
        Ok(by_key(key.as_str()))
    }
}

impl Routing for ByPattern {
    const KIND: ExchangeKind = ExchangeKind::Topic;

    fn default_bindings() -> Vec<Pattern> {
        Vec::new()
    }

    fn to_amqp(pattern: &Pattern) -> Result<AmqpBinding, Error> {
        Ok(by_key(pattern.as_str()))
    }
}

impl Routing for ByHeaders {
    const KIND: ExchangeKind = ExchangeKind::Headers;

    fn default_bindings() -> Vec<Match> {
        Vec::new()
    }

    fn to_amqp(conditions: &Match) -> Result<AmqpBinding, Error> {
        conditions.check()?;
        Ok(AmqpBinding {
            routing_key: String::new(),
            arguments: conditions.arguments(),
        })
    }
}

impl Kind for ToAll {
    type Binding = ();
}

impl Kind for ByKey {
    type Binding = RoutingKey;
}

impl Kind for ByPattern {
    type Binding = Pattern;
}

impl Kind for ByHeaders {
    type Binding = Match;
}

impl Selective for ByKey {}
impl Selective for ByPattern {}
impl Selective for ByHeaders {}
