//! A subscription as its user writes it: what to hear, in which mode, and how to take it.

mod broadcast;
mod group;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

pub use broadcast::{Broadcast, Overflow};
pub use group::Group;

use super::bindings::Bindings;
use super::event::Missed;
use super::kind::{Kind, Selective};
use super::reader::{Reader, Unknown};
use super::spec::Spec;
use super::station::{Place, Station, Tell};
use crate::error::Error;
use crate::escape::Escaped;
use crate::link::{Connection, ConsumeMode};
use crate::wire::topology::Topology;
use crate::worker::{OnLoss, Source};

/// A subscription to be: what it is bound by and how it receives. `M` is the mode, [`Broadcast`]
/// or [`Group`].
///
/// [`start`](Subscribe::start) gives a stream, `for_each` runs a handler.
#[must_use = "nothing is subscribed to until `start` or `for_each`"]
pub struct Subscribe<K: Kind, T, M = Broadcast> {
    connection: Connection,
    exchange: Spec,
    bindings: Bindings<K>,
    unbound: Unbound,
    unknown: Unknown,
    on_missed: Option<Tell>,
    grace: Duration,
    fault: Option<Error>,
    mode: M,
    gives: PhantomData<fn() -> T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unbound {
    Allowed,
    AMistake,
}

impl<K: Selective, T, M> Subscribe<K, T, M> {
    /// Hears what this matches: a [`RoutingKey`](super::RoutingKey) of a direct exchange, a
    /// [`Pattern`](super::Pattern) of a topic exchange, a [`Match`](super::Match) of a headers
    /// exchange. An event that several bindings match comes once.
    ///
    /// A binding that makes no sense is an [`is_invalid`](Error::is_invalid) error of `start`.
    pub fn bind<B>(mut self, binding: B) -> Self
    where
        B: TryInto<K::Binding, Error: Into<Error>>,
    {
        let binding = binding.try_into().map_err(Into::into);
        match binding.and_then(|binding| K::route(&binding).map(|_| binding)) {
            Ok(binding) => self.bindings.note(binding),
            Err(error) => {
                self.fault.get_or_insert(error);
            }
        }
        self
    }

    /// Starts without a binding, which is a mistake otherwise: it hears nothing until it is
    /// [bound](Bindings::bind), or what the group's queue is bound by already.
    pub fn unbound(mut self) -> Self {
        self.unbound = Unbound::Allowed;
        self
    }
}

impl<K: Kind, T, M> Subscribe<K, T, M> {
    /// What becomes of events whose type is not looked for, on an exchange with
    /// [types](super::EventExchange::event_type). Default: skipped and counted.
    pub fn unknown(mut self, unknown: Unknown) -> Self {
        self.unknown = unknown;
        self
    }

    /// A handler's word of what was missed: gaps, events that do not decode. Default: a warning
    /// in the log. Streams have it among their items.
    pub fn on_missed(mut self, tell: impl Fn(Missed) + Send + Sync + 'static) -> Self {
        self.on_missed = Some(Arc::new(tell));
        self
    }

    /// How long a shutdown waits for the events in hand. Default 30 s.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.grace = limit;
        self
    }

    /// The handle to change the bindings while a handler runs.
    #[must_use]
    pub fn bindings(&self) -> Bindings<K> {
        self.bindings.clone()
    }

    pub(super) fn reader(&self) -> Reader<T> {
        Reader::new(
            self.exchange.codec,
            self.exchange.typing.clone(),
            self.unknown,
            self.connection.max_message(),
            self.connection.counters(),
        )
    }

    /// Whom a handler's subscription tells.
    fn told(&self) -> Tell {
        let exchange = self.exchange.label().to_owned();
        self.on_missed.clone().unwrap_or_else(|| {
            Arc::new(move |missed| {
                let reason = std::error::Error::source(&missed).map(ToString::to_string);
                let missed = Escaped(&missed);
                tracing::warn!(exchange, ?reason, "{missed}");
            })
        })
    }

    fn station(
        &self,
        place: Place,
        mode: ConsumeMode,
        tell: Tell,
    ) -> Result<Arc<Station<K>>, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.unbound == Unbound::AMistake && self.bindings.list().is_empty() {
            return Err(Error::invalid(format!(
                "a subscription to the {} exchange `{}` without a binding hears nothing: add one \
                 with `bind`, or say `unbound`",
                K::KIND.as_str(),
                self.exchange.label()
            )));
        }
        let exchange = self.exchange.topology()?;
        let (label, namespace) = (self.exchange.label(), self.connection.namespace().clone());
        let bindings = self.bindings.clone();
        Ok(Station::new(
            exchange, label, place, mode, bindings, namespace, tell,
        ))
    }

    fn source(&self, queue: &str, concurrency: u16, on_loss: OnLoss) -> Source {
        Source {
            topology: Topology::default(),
            queue: queue.to_owned(),
            concurrency,
            grace: self.grace,
            max_body: usize::MAX,
            on_loss,
        }
    }
}

impl<K: Kind, T, M: fmt::Debug> fmt::Debug for Subscribe<K, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("exchange", &self.exchange.label())
            .field("bindings", &self.bindings)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
