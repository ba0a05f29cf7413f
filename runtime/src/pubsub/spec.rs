//! Description of an exchange: the arguments of `exchange.declare`, and how its events are encoded.

use super::event::EventTyping;
use crate::error::Error;
use crate::wire::codec::Codec;
use crate::wire::name::Name;
use crate::wire::topology::{Exchange, ExchangeKind, Topology};
use crate::wire::value::Table;

/// Description of an exchange, without the type of its events.
#[derive(Clone, Debug)]
pub(super) struct ExchangeSpec {
    pub(super) name: String,
    pub(super) kind: ExchangeKind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    pub(super) passive: bool,
    pub(super) arguments: Table,
    pub(super) codec: Codec,
    pub(super) typing: EventTyping,
    /// The exchanges that are declared before this one, and its bindings to them.
    pub(super) dependencies: Topology,
    /// The first invalid option. It is reported where the exchange is first used.
    pub(super) invalid: Option<Error>,
}

impl ExchangeSpec {
    pub(super) fn parsed_name(&self) -> Result<Name, Error> {
        Ok(Name::parse(&self.name)?)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The exchange and those it depends on, in an order in which they can be declared.
    pub(super) fn topology(&self) -> Result<Topology, Error> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        let mut own = Exchange::new(self.parsed_name()?, self.kind);
        own.durable = self.durable;
        own.auto_delete = self.auto_delete;
        own.internal = self.internal;
        own.passive = self.passive;
        own.arguments = self.arguments.clone();
        let mut topology = self.dependencies.clone();
        topology.exchanges.push(own);
        Ok(topology)
    }

    /// Adds what another exchange needs to be declared.
    pub(super) fn depend_on(&mut self, other: Result<Topology, Error>) {
        match other {
            Err(error) => self.set_invalid(error),
            Ok(other) => {
                for exchange in other.exchanges {
                    if !self.dependencies.exchanges.contains(&exchange) {
                        self.dependencies.exchanges.push(exchange);
                    }
                }
                for binding in other.bindings {
                    if !self.dependencies.bindings.contains(&binding) {
                        self.dependencies.bindings.push(binding);
                    }
                }
            }
        }
    }

    /// Notes an invalid option, unless there is one already.
    pub(super) fn set_invalid(&mut self, error: Error) {
        self.invalid.get_or_insert(error);
    }
}
