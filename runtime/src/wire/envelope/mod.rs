//! Heads of requests, replies, jobs, events and dead letters: what each carries besides its body, as AMQP
//! properties (`basic.publish`) and back.
//!
//! The names of headers and of the `type` property are known in this folder alone. docs/protocol.md lists
//! them.

mod dead_letter;
mod event;
mod job;
mod reply;
mod request;

use std::borrow::Cow;
use std::time::Duration;

use crate::clock;
use crate::error::Error;
use crate::wire::message::Properties;
use crate::wire::value::{Table, Value};
pub(crate) use dead_letter::DeathRecord;
pub(crate) use event::EventHead;
use job::{BROKER_HEADERS, JOB_HEADERS, SOURCE_HEADERS, SOURCE_USER};
pub(crate) use job::{JobHead, SourceRoute, remove_untrusted_headers, retried};
use reply::{MESSAGE, STATUS};
pub(crate) use reply::{ReplyForm, ReplyHead, ReplyStatus};
use request::ACCEPT;
pub(crate) use request::{CALLS_TYPE, RequestHead};

/// The headers of W3C Trace Context and Baggage. Calls made inside a handler pass them on.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];
/// The longest per-message TTL (`expiration`) that RabbitMQ takes, in milliseconds.
const EXPIRATION_MAX: u32 = u32::MAX;
/// The longest text in a header, in bytes. Properties have to fit into one frame (AMQP 0-9-1, 4.2.6), and
/// the broker closes the connection over a longer frame; a text may quote a peer, who could choose its
/// length.
const TEXT_MAX: usize = 1024;

/// Whether a header is written by Lepus or the broker on some kind of message, so that a user may set it
/// on none: it would be misread, or overwritten.
fn is_reserved(header: &str) -> bool {
    let ours = JOB_HEADERS.iter().chain(&SOURCE_HEADERS);
    let ours = ours.chain(&[STATUS, MESSAGE, ACCEPT]);
    ours.chain(&BROKER_HEADERS).any(|name| *name == header)
}

/// Checks the headers that a user wants to send.
///
/// # Errors
/// One of them is reserved; the error names it.
pub(crate) fn check_headers<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    match names.into_iter().find(|name| is_reserved(name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "header `{name}` cannot be set: its name is reserved, Lepus or the broker writes it"
        ))),
    }
}

/// Makes properties publishable by this user. RabbitMQ closes the channel (406) over a `user_id` that is
/// not the connection's, so that of another user is moved into a header.
pub(crate) fn replace_user_id(properties: &mut Properties, user: Option<&str>) {
    let Some(uncommon) = &mut properties.uncommon else {
        return;
    };
    if let Some(name) = uncommon.user_id.take_if(|name| user != Some(&**name)) {
        properties.headers.insert(SOURCE_USER.into(), name.into());
    }
}

/// A duration as the `expiration` property: milliseconds, rounded up so that no time is lost.
pub(crate) fn expiration(time_left: Duration) -> String {
    milliseconds(time_left).to_string()
}

/// A duration in milliseconds, rounded up, and capped at the longest that RabbitMQ takes.
pub(crate) fn milliseconds(time_left: Duration) -> u32 {
    u32::try_from(clock::whole_millis(time_left)).unwrap_or(EXPIRATION_MAX)
}

fn parse_expiration(expiration: &str) -> Option<Duration> {
    expiration.parse().ok().map(Duration::from_millis)
}

/// A non-negative integer header.
fn count_of(value: Option<&Value>) -> Option<u32> {
    value
        .and_then(Value::as_int)
        .and_then(|count| u32::try_from(count).ok())
}

/// A text cut to [`TEXT_MAX`], at the boundary of a character.
fn truncated(text: &str) -> Cow<'_, str> {
    const ELLIPSIS: &str = "…";
    if text.len() <= TEXT_MAX {
        return text.into();
    }
    let mut ends = (0..=TEXT_MAX - ELLIPSIS.len()).rev();
    let start = ends.find_map(|end| text.get(..end));
    format!("{}{ELLIPSIS}", start.unwrap_or_default()).into()
}

/// Moves the trace headers into a table of their own.
fn take_trace(headers: &mut Table) -> Table {
    TRACE
        .iter()
        .filter_map(|name| headers.remove_entry(*name))
        .collect()
}

/// A property that is not empty. Some AMQP clients write an unset property as an empty string.
fn non_empty(property: Option<String>) -> Option<String> {
    property.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Uncommon;

    #[test]
    fn texts_are_cut_to_what_a_frame_can_hold() {
        let Cow::Owned(text) = truncated(&"ü".repeat(TEXT_MAX)) else {
            panic!("a text");
        };
        assert!(text.len() <= TEXT_MAX && text.ends_with("ü…"), "{text}");
        assert_eq!(truncated("short"), "short");
    }

    #[test]
    fn expirations_round_up_and_fit_the_broker() {
        assert_eq!(expiration(Duration::from_micros(1)), "1");
        assert_eq!(expiration(Duration::MAX), "4294967295");
        assert_eq!(parse_expiration("soon"), None);
    }

    #[test]
    fn reserved_headers_are_named() {
        for name in ["error", "rpc-accept", "source-user-id", "x-death"] {
            let error = check_headers([&name.to_owned()]).unwrap_err();
            assert!(
                error.is_invalid() && error.to_string().contains(name),
                "{error}"
            );
        }
        for name in ["tenant", "traceparent", "x-delay", "CC"] {
            check_headers([&name.to_owned()]).unwrap();
        }
    }

    #[test]
    fn another_users_id_becomes_a_header() {
        let mut properties = Properties {
            uncommon: Some(Box::new(Uncommon {
                user_id: Some("hare".into()),
                ..Uncommon::default()
            })),
            ..Properties::default()
        };
        let user = |properties: &Properties| properties.uncommon.clone().unwrap().user_id;
        replace_user_id(&mut properties, Some("hare"));
        assert_eq!(user(&properties).as_deref(), Some("hare"));
        assert!(properties.headers.is_empty());
        replace_user_id(&mut properties, None);
        assert_eq!(user(&properties), None);
        assert_eq!(properties.headers["source-user-id"], Value::from("hare"));
        // Of later copies too.
        replace_user_id(&mut properties, Some("fox"));
        assert_eq!(properties.headers["source-user-id"], Value::from("hare"));
        assert!(JobHead::read(&properties).headers.is_empty());
    }
}
