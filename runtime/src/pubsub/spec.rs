//! An exchange's description: what is declared, whatever it carries.

use super::typing::Typing;
use crate::error::Error;
use crate::wire::codec::Codec;
use crate::wire::name::Name;
use crate::wire::topology::{Exchange, ExchangeKind, Topology};
use crate::wire::value::Table;

/// An exchange's description, whatever it carries.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) kind: ExchangeKind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    pub(super) passive: bool,
    pub(super) arguments: Table,
    pub(super) codec: Codec,
    pub(super) typing: Typing,
    /// What other exchanges it needs, and how it is bound to them.
    pub(super) needs: Topology,
    /// The first option that made no sense, told where the exchange is first used.
    pub(super) fault: Option<Error>,
}

impl Spec {
    pub(super) fn name(&self) -> Result<Name, Error> {
        Ok(Name::parse(&self.name)?)
    }

    pub(super) fn label(&self) -> &str {
        &self.name
    }

    /// The exchange and the ones it needs, in an order in which they can be declared.
    pub(super) fn topology(&self) -> Result<Topology, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut own = Exchange::new(self.name()?, self.kind);
        own.durable = self.durable;
        own.auto_delete = self.auto_delete;
        own.internal = self.internal;
        own.passive = self.passive;
        own.arguments = self.arguments.clone();
        let mut topology = self.needs.clone();
        topology.exchanges.push(own);
        Ok(topology)
    }

    pub(super) fn need(&mut self, other: Result<Topology, Error>) {
        match other {
            Err(error) => self.complain(error),
            Ok(other) => {
                for exchange in other.exchanges {
                    if !self.needs.exchanges.contains(&exchange) {
                        self.needs.exchanges.push(exchange);
                    }
                }
                for binding in other.bindings {
                    if !self.needs.bindings.contains(&binding) {
                        self.needs.bindings.push(binding);
                    }
                }
            }
        }
    }

    pub(super) fn complain(&mut self, error: Error) {
        self.fault.get_or_insert(error);
    }
}
