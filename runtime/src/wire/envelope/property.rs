//! Conversions of single properties and headers.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock;
use crate::wire::message::{Properties, SentAt};
use crate::wire::value::Value;

/// The longest per-message TTL (`expiration`) that RabbitMQ takes, in milliseconds.
const EXPIRATION_MAX: u32 = u32::MAX;
/// The longest text in a header, in bytes. Properties have to fit into one frame (AMQP 0-9-1, 4.2.6), and
/// the broker closes the connection over a longer frame; a text may quote a peer, who could choose its
/// length.
const TEXT_MAX: usize = 1024;

/// A duration as the `expiration` property: milliseconds, rounded up so that no time is lost.
pub(crate) fn expiration(time_left: Duration) -> String {
    milliseconds(time_left).to_string()
}

/// A duration in milliseconds, rounded up, and capped at the longest that RabbitMQ takes.
pub(crate) fn milliseconds(time_left: Duration) -> u32 {
    u32::try_from(clock::whole_millis(time_left)).unwrap_or(EXPIRATION_MAX)
}

/// Header that RabbitMQ's interceptor for timestamps sets, and that a sender may set: milliseconds since the Unix
/// epoch. The property `timestamp` has seconds.
pub(super) const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";

/// The time at which a message was sent, if it tells.
pub(crate) fn sent_at(properties: &Properties) -> Option<SentAt> {
    let millis = properties.headers.get(TIMESTAMP_IN_MS);
    let millis = millis.and_then(Value::as_int);
    match millis.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) => Some(SentAt::Millis(millis)),
        // Some clients write an unset timestamp as zero.
        None => properties
            .timestamp
            .filter(|seconds| *seconds > 0)
            .map(SentAt::Seconds),
    }
}

pub(super) fn parse_expiration(expiration: &str) -> Option<Duration> {
    expiration.parse().ok().map(Duration::from_millis)
}

/// A non-negative integer header.
pub(super) fn count_of(value: Option<&Value>) -> Option<u32> {
    value
        .and_then(Value::as_int)
        .and_then(|count| u32::try_from(count).ok())
}

/// A text cut to [`TEXT_MAX`], at the boundary of a character.
pub(super) fn truncated(text: &str) -> Cow<'_, str> {
    const ELLIPSIS: &str = "…";
    if text.len() <= TEXT_MAX {
        return text.into();
    }
    let mut ends = (0..=TEXT_MAX - ELLIPSIS.len()).rev();
    let start = ends.find_map(|end| text.get(..end));
    format!("{}{ELLIPSIS}", start.unwrap_or_default()).into()
}

/// A property that is not empty. Some AMQP clients write an unset property as an empty string.
pub(super) fn non_empty(property: Option<String>) -> Option<String> {
    property.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_to_what_a_frame_can_hold() {
        let Cow::Owned(text) = truncated(&"ü".repeat(TEXT_MAX)) else {
            panic!("a text");
        };
        assert!(text.len() <= TEXT_MAX && text.ends_with("ü…"), "{text}");
        assert_eq!(truncated("short"), "short");
    }

    #[test]
    fn the_time_of_sending_is_read_in_milliseconds_where_it_is_told_so() {
        let sent = |header: Option<i64>, timestamp| {
            let headers = header.map(|millis| (TIMESTAMP_IN_MS.to_owned(), Value::Int(millis)));
            sent_at(&Properties {
                headers: headers.into_iter().collect(),
                timestamp,
                ..Properties::default()
            })
        };
        assert_eq!(sent(Some(1500), Some(2)), Some(SentAt::Millis(1500)));
        assert_eq!(sent(Some(-1), Some(2)), Some(SentAt::Seconds(2)));
        assert_eq!((sent(None, Some(0)), sent(None, None)), (None, None));
    }

    #[test]
    fn expirations_round_up_and_fit_the_broker() {
        assert_eq!(expiration(Duration::from_micros(1)), "1");
        assert_eq!(expiration(Duration::MAX), "4294967295");
        assert_eq!(parse_expiration("soon"), None);
    }
}
