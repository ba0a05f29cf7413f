//! The heads of requests, replies and jobs, as AMQP properties and back.
//!
//! The only file that knows a header's name: protocol 1 is written down here.

use std::time::Duration;

use crate::message::Properties;
use crate::status::{Code, Status};
use crate::value::{Table, Value};

/// Header of a reply that is no success: a status code, or [`APPLICATION`].
const STATUS: &str = "rpc-status";
/// Header beside it: a text for people.
const MESSAGE: &str = "rpc-message";
/// The status of a reply whose body is the method's own error.
const APPLICATION: &str = "application";
/// The W3C headers, passed on from call to call.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];
/// The longest per-message TTL RabbitMQ takes, in milliseconds.
const EXPIRATION_MAX: u128 = u32::MAX as u128;

/// What a request says besides its arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestHead {
    pub(crate) method: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) content_type: Option<String>,
    /// The time left until the caller stops waiting.
    pub(crate) time_left: Option<Duration>,
    pub(crate) priority: Option<u8>,
    pub(crate) caller: Option<String>,
    pub(crate) headers: Table,
    pub(crate) trace: Table,
    pub(crate) persistent: bool,
}

impl RequestHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = self.headers;
        headers.extend(self.trace);
        Properties {
            content_type: self.content_type,
            headers,
            persistent: self.persistent,
            priority: self.priority,
            correlation_id: self.correlation_id,
            reply_to: self.reply_to,
            expiration: self.time_left.map(expiration),
            message_id: self.message_id,
            kind: self.method,
            app_id: self.caller,
            timestamp: None,
        }
    }

    /// Reads a request. Nothing in it can be wrong enough to refuse it here: what is missing is
    /// `None`, and an expiration that is no number is none.
    pub(crate) fn from_properties(properties: Properties) -> Self {
        let mut headers = properties.headers;
        Self {
            method: properties.kind.filter(|method| !method.is_empty()),
            reply_to: properties.reply_to.filter(|queue| !queue.is_empty()),
            correlation_id: properties.correlation_id,
            message_id: properties.message_id,
            content_type: properties.content_type.filter(|name| !name.is_empty()),
            time_left: properties.expiration.as_deref().and_then(duration),
            priority: properties.priority,
            caller: properties.app_id,
            trace: take_trace(&mut headers),
            headers,
            persistent: properties.persistent,
        }
    }
}

/// How a reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplyStatus {
    /// The body is the value.
    Success,
    /// The body is the method's own error.
    Application,
    /// No body; the status says why.
    Failed(Status),
}

/// What a reply says besides its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReplyHead {
    pub(crate) status: ReplyStatus,
    pub(crate) correlation_id: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) server: Option<String>,
}

impl ReplyHead {
    pub(crate) fn into_properties(self) -> Properties {
        let mut headers = Table::new();
        match self.status {
            ReplyStatus::Success => {}
            ReplyStatus::Application => {
                headers.insert(STATUS.into(), APPLICATION.into());
            }
            ReplyStatus::Failed(status) => {
                headers.insert(STATUS.into(), status.code().as_str().into());
                headers.insert(MESSAGE.into(), status.message().into());
            }
        }
        Properties {
            content_type: self.content_type,
            headers,
            correlation_id: self.correlation_id,
            app_id: self.server,
            ..Properties::default()
        }
    }

    /// Reads a reply; a status nobody knows is [`Code::Unknown`], with its name in the message.
    pub(crate) fn from_properties(properties: Properties) -> Self {
        let text = |name| properties.headers.get(name).and_then(Value::as_str);
        let status = match text(STATUS) {
            None | Some("ok") => ReplyStatus::Success,
            Some(APPLICATION) => ReplyStatus::Application,
            Some(code) => {
                let message = text(MESSAGE).unwrap_or_default();
                ReplyStatus::Failed(match code.parse::<Code>() {
                    Ok(code) => Status::new(code, message),
                    Err(_) => Status::new(Code::Unknown, format!("{code}: {message}")),
                })
            }
        };
        Self {
            status,
            correlation_id: properties.correlation_id,
            content_type: properties.content_type.filter(|name| !name.is_empty()),
            server: properties.app_id,
        }
    }
}

/// A time left as AMQP's `expiration`: milliseconds, rounded up so that what is left is not lost.
pub(crate) fn expiration(time_left: Duration) -> String {
    let millis = time_left.as_nanos().div_ceil(1_000_000);
    millis.min(EXPIRATION_MAX).to_string()
}

fn duration(expiration: &str) -> Option<Duration> {
    expiration.parse().ok().map(Duration::from_millis)
}

fn take_trace(headers: &mut Table) -> Table {
    TRACE
        .iter()
        .filter_map(|name| headers.remove_entry(*name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> RequestHead {
        RequestHead {
            method: Some("fib".into()),
            reply_to: Some("lepus.reply.7".into()),
            correlation_id: Some("42".into()),
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
        let table = Table::from([
            ("traceparent".to_owned(), Value::from("00-1-2-01")),
            ("tenant".to_owned(), Value::from("hare")),
        ]);
        let properties = Properties {
            headers: table,
            ..Properties::default()
        };
        let head = RequestHead::from_properties(properties);
        assert_eq!(head.trace.keys().collect::<Vec<_>>(), ["traceparent"]);
        assert_eq!(head.headers.keys().collect::<Vec<_>>(), ["tenant"]);
    }

    #[test]
    fn a_reply_without_headers_is_a_success() {
        let head = ReplyHead::from_properties(Properties::default());
        assert_eq!(head.status, ReplyStatus::Success);
    }

    #[test]
    fn statuses_travel_as_two_headers() {
        let status = Status::new(Code::Unimplemented, "no method `fob`");
        let head = ReplyHead {
            status: ReplyStatus::Failed(status),
            correlation_id: Some("42".into()),
            content_type: None,
            server: None,
        };
        let properties = head.clone().into_properties();
        assert_eq!(
            properties.headers["rpc-status"],
            Value::from("unimplemented")
        );
        assert_eq!(
            properties.headers["rpc-message"],
            Value::from("no method `fob`")
        );
        assert_eq!(ReplyHead::from_properties(properties), head);
    }

    #[test]
    fn an_unknown_status_is_kept_in_the_message() {
        let headers = Table::from([("rpc-status".to_owned(), Value::from("teapot"))]);
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        let expected = Status::new(Code::Unknown, "teapot: ");
        assert_eq!(
            ReplyHead::from_properties(properties).status,
            ReplyStatus::Failed(expected)
        );
    }

    #[test]
    fn expirations_round_up_and_fit_the_broker() {
        assert_eq!(expiration(Duration::from_micros(1)), "1");
        assert_eq!(expiration(Duration::MAX), "4294967295");
        assert_eq!(duration("soon"), None);
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
                correlation_id: id.clone(),
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
