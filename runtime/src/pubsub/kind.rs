//! The four ways an exchange routes, as types: each has its own kind of binding.

use super::key::RoutingKey;
use super::matching::Match;
use super::pattern::Pattern;
use crate::error::Error;
use crate::wire::topology::ExchangeKind;
use crate::wire::value::Table;

/// How an exchange routes. There are four: [`ToAll`], [`ByKey`], [`ByPattern`], [`ByHeaders`].
pub trait Kind: sealed::Routes {
    /// What a queue, or another exchange, is bound by.
    type Binding: Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static;
}

/// The kinds that choose: a subscription says what it is to hear.
pub trait Selective: Kind {}

/// A fanout exchange: every event to every queue bound to it.
#[derive(Clone, Copy, Debug)]
pub enum ToAll {}

/// A direct exchange: by equality of routing key and binding key.
#[derive(Clone, Copy, Debug)]
pub enum ByKey {}

/// A topic exchange: by patterns of words.
#[derive(Clone, Copy, Debug)]
pub enum ByPattern {}

/// A headers exchange: by the event's headers.
#[derive(Clone, Copy, Debug)]
pub enum ByHeaders {}

pub(super) mod sealed {
    use super::{Error, ExchangeKind, Kind, Table};

    /// A binding as AMQP has it.
    #[derive(Debug)]
    pub struct Route {
        pub(in super::super) key: String,
        pub(in super::super) arguments: Table,
    }

    /// What the library needs to know of a kind.
    pub trait Routes: Send + Sync + Sized + 'static {
        /// AMQP's name for it.
        const KIND: ExchangeKind;

        /// What a subscription is bound by from the start.
        fn at_first() -> Vec<<Self as Kind>::Binding>
        where
            Self: Kind;

        /// A binding in AMQP's terms.
        fn route(binding: &<Self as Kind>::Binding) -> Result<Route, Error>
        where
            Self: Kind;
    }
}

use sealed::{Route, Routes};

fn by_key(key: &str) -> Route {
    Route {
        key: key.to_owned(),
        arguments: Table::new(),
    }
}

impl Routes for ToAll {
    const KIND: ExchangeKind = ExchangeKind::Fanout;

    fn at_first() -> Vec<()> {
        vec![()]
    }

    fn route((): &()) -> Result<Route, Error> {
        Ok(by_key(""))
    }
}

impl Routes for ByKey {
    const KIND: ExchangeKind = ExchangeKind::Direct;

    fn at_first() -> Vec<RoutingKey> {
        Vec::new()
    }

    fn route(key: &RoutingKey) -> Result<Route, Error> {
        Ok(by_key(key.as_str()))
    }
}

impl Routes for ByPattern {
    const KIND: ExchangeKind = ExchangeKind::Topic;

    fn at_first() -> Vec<Pattern> {
        Vec::new()
    }

    fn route(pattern: &Pattern) -> Result<Route, Error> {
        Ok(by_key(pattern.as_str()))
    }
}

impl Routes for ByHeaders {
    const KIND: ExchangeKind = ExchangeKind::Headers;

    fn at_first() -> Vec<Match> {
        Vec::new()
    }

    fn route(conditions: &Match) -> Result<Route, Error> {
        conditions.check()?;
        Ok(Route {
            key: String::new(),
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
