//! Properties of a message, kept as the bytes that the publisher sent.
//!
//! The broker reads few properties and passes the others on, so it decodes the bytes only where it has
//! to change them. Values are passed on byte for byte, also those that are not UTF-8.

use amq_protocol::types::FieldTable;
use bytes::Bytes;

use crate::table;

/// The fourteen properties of class `basic`, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

const ORDER: [Property; 14] = [
    Property::ContentType,
    Property::ContentEncoding,
    Property::Headers,
    Property::DeliveryMode,
    Property::Priority,
    Property::CorrelationId,
    Property::ReplyTo,
    Property::Expiration,
    Property::MessageId,
    Property::Timestamp,
    Property::Type,
    Property::UserId,
    Property::AppId,
    Property::ClusterId,
];

impl Property {
    fn flag(self) -> u16 {
        1 << (15 - self as u16)
    }
}

/// The error for properties that do not match their flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message properties")]
pub(crate) struct Malformed;

/// Property flags and values, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties(Bytes);

impl Default for Properties {
    fn default() -> Self {
        Self(Bytes::from_static(&[0, 0]))
    }
}

impl Properties {
    /// Checks encoded properties and copies them.
    pub(crate) fn parse(block: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(block)?;
        for field in fields.by_ref() {
            let (property, value) = field?;
            if property == Property::Headers {
                table::parse_with_length(value).map_err(|_| Malformed)?;
            }
        }
        if fields.rest.is_empty() {
            Ok(Self(Bytes::copy_from_slice(block)))
        } else {
            Err(Malformed)
        }
    }

    /// The encoded properties.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The encoded value of a property: a string without its length, a table with its length.
    pub(crate) fn value(&self, wanted: Property) -> Option<&[u8]> {
        let mut fields = Fields::new(&self.0).ok()?;
        if fields.flags & wanted.flag() == 0 {
            return None;
        }
        fields.find_map(|field| match field {
            Ok((property, value)) if property == wanted => Some(trim(property, value)),
            _ => None,
        })
    }

    pub(crate) fn octet(&self, wanted: Property) -> Option<u8> {
        self.value(wanted)?.first().copied()
    }

    pub(crate) fn headers(&self) -> Option<FieldTable> {
        table::parse_with_length(self.value(Property::Headers)?).ok()
    }

    pub(crate) fn has(&self, wanted: Property) -> bool {
        Fields::new(&self.0).is_ok_and(|fields| fields.flags & wanted.flag() != 0)
    }

    #[must_use]
    pub(crate) fn with_headers(&self, headers: &FieldTable) -> Self {
        let mut encoded = Vec::new();
        table::put(&mut encoded, headers);
        self.with(Property::Headers, Some(&encoded))
    }

    #[must_use]
    pub(crate) fn with_text(&self, property: Property, text: &str) -> Self {
        let mut encoded = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
        encoded.extend(text.as_bytes().iter().take(255));
        self.with(property, Some(&encoded))
    }

    #[cfg(test)]
    #[must_use]
    pub(crate) fn with_octet(&self, property: Property, value: u8) -> Self {
        self.with(property, Some(&[value]))
    }

    #[must_use]
    pub(crate) fn without(&self, property: Property) -> Self {
        self.with(property, None)
    }

    fn with(&self, changed: Property, encoded: Option<&[u8]>) -> Self {
        let mut flags = 0;
        let mut values = Vec::with_capacity(self.0.len() + encoded.map_or(0, <[u8]>::len));
        let present: Vec<_> = Fields::new(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        for property in ORDER {
            let value = if property == changed {
                encoded
            } else {
                present
                    .iter()
                    .find(|(found, _)| *found == property)
                    .map(|(_, value)| *value)
            };
            if let Some(value) = value {
                flags |= property.flag();
                values.extend_from_slice(value);
            }
        }
        let mut block = Vec::with_capacity(values.len() + 2);
        block.extend_from_slice(&flags.to_be_bytes());
        block.extend_from_slice(&values);
        Self(block.into())
    }
}

/// Iterates over the properties that are set, with their encoded values.
struct Fields<'a> {
    flags: u16,
    next: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(block: &'a [u8]) -> Result<Self, Malformed> {
        let (flags, rest) = block.split_first_chunk().ok_or(Malformed)?;
        // The two lowest bits belong to no property. RabbitMQ passes them on.
        let flags = u16::from_be_bytes(*flags);
        Ok(Self {
            flags,
            next: 0,
            rest,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(Property, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let property = *ORDER.get(self.next)?;
            self.next += 1;
            if self.flags & property.flag() == 0 {
                continue;
            }
            let length = match property {
                Property::DeliveryMode | Property::Priority => Some(1),
                Property::Timestamp => Some(8),
                Property::Headers => self
                    .rest
                    .first_chunk()
                    .map(|length| 4 + u32::from_be_bytes(*length) as usize),
                _ => self.rest.first().map(|length| 1 + usize::from(*length)),
            };
            return Some(
                match length.and_then(|length| self.rest.split_at_checked(length)) {
                    Some((value, rest)) => {
                        self.rest = rest;
                        Ok((property, value))
                    }
                    None => {
                        self.next = ORDER.len();
                        Err(Malformed)
                    }
                },
            );
        }
    }
}

fn trim(property: Property, value: &[u8]) -> &[u8] {
    match property {
        Property::DeliveryMode | Property::Priority | Property::Timestamp | Property::Headers => {
            value
        }
        _ => value.get(1..).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::{
        frame::WriteContext,
        protocol::basic::{AMQPProperties, gen_properties},
        types::AMQPValue,
    };

    fn block(properties: &AMQPProperties) -> Vec<u8> {
        gen_properties(properties)(WriteContext::from(Vec::new()))
            .unwrap()
            .into_inner()
            .0
    }

    fn sample() -> AMQPProperties {
        let mut headers = FieldTable::default();
        headers.insert("k".into(), AMQPValue::LongInt(7));
        AMQPProperties::default()
            .with_content_type("text/plain".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(4)
            .with_reply_to("here".into())
            .with_expiration("1000".into())
            .with_timestamp(9)
            .with_app_id("tests".into())
    }

    #[test]
    fn values_are_found() {
        let properties = Properties::parse(&block(&sample())).unwrap();
        assert_eq!(properties.value(Property::ReplyTo), Some(&b"here"[..]));
        assert_eq!(properties.value(Property::Expiration), Some(&b"1000"[..]));
        assert_eq!(properties.octet(Property::DeliveryMode), Some(2));
        assert_eq!(properties.value(Property::MessageId), None);
        assert!(properties.headers().unwrap().contains_key("k"));
    }

    #[test]
    fn one_value_changes_and_the_rest_stays() {
        let before = Properties::parse(&block(&sample())).unwrap();
        let mut wanted = sample();
        wanted = wanted.with_reply_to("there".into());
        let after = before.with_text(Property::ReplyTo, "there");
        assert_eq!(after.as_bytes(), block(&wanted));
        let shorter = after.without(Property::Expiration);
        assert!(!shorter.has(Property::Expiration));
        assert_eq!(Properties::parse(shorter.as_bytes()), Ok(shorter));
    }

    #[test]
    fn what_is_not_utf8_and_bits_without_a_meaning_are_kept() {
        let block = b"\xa0\x03\x02a\xff\0\0\0\x04\x01\xfet\x01";
        let properties = Properties::parse(block).unwrap();
        assert_eq!(properties.as_bytes(), block);
        assert_eq!(properties.value(Property::ContentType), Some(&b"a\xff"[..]));
        let mut headers = properties.headers().unwrap();
        headers.insert("k".into(), AMQPValue::Void);
        let more = properties.with_headers(&headers);
        assert_eq!(
            more.as_bytes(),
            b"\xa0\0\x02a\xff\0\0\0\x07\x01kV\x01\xfet\x01"
        );
    }

    #[test]
    fn bad_blocks_are_refused() {
        for bad in [
            &[][..],
            &[0x80],
            &[0x80, 0],
            &[0x80, 0, 5, b'a'],
            &[0, 0, 1],
            &[0x20, 0, 0, 0, 0, 9],
            b"\x20\0\0\0\0\x03\x01aQ",
        ] {
            assert_eq!(Properties::parse(bad), Err(Malformed), "{bad:?}");
        }
    }
}
