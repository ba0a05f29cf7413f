//! Message, shared by all queues that it is in: immutable, and counted against the memory limit until
//! the last reference is dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    arguments::MAX_MILLIS,
    id::Name,
    properties::{Properties, Property},
};

/// The bytes that a message occupies in addition to its body and properties.
const OVERHEAD: usize = 256;

/// The memory that all messages together occupy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) exchange: Name,
    pub(crate) routing_key: String,
    /// The additional routing keys from the headers `CC` and `BCC`. They are kept here because the
    /// broker removes the header `BCC`.
    pub(crate) copies: Vec<String>,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
    /// The time to live in the message's property `expiration`.
    pub(crate) expiration: Option<Duration>,
    pub(crate) priority: u8,
    charge: Charge,
}

impl Message {
    pub(crate) fn new(
        exchange: Name,
        routing_key: String,
        copies: Vec<String>,
        properties: Properties,
        body: Bytes,
        gauge: &Gauge,
    ) -> Self {
        let keys = routing_key.len() + copies.iter().map(String::len).sum::<usize>();
        let bytes = body.len() + properties.as_bytes().len() + keys + OVERHEAD;
        Self {
            expiration: expiration(&properties).ok().flatten(),
            priority: properties.octet(Property::Priority).unwrap_or(0),
            exchange,
            routing_key,
            copies,
            properties,
            body,
            charge: Charge::new(bytes, gauge),
        }
    }

    /// The routing keys: that of `basic.publish`, and the additional ones.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.routing_key)
            .chain(&self.copies)
            .map(String::as_str)
    }

    /// The approximate size on the wire.
    pub(crate) fn size(&self) -> usize {
        self.charge.bytes
    }
}

/// The property `expiration`. The error is RabbitMQ's text for a value that is not valid.
pub(crate) fn expiration(properties: &Properties) -> Result<Option<Duration>, String> {
    let Some(value) = properties.value(Property::Expiration) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let reason = match (digits.get(..end), digits.get(end..)) {
        (Some(""), _) => "no_integer".to_owned(),
        (_, Some(left)) if !left.is_empty() => format!("{{leftover_string,\"{left}\"}}"),
        _ if text.starts_with('-') && !digits.trim_matches('0').is_empty() => {
            format!("{{value_negative,{text}}}")
        }
        (Some(digits), _) => match digits.parse() {
            Ok(millis) if millis <= MAX_MILLIS => return Ok(Some(Duration::from_millis(millis))),
            _ => format!("{{value_too_large,{digits}}}"),
        },
        (None, _) => "no_integer".to_owned(),
    };
    Err(format!("invalid expiration '{text}': {reason}"))
}

#[derive(Debug)]
struct Charge {
    bytes: usize,
    gauge: Gauge,
}

impl Charge {
    fn new(bytes: usize, gauge: &Gauge) -> Self {
        gauge.0.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            gauge: gauge.clone(),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_milliseconds() {
        let parse = |text| expiration(&Properties::default().with_text(Property::Expiration, text));
        assert_eq!(expiration(&Properties::default()), Ok(None));
        assert_eq!(parse("0"), Ok(Some(Duration::ZERO)));
        assert_eq!(parse("1500"), Ok(Some(Duration::from_millis(1500))));
        for (text, reason) in [
            ("", "no_integer"),
            ("abc", "no_integer"),
            ("-", "no_integer"),
            ("-1", "{value_negative,-1}"),
            ("12 ", "{leftover_string,\" \"}"),
            ("1099511627776", "{value_too_large,1099511627776}"),
            (
                "99999999999999999999999",
                "{value_too_large,99999999999999999999999}",
            ),
        ] {
            assert_eq!(
                parse(text),
                Err(format!("invalid expiration '{text}': {reason}"))
            );
        }
    }

    #[test]
    fn memory_is_charged_for_as_long_as_the_message_lives() {
        let gauge = Gauge::default();
        let body = Bytes::from_static(b"body");
        let message = Message::new(
            "e".into(),
            "k".into(),
            Vec::new(),
            Properties::default(),
            body,
            &gauge,
        );
        assert!(gauge.bytes() > OVERHEAD);
        drop(message);
        assert_eq!(gauge.bytes(), 0);
    }
}
