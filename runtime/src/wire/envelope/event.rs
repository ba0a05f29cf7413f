//! Head of an event.

use std::time::Duration;

use super::property::{expiration, non_empty, parse_expiration};
use crate::wire::message::Properties;
use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::Table;

/// The head of an event: all but its payload.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EventHead {
    /// The event's type, where the exchange carries several.
    pub(crate) kind: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) message_id: Option<String>,
    /// Seconds since the Unix epoch.
    pub(crate) published_at: Option<u64>,
    pub(crate) publisher: Option<String>,
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    /// The longest it may wait in a queue.
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) headers: Table,
    pub(crate) trace: TraceHeaders,
}

impl EventHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        self.trace.remove_from(&mut headers);
        Properties {
            content_type: self.content_type,
            headers,
            trace: self.trace,
            persistent: self.persistent,
            priority: self.priority,
            expiration: self.time_to_live.map(expiration),
            message_id: self.message_id,
            timestamp: self.published_at,
            kind: self.kind,
            app_id: self.publisher,
            ..Properties::default()
        }
    }

    /// Reads an event. A property that is missing is `None`.
    pub(crate) fn from_properties(properties: Properties) -> Self {
        Self {
            kind: non_empty(properties.kind),
            content_type: non_empty(properties.content_type),
            message_id: properties.message_id,
            published_at: properties.timestamp,
            publisher: properties.app_id,
            persistent: properties.persistent,
            priority: properties.priority,
            time_to_live: properties.expiration.as_deref().and_then(parse_expiration),
            trace: properties.trace,
            headers: properties.headers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::value::Value;

    #[test]
    fn an_event_reads_as_it_was_written() {
        let head = EventHead {
            kind: Some("order.placed".into()),
            content_type: Some("application/json".into()),
            message_id: Some("m".into()),
            published_at: Some(7),
            publisher: Some("shop".into()),
            persistent: true,
            priority: Some(1),
            time_to_live: Some(Duration::from_secs(2)),
            headers: Table::from([("tenant".to_owned(), Value::from("hare"))]),
            trace: Table::from([("traceparent".to_owned(), Value::from("00-1-2-01"))]).into(),
        };
        let properties = head.clone().into_properties();
        assert_eq!(properties.kind.as_deref(), Some("order.placed"));
        assert_eq!(properties.expiration.as_deref(), Some("2000"));
        assert_eq!(EventHead::from_properties(properties), head);
    }
}
