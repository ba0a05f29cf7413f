//! Namespace: a prefix for the names of queues and exchanges, so that environments and tests can share a
//! broker.

use crate::wire::name::Name;
use crate::wire::topology::{ALTERNATE_EXCHANGE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY};
use crate::wire::value::{Table, Value};

/// A prefix, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace(Option<Name>);

impl Namespace {
    pub(super) fn new(prefix: Option<Name>) -> Self {
        Self(prefix)
    }

    /// The name on the broker. The default exchange and the broker's own (`amq.…`) have no
    /// namespace.
    pub(crate) fn scope(&self, name: &str) -> String {
        match &self.0 {
            Some(prefix) if !name.is_empty() && !name.starts_with("amq.") => {
                format!("{prefix}.{name}")
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
