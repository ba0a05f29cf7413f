//! The methods of a service or of a set of tasks, found by the `type` property of a request or job.

use std::collections::HashMap;

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};

/// Methods by their names on the wire.
pub(crate) struct MethodTable {
    methods: HashMap<&'static str, &'static MethodDescriptor>,
    default: Option<&'static MethodDescriptor>,
}

impl MethodTable {
    /// The methods of `descriptor`. Messages without a `type` are for the method `default`.
    pub(crate) fn new(
        descriptor: &'static ServiceDescriptor,
        default: Option<&'static MethodDescriptor>,
    ) -> Self {
        let methods = descriptor.methods().iter();
        Self {
            methods: methods.map(|method| (method.name(), method)).collect(),
            default,
        }
    }

    /// The method for a message with this `type`.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&'static MethodDescriptor> {
        match name {
            Some(name) => self.methods.get(name).copied(),
            None => self.default,
        }
    }

    /// The names of all methods, for an error that names the ones there are: `add, divide, fib`.
    pub(crate) fn names(&self) -> String {
        let mut names: Vec<_> = self.methods.keys().copied().collect();
        names.sort_unstable();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &[MethodDescriptor] = &[
        MethodDescriptor::new(0, "fib"),
        MethodDescriptor::new(1, "add").default_method(),
    ];
    static SERVICE: ServiceDescriptor = ServiceDescriptor::new("calculator", METHODS);

    #[test]
    fn methods_are_found_by_name() {
        let table = MethodTable::new(&SERVICE, SERVICE.default_target());
        let found = |name| table.find(name).map(MethodDescriptor::name);
        assert_eq!(found(Some("fib")), Some("fib"));
        assert_eq!(found(None), Some("add"));
        assert_eq!(found(Some("fob")), None);
        assert_eq!(table.names(), "add, fib");
        assert!(MethodTable::new(&SERVICE, None).find(None).is_none());
    }
}
