//! Exchange: its bindings, and the messages that they match.

use std::collections::BTreeMap;

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    arguments::{display, same, text, type_name},
    id::{Name, QueueId},
    topic::{self, Pattern},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Kind::Direct),
            "fanout" => Some(Kind::Fanout),
            "topic" => Some(Kind::Topic),
            "headers" => Some(Kind::Headers),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
            Kind::Headers => "headers",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Queue(QueueId),
    Exchange(Name),
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) alternate: Option<Name>,
    pub(crate) arguments: FieldTable,
    bindings: BTreeMap<String, Key>,
    count: usize,
}

/// All bindings with the same binding key.
#[derive(Debug)]
struct Key {
    pattern: Pattern,
    bindings: Vec<Binding>,
}

#[derive(Debug)]
struct Binding {
    destination: Destination,
    arguments: FieldTable,
}

/// The argument `x-match` of a binding to a headers exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    All,
    Any,
    AllWithX,
    AnyWithX,
}

impl Match {
    /// Reads the argument. The error is RabbitMQ's text for a value that is not valid.
    pub(crate) fn of(arguments: &FieldTable) -> Result<Self, String> {
        let Some(value) = arguments.inner().get("x-match") else {
            return Ok(Match::All);
        };
        match text(value).as_deref() {
            Some("all") => Ok(Match::All),
            Some("any") => Ok(Match::Any),
            Some("all-with-x") => Ok(Match::AllWithX),
            Some("any-with-x") => Ok(Match::AnyWithX),
            Some(other) => Err(format!(
                "Invalid x-match field value <<\"{other}\">>; expected all, any, all-with-x, or \
                 any-with-x"
            )),
            None => Err(format!(
                "Invalid x-match field type {} (value {}); expected longstr",
                type_name(value),
                display(value)
            )),
        }
    }
}

impl Exchange {
    pub(crate) fn new(name: Name, kind: Kind) -> Self {
        Self {
            name,
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            alternate: None,
            arguments: FieldTable::default(),
            bindings: BTreeMap::new(),
            count: 0,
        }
    }

    /// Adds a binding. Returns whether it is new; one that exists already stays as it is.
    pub(crate) fn bind(
        &mut self,
        destination: Destination,
        key: &str,
        arguments: FieldTable,
    ) -> bool {
        let entry = self.bindings.entry(key.to_owned()).or_insert_with(|| Key {
            pattern: Pattern::new(key),
            bindings: Vec::new(),
        });
        let binding = Binding {
            destination,
            arguments,
        };
        if entry
            .bindings
            .iter()
            .any(|b| b.is(&binding.destination, &binding.arguments))
        {
            return false;
        }
        entry.bindings.push(binding);
        self.count += 1;
        true
    }

    /// Removes a binding. Returns whether it existed.
    pub(crate) fn unbind(
        &mut self,
        destination: &Destination,
        key: &str,
        arguments: &FieldTable,
    ) -> bool {
        let Some(entry) = self.bindings.get_mut(key) else {
            return false;
        };
        let before = entry.bindings.len();
        entry.bindings.retain(|b| !b.is(destination, arguments));
        let found = entry.bindings.len() < before;
        self.count -= before - entry.bindings.len();
        if entry.bindings.is_empty() {
            self.bindings.remove(key);
        }
        found
    }

    /// Removes all bindings to a destination that was deleted. Returns whether there were any.
    pub(crate) fn remove_destination(&mut self, destination: &Destination) -> bool {
        let mut removed = 0;
        self.bindings.retain(|_, entry| {
            let before = entry.bindings.len();
            entry.bindings.retain(|b| b.destination != *destination);
            removed += before - entry.bindings.len();
            !entry.bindings.is_empty()
        });
        self.count -= removed;
        removed > 0
    }

    /// The number of bindings.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn is_bound(&self) -> bool {
        !self.bindings.is_empty()
    }

    /// All bindings, each with its destination, key and arguments.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = (&Destination, &str, &FieldTable)> {
        self.bindings.iter().flat_map(|(key, entry)| {
            entry
                .bindings
                .iter()
                .map(move |b| (&b.destination, key.as_str(), &b.arguments))
        })
    }

    /// Calls `found` with the destination of every binding that matches one of the keys. The same
    /// destination may occur several times.
    pub(crate) fn matches<'a>(
        &'a self,
        routing_keys: &[&str],
        headers: Option<&FieldTable>,
        mut found: impl FnMut(&'a Destination),
    ) {
        match self.kind {
            Kind::Direct => {
                for binding in routing_keys
                    .iter()
                    .filter_map(|routing_key| self.bindings.get(*routing_key))
                    .flat_map(|k| &k.bindings)
                {
                    found(&binding.destination);
                }
            }
            Kind::Fanout => {
                for binding in self.bindings.values().flat_map(|k| &k.bindings) {
                    found(&binding.destination);
                }
            }
            Kind::Topic => {
                for routing_key in routing_keys {
                    let words = topic::words(routing_key);
                    for key in self
                        .bindings
                        .values()
                        .filter(|key| key.pattern.matches(&words))
                    {
                        key.bindings.iter().for_each(|b| found(&b.destination));
                    }
                }
            }
            Kind::Headers => {
                let none = FieldTable::default();
                let headers = headers.unwrap_or(&none);
                for binding in self.bindings.values().flat_map(|k| &k.bindings) {
                    if headers_match(&binding.arguments, headers) {
                        found(&binding.destination);
                    }
                }
            }
        }
    }
}

impl Binding {
    fn is(&self, destination: &Destination, arguments: &FieldTable) -> bool {
        self.destination == *destination && self.arguments == *arguments
    }
}

fn headers_match(pattern: &FieldTable, headers: &FieldTable) -> bool {
    let rule = Match::of(pattern).unwrap_or(Match::All);
    let with_x = matches!(rule, Match::AllWithX | Match::AnyWithX);
    let mut wanted = pattern.into_iter().filter(|(name, _)| {
        name.as_str() != "x-match" && (with_x || !name.as_str().starts_with("x-"))
    });
    let holds = |(name, value): (&amq_protocol::types::ShortString, &AMQPValue)| {
        headers
            .inner()
            .get(name.as_str())
            .is_some_and(|found| *value == AMQPValue::Void || same(value, found))
    };
    match rule {
        Match::All | Match::AllWithX => wanted.all(holds),
        Match::Any | Match::AnyWithX => wanted.any(holds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::long;

    fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in fields {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn routed(exchange: &Exchange, key: &str, headers: Option<&FieldTable>) -> Vec<Destination> {
        let mut all = Vec::new();
        exchange.matches(&[key], headers, |destination| all.push(destination.clone()));
        all
    }

    #[test]
    fn headers_rules() {
        let headers = table(&[("a", AMQPValue::LongInt(1)), ("x-b", long("y"))]);
        let a = ("a", AMQPValue::LongLongInt(1));
        let missing = ("c", AMQPValue::Void);
        let x = ("x-b", long("y"));
        let wrong_x = ("x-b", long("n"));
        for (rule, fields, expected) in [
            ("all", vec![a.clone()], true),
            ("all", vec![a.clone(), missing.clone()], false),
            ("all", vec![a.clone(), wrong_x.clone()], true),
            ("all-with-x", vec![a.clone(), wrong_x.clone()], false),
            ("all-with-x", vec![a.clone(), x.clone()], true),
            ("any", vec![a.clone(), missing.clone()], true),
            ("any", vec![x.clone()], false),
            ("any-with-x", vec![x.clone(), missing], true),
            ("any", vec![], false),
            ("all", vec![], true),
            ("all", vec![("a", AMQPValue::Void)], true),
        ] {
            let mut pattern = table(&fields);
            pattern.insert("x-match".into(), long(rule));
            assert_eq!(
                headers_match(&pattern, &headers),
                expected,
                "{rule} {fields:?}"
            );
        }
    }

    #[test]
    fn a_binding_is_its_key_and_arguments() {
        let mut exchange = Exchange::new("e".into(), Kind::Direct);
        let queue = Destination::Queue(QueueId(1));
        assert!(exchange.bind(queue.clone(), "k", FieldTable::default()));
        assert!(!exchange.bind(queue.clone(), "k", FieldTable::default()));
        assert!(exchange.bind(queue.clone(), "k", table(&[("n", AMQPValue::LongInt(1))])));
        assert_eq!(routed(&exchange, "k", None).len(), 2);
        assert!(exchange.unbind(&queue, "k", &FieldTable::default()));
        assert!(exchange.remove_destination(&queue));
        assert!(!exchange.is_bound());
    }
}
