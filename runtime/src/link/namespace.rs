//! Namespace: a prefix for the names of queues and exchanges, so that environments and tests can share a
//! broker.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::wire::name::Name;
use crate::wire::topology::{ALTERNATE_EXCHANGE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY};
use crate::wire::value::{Table, Value};

/// A prefix, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace(Option<Arc<Prefix>>);

#[derive(Debug)]
struct Prefix {
    name: Name,
    /// The entities that were declared with this prefix and are to be deleted with the namespace.
    declared: Mutex<BTreeSet<ScopedEntity>>,
}

/// A queue or an exchange, by its name on the broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ScopedEntity {
    Queue(String),
    Exchange(String),
}

impl Namespace {
    pub(super) fn new(prefix: Option<Name>) -> Self {
        Self(prefix.map(|name| {
            let declared = Mutex::default();
            Arc::new(Prefix { name, declared })
        }))
    }

    /// Remembers an entity that was declared. Without a prefix, and for those of the broker, it does nothing.
    pub(super) fn record(&self, entity: ScopedEntity) {
        let Some(prefix) = &self.0 else { return };
        let (ScopedEntity::Queue(name) | ScopedEntity::Exchange(name)) = &entity;
        if !name.is_empty() && !name.starts_with("amq.") {
            lock(&prefix.declared).insert(entity);
        }
    }

    /// The entities that were declared.
    pub(super) fn recorded(&self) -> Vec<ScopedEntity> {
        let prefix = self.0.iter();
        prefix
            .flat_map(|prefix| lock(&prefix.declared).clone())
            .collect()
    }

    /// Forgets an entity that was deleted.
    pub(super) fn forget(&self, entity: &ScopedEntity) {
        if let Some(prefix) = &self.0 {
            lock(&prefix.declared).remove(entity);
        }
    }

    /// The name on the broker. The default exchange and the broker's own (`amq.…`) have no
    /// namespace.
    pub(crate) fn scope(&self, name: &str) -> String {
        match &self.0 {
            Some(prefix) if !name.is_empty() && !name.starts_with("amq.") => {
                format!("{}.{name}", prefix.name)
            }
            _ => name.to_owned(),
        }
    }

    /// Queue and exchange arguments with the names in them prefixed. A dead-letter routing key is the
    /// name of a queue only if the dead-letter exchange is the default exchange.
    pub(super) fn arguments(&self, arguments: &Table) -> Table {
        let mut scoped = arguments.clone();
        let default_exchange =
            arguments.get(DEAD_LETTER_EXCHANGE).and_then(Value::as_str) == Some("");
        for (name, value) in &mut scoped {
            let is_name = match name.as_str() {
                DEAD_LETTER_EXCHANGE | ALTERNATE_EXCHANGE => true,
                DEAD_LETTER_ROUTING_KEY => default_exchange,
                _ => false,
            };
            if is_name && let Value::Text(text) = value {
                *text = self.scope(text);
            }
        }
        scoped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_prefixed_but_not_the_brokers_own() {
        let namespace = Namespace::new(Some(Name::parse("test").unwrap()));
        assert_eq!(namespace.scope("jobs"), "test.jobs");
        assert_eq!(namespace.scope(""), "");
        assert_eq!(namespace.scope("amq.topic"), "amq.topic");
        assert_eq!(Namespace::default().scope("jobs"), "jobs");
    }

    #[test]
    fn entities_are_recorded_with_a_prefix_alone() {
        let queue = |name: &str| ScopedEntity::Queue(name.to_owned());
        let namespace = Namespace::new(Some(Name::parse("test").unwrap()));
        for name in ["test.jobs", "test.jobs", "test.mails", "amq.gen-1", ""] {
            namespace.clone().record(queue(name));
        }
        assert_eq!(
            namespace.recorded(),
            [queue("test.jobs"), queue("test.mails")]
        );
        namespace.forget(&queue("test.jobs"));
        assert_eq!(namespace.recorded(), [queue("test.mails")]);
        let none = Namespace::default();
        none.record(queue("jobs"));
        assert_eq!(none.recorded(), []);
    }

    #[test]
    fn dead_letter_keys_are_names_only_with_the_default_exchange() {
        let namespace = Namespace::new(Some(Name::parse("test").unwrap()));
        let to_queue = Table::from([
            (DEAD_LETTER_EXCHANGE.to_owned(), Value::from("")),
            (DEAD_LETTER_ROUTING_KEY.to_owned(), Value::from("jobs")),
        ]);
        assert_eq!(
            namespace.arguments(&to_queue)[DEAD_LETTER_ROUTING_KEY],
            Value::from("test.jobs")
        );
        let to_exchange = Table::from([
            (DEAD_LETTER_EXCHANGE.to_owned(), Value::from("dead")),
            (DEAD_LETTER_ROUTING_KEY.to_owned(), Value::from("jobs")),
        ]);
        let scoped = namespace.arguments(&to_exchange);
        assert_eq!(scoped[DEAD_LETTER_EXCHANGE], Value::from("test.dead"));
        assert_eq!(scoped[DEAD_LETTER_ROUTING_KEY], Value::from("jobs"));
    }
}
