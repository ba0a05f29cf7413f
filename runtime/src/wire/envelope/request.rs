//! Head of a request.

use std::num::NonZeroU64;
use std::time::Duration;

use super::property::{TIMESTAMP_IN_MS, expiration, non_empty, parse_expiration};
use super::stream::{credit_header, take_credit};
use crate::wire::message::Properties;
use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::{Table, Value};

/// Header of a request that asks which other forms of messages the server accepts: a comma-separated list of
/// tokens. The token of batches is [`CALLS_TYPE`]; unknown ones are ignored.
///
/// Servers do not announce it in every reply, because each property of a message costs the broker a
/// measurable part of a call.
pub(super) const ACCEPT: &str = "rpc-accept";
/// `type` of a request whose body is a batch of calls ([`batch`](crate::wire::batch)). No method has this
/// name.
pub(crate) const CALLS_TYPE: &str = "lepus.calls/1";
/// The start of the `type` of messages that the protocol defines. No method has such a name.
const PROTOCOL_TYPES: &str = "lepus.";

/// Whether a `type` is one that some version of the protocol defines, so that no method has this name.
pub(crate) fn is_protocol_type(kind: &str) -> bool {
    kind.starts_with(PROTOCOL_TYPES)
}

/// Whether a comma-separated list contains a token. Spaces around tokens are ignored.
pub(super) fn lists(list: &str, token: &str) -> bool {
    list.split(',').any(|entry| entry.trim() == token)
}

/// The head of a request: all but its arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestHead {
    pub(crate) method: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) correlation_id: Option<Vec<u8>>,
    pub(crate) message_id: Option<String>,
    pub(crate) content_type: Option<String>,
    /// The time left until the caller stops waiting.
    pub(crate) time_left: Option<Duration>,
    pub(crate) priority: Option<u8>,
    pub(crate) caller: Option<String>,
    pub(crate) headers: Table,
    pub(crate) trace: TraceHeaders,
    pub(crate) persistent: bool,
    /// Whether the reply is to tell if the server accepts batches.
    pub(crate) asks_for_batches: bool,
    /// The time at which it is sent, in milliseconds since the Unix epoch, if it is to tell that. A server reads it
    /// with [`sent_at`](super::sent_at), because the broker may tell it as well.
    pub(crate) stamp: Option<u64>,
    /// The number of items that may be sent, if it asks for a stream.
    pub(crate) credit: Option<NonZeroU64>,
}

impl RequestHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        self.trace.remove_from(&mut headers);
        if self.asks_for_batches {
            headers.insert(ACCEPT.into(), CALLS_TYPE.into());
        }
        if let Some(millis) = self.stamp.and_then(|millis| i64::try_from(millis).ok()) {
            let header = headers.entry(TIMESTAMP_IN_MS.to_owned());
            header.or_insert(Value::Int(millis));
        }
        headers.extend(self.credit.map(credit_header));
        Properties {
            content_type: self.content_type,
            headers,
            trace: self.trace,
            persistent: self.persistent,
            priority: self.priority,
            correlation_id: self.correlation_id,
            reply_to: self.reply_to,
            expiration: self.time_left.map(expiration),
            message_id: self.message_id,
            kind: self.method,
            app_id: self.caller,
            ..Properties::default()
        }
    }

    /// Reads a request. This does not fail: a property that is missing, or an expiration that is not a
    /// number, is `None`.
    pub(crate) fn from_properties(properties: Properties) -> Self {
        let mut headers = properties.headers;
        let accept = headers.remove(ACCEPT);
        Self {
            asks_for_batches: accept
                .as_ref()
                .and_then(Value::as_str)
                .is_some_and(|tokens| lists(tokens, CALLS_TYPE)),
            method: non_empty(properties.kind),
            reply_to: non_empty(properties.reply_to),
            correlation_id: properties.correlation_id,
            message_id: properties.message_id,
            content_type: non_empty(properties.content_type),
            time_left: properties.expiration.as_deref().and_then(parse_expiration),
            priority: properties.priority,
            caller: properties.app_id,
            credit: take_credit(&mut headers),
            trace: properties.trace,
            headers,
            persistent: properties.persistent,
            stamp: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::envelope::sent_at;
    use crate::wire::message::SentAt;
    use proptest::prelude::*;

    fn head() -> RequestHead {
        RequestHead {
            method: Some("fib".into()),
            reply_to: Some("lepus.reply.7".into()),
            correlation_id: Some(b"42".to_vec()),
            content_type: Some("application/msgpack".into()),
            time_left: Some(Duration::from_millis(2500)),
            ..RequestHead::default()
        }
    }

    #[test]
    fn a_request_needs_no_header_table() {
        let properties = head().into_properties();
        assert_eq!(properties.kind.as_deref(), Some("fib"));
        assert_eq!(properties.expiration.as_deref(), Some("2500"));
        assert!(properties.headers.is_empty() && !properties.persistent);
        assert_eq!(RequestHead::from_properties(properties), head());
    }

    #[test]
    fn the_trace_travels_apart_from_the_callers_headers() {
        let trace = [("traceparent".to_owned(), Value::from("00-1-2-01"))];
        let tenant = ("tenant".to_owned(), Value::from("hare"));
        let sent = RequestHead {
            // The trace replaces a header of the same name.
            headers: Table::from([tenant, ("traceparent".to_owned(), Value::from("00-2"))]),
            trace: Table::from(trace).into(),
            ..head()
        };
        let properties = sent.into_properties();
        assert_eq!(properties.all_headers().len(), 2);
        let head = RequestHead::from_properties(properties);
        assert_eq!(
            head.trace.as_table().keys().collect::<Vec<_>>(),
            ["traceparent"]
        );
        assert_eq!(head.headers.keys().collect::<Vec<_>>(), ["tenant"]);
    }

    #[test]
    fn the_question_what_a_server_takes_is_no_header_of_the_callers() {
        let asking = RequestHead {
            asks_for_batches: true,
            headers: Table::from([("tenant".to_owned(), Value::from("hare"))]),
            ..head()
        };
        let mut properties = asking.clone().into_properties();
        assert_eq!(
            properties.headers["rpc-accept"],
            Value::from("lepus.calls/1")
        );
        assert_eq!(
            RequestHead::from_properties(properties.clone()),
            asking.clone()
        );
        let other = Value::from("lepus.calls/2");
        properties.headers.insert("rpc-accept".to_owned(), other);
        let head = RequestHead::from_properties(properties);
        assert_eq!(
            (head.asks_for_batches, head.headers),
            (false, asking.headers)
        );
    }

    #[test]
    fn a_stamp_does_not_replace_the_callers_own() {
        let stamped = |headers| {
            let head = RequestHead {
                stamp: Some(1500),
                headers,
                ..head()
            };
            sent_at(&head.into_properties())
        };
        assert_eq!(stamped(Table::new()), Some(SentAt::Millis(1500)));
        let own = Table::from([("timestamp_in_ms".to_owned(), Value::Int(7))]);
        assert_eq!(stamped(own), Some(SentAt::Millis(7)));
        assert_eq!(sent_at(&head().into_properties()), None);
    }

    #[test]
    fn the_credit_of_a_stream_is_no_header_of_the_callers() {
        let asking = RequestHead {
            credit: NonZeroU64::new(32),
            ..head()
        };
        let properties = asking.clone().into_properties();
        assert_eq!(properties.headers["rpc-stream"], Value::Int(32));
        assert_eq!(RequestHead::from_properties(properties), asking);
    }

    #[test]
    fn the_tokens_of_a_question_are_a_list() {
        let asks = |tokens: Value| {
            let headers = Table::from([("rpc-accept".to_owned(), tokens)]);
            let head = RequestHead::from_properties(Properties {
                headers,
                ..Properties::default()
            });
            assert!(head.headers.is_empty());
            head.asks_for_batches
        };
        for tokens in [
            "lepus.calls/1",
            " lepus.calls/1 ",
            "lepus.stream/1,lepus.calls/1",
            "lepus.calls/1 , lepus.calls/2",
            ",,lepus.calls/1,",
        ] {
            assert!(asks(tokens.into()), "{tokens}");
        }
        for tokens in [
            "",
            ",",
            "lepus.calls/10",
            "lepus.calls /1",
            "LEPUS.CALLS/1",
            "lepus.calls/1;q=1",
        ] {
            assert!(!asks(tokens.into()), "{tokens}");
        }
        assert!(!asks(Value::Int(1)));
    }

    proptest! {
        #[test]
        fn requests_round_trip(
            method in proptest::option::of("[a-z]{1,20}"),
            id in proptest::option::of(".{1,40}"),
            millis in proptest::option::of(0u64..100_000_000),
            priority in proptest::option::of(any::<u8>()),
            headers in proptest::collection::btree_map("[a-z]{1,8}", any::<i64>(), 0..4),
        ) {
            let head = RequestHead {
                method,
                correlation_id: id.clone().map(String::into_bytes),
                message_id: id,
                time_left: millis.map(Duration::from_millis),
                priority,
                headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
                ..RequestHead::default()
            };
            prop_assert_eq!(RequestHead::from_properties(head.clone().into_properties()), head);
        }
    }
}
