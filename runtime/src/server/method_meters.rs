//! The meters of a service's methods, found by the method.

use std::sync::Arc;

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::meter::{Meter, Meters, OTHER};
use crate::stats::HandlerKind;

/// The meters of the methods of a service or of a set of tasks, and one for methods that it does not have.
pub(crate) struct MethodMeters {
    /// In the order of the descriptor, so that the number of a method is mostly its index.
    methods: Vec<(&'static str, Arc<Meter>)>,
    other: Arc<Meter>,
}

impl MethodMeters {
    /// The meters of `descriptor`, whose messages come to `service`, a service or a queue.
    pub(crate) fn new(
        meters: &Meters,
        kind: HandlerKind,
        service: &str,
        descriptor: &'static ServiceDescriptor,
    ) -> Self {
        let methods = descriptor.methods().iter().map(|method| {
            let name = method.name();
            (name, meters.of(kind, service, name))
        });
        Self {
            methods: methods.collect(),
            other: meters.of(kind, service, OTHER),
        }
    }

    /// The meter of a method; `None` is one that the service does not have.
    pub(crate) fn of(&self, method: Option<&MethodDescriptor>) -> &Arc<Meter> {
        let Some(method) = method else {
            return &self.other;
        };
        let is_it = |(name, _): &&(&str, Arc<Meter>)| *name == method.name();
        let by_number = self.methods.get(method.id()).filter(is_it);
        // The descriptor of a service that is written by hand may number its methods otherwise.
        let found = by_number.or_else(|| self.methods.iter().find(is_it));
        found.map_or(&self.other, |(_, meter)| meter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &[MethodDescriptor] = &[
        MethodDescriptor::new(0, "fib"),
        MethodDescriptor::new(7, "add"),
    ];
    static SERVICE: ServiceDescriptor = ServiceDescriptor::new("calculator", METHODS);

    #[test]
    fn methods_are_found_whatever_their_numbers() {
        let meters = Meters::default();
        let methods = MethodMeters::new(&meters, HandlerKind::Request, "calculator", &SERVICE);
        let found = |method| methods.of(method).counters.method.as_str();
        for method in METHODS {
            assert_eq!(found(Some(method)), method.name());
        }
        let other = MethodDescriptor::new(0, "divide");
        assert_eq!(found(Some(&other)), OTHER);
        assert_eq!(found(None), OTHER);
    }
}
