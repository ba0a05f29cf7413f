//! Trace headers of a message: W3C Trace Context and Baggage.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::wire::value::{Table, Value};

/// Header of W3C Trace Context: the version, the trace, the span and flags.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// Header of W3C Trace Context: what the vendors of telemetry systems add.
const TRACESTATE: &str = "tracestate";
/// The trace headers. What a handler sends passes them on.
const NAMES: [&str; 3] = [TRACEPARENT, TRACESTATE, "baggage"];
/// The length of a `traceparent` of version 0.
const PARENT_LENGTH: usize = 55;

/// A table without entries.
static NO_HEADERS: Table = Table::new();

/// The trace headers of a message: `traceparent`, `tracestate` and `baggage` (W3C Trace Context and Baggage).
///
/// Nearly every message that has some has a `traceparent` alone. It is kept apart from a table, whose entries would take
/// three allocations. Cheap to clone.
#[derive(Clone, Default)]
pub struct TraceHeaders(Option<Arc<Inner>>);

#[derive(Default)]
struct Inner {
    /// A `traceparent` of this length, which is UTF-8.
    parent: Option<[u8; PARENT_LENGTH]>,
    /// The other headers, and a `traceparent` of another form.
    others: Table,
    /// All of them, once they were asked for.
    table: OnceLock<Table>,
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        Self {
            parent: self.parent,
            others: self.others.clone(),
            table: OnceLock::new(),
        }
    }
}

impl TraceHeaders {
    /// No headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parent_bytes().is_none() && self.others().is_empty()
    }

    /// `traceparent`, if it is a text.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        match self.parent_bytes() {
            // It is UTF-8.
            Some(parent) => std::str::from_utf8(parent).ok(),
            None => self.others().get(TRACEPARENT).and_then(Value::as_str),
        }
    }

    /// `tracestate`, if it is a text.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.others().get(TRACESTATE).and_then(Value::as_str)
    }

    /// Sets `traceparent` and `tracestate`, in place of those that there are. An empty state is left out. `baggage` is
    /// kept.
    pub fn set(&mut self, parent: &str, state: &str) {
        self.set_parent(parent);
        if !state.is_empty() {
            self.insert(TRACESTATE, state.into());
        } else if !self.others().is_empty() {
            // That of the trace which the parent does not belong to.
            self.edit().others.remove(TRACESTATE);
        }
    }

    /// All of them.
    #[must_use]
    pub fn as_table(&self) -> &Table {
        let Some(inner) = &self.0 else {
            return &NO_HEADERS;
        };
        inner.table.get_or_init(|| {
            let parent = self.parent();
            let parent = parent.map(|parent| (TRACEPARENT.to_owned(), parent.into()));
            inner.others.clone().into_iter().chain(parent).collect()
        })
    }

    /// Whether a header of this name is one of them.
    pub(crate) fn is_name(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// Moves the trace headers out of a table.
    pub(crate) fn take_from(headers: &mut Table) -> Self {
        let mut trace = Self::default();
        if !headers.is_empty() {
            for name in NAMES {
                if let Some((name, value)) = headers.remove_entry(name) {
                    trace.insert(&name, value);
                }
            }
        }
        trace
    }

    /// Moves these headers into a table, in place of those of the same name.
    pub(crate) fn move_into(self, headers: &mut Table) {
        if !self.is_empty() {
            headers.extend(self.as_table().clone());
        }
    }

    /// Removes the headers of the same names from a table.
    pub(crate) fn remove_from(&self, headers: &mut Table) {
        if !headers.is_empty() {
            headers.retain(|name, _| !self.contains(name));
        }
    }

    /// Sets `traceparent`.
    pub(crate) fn set_parent(&mut self, parent: &str) {
        let inner = self.edit();
        inner.parent = plain(parent);
        if inner.parent.is_none() {
            let _replaced = inner.others.insert(TRACEPARENT.to_owned(), parent.into());
        } else if !inner.others.is_empty() {
            inner.others.remove(TRACEPARENT);
        }
    }

    /// Sets one of them.
    pub(crate) fn insert(&mut self, name: &str, value: Value) {
        match value.as_str() {
            Some(parent) if name == TRACEPARENT => self.set_parent(parent),
            _ => {
                let inner = self.edit();
                if name == TRACEPARENT {
                    inner.parent = None;
                }
                let _replaced = inner.others.insert(name.to_owned(), value);
            }
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        let has_parent = self.parent_bytes().is_some() && name == TRACEPARENT;
        has_parent || self.others().contains_key(name)
    }

    /// A `traceparent` that is not one of [`others`](Self::others). It is UTF-8.
    pub(crate) fn parent_bytes(&self) -> Option<&[u8; PARENT_LENGTH]> {
        self.0.as_ref()?.parent.as_ref()
    }

    /// The headers besides [`parent_bytes`](Self::parent_bytes).
    pub(crate) fn others(&self) -> &Table {
        self.0.as_ref().map_or(&NO_HEADERS, |inner| &inner.others)
    }

    fn edit(&mut self) -> &mut Inner {
        let inner = Arc::make_mut(self.0.get_or_insert_default());
        inner.table.take();
        inner
    }
}

/// The bytes of a `traceparent` of the usual length.
fn plain(parent: &str) -> Option<[u8; PARENT_LENGTH]> {
    parent.as_bytes().try_into().ok()
}

/// The entries of a table that are trace headers.
impl From<Table> for TraceHeaders {
    fn from(mut headers: Table) -> Self {
        Self::take_from(&mut headers)
    }
}

impl PartialEq for TraceHeaders {
    fn eq(&self, other: &Self) -> bool {
        self.parent_bytes() == other.parent_bytes() && self.others() == other.others()
    }
}

impl fmt::Debug for TraceHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_table().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn table(headers: &[(&str, Value)]) -> Table {
        let headers = headers.iter();
        headers
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    #[test]
    fn the_headers_of_a_table_are_those_of_the_trace() {
        let parents = [PARENT, "", "00-1", &format!("{}x", "é".repeat(27))];
        let parents = parents.map(Value::from);
        for parent in parents.into_iter().chain([Value::Int(7)]) {
            let trace = [("traceparent", parent.clone()), ("baggage", "x=y".into())];
            let mut headers = table(&trace);
            headers.insert("tenant".into(), "hare".into());
            let found = TraceHeaders::take_from(&mut headers);
            assert_eq!(headers, table(&[("tenant", "hare".into())]));
            assert_eq!(found.as_table(), &table(&trace));
            assert_eq!(found.parent(), parent.as_str());
            assert!(found.contains("traceparent") && !found.contains("tracestate"));
            found.clone().move_into(&mut headers);
            assert_eq!(headers.len(), 3);
            found.remove_from(&mut headers);
            assert_eq!(headers, table(&[("tenant", "hare".into())]));
        }
        assert!(TraceHeaders::from(table(&[("tenant", "hare".into())])).is_empty());
    }

    #[test]
    fn a_parent_replaces_another_one_and_its_state() {
        for before in [PARENT, "00-1"] {
            let headers = table(&[
                ("traceparent", before.into()),
                ("tracestate", "hare=1".into()),
                ("baggage", "x=y".into()),
            ]);
            let shared = TraceHeaders::from(headers.clone());
            let mut trace = shared.clone();
            assert_eq!(
                (trace.as_table(), trace.state()),
                (&headers, Some("hare=1"))
            );
            let other = PARENT.replace("4bf", "5bf");
            trace.set(&other, "");
            let expected = [("traceparent", (&*other).into()), ("baggage", "x=y".into())];
            assert_eq!(trace.as_table(), &table(&expected));
            trace.set("short", "fox=2");
            assert_eq!(
                (trace.parent(), trace.state()),
                (Some("short"), Some("fox=2"))
            );
            trace.insert("traceparent", PARENT.into());
            assert_eq!((trace.parent(), trace.as_table().len()), (Some(PARENT), 3));
            assert_eq!(shared.as_table(), &headers);
        }
    }
}
