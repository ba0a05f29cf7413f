//! Event types: AMQP's `type`, by which events of several types on one exchange are told apart.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};
use crate::wire::codec::{Codec, VariantError, variant};

/// The place where an event states its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum EventTyping {
    /// In its payload, or nowhere: AMQP's `type` is ignored.
    #[default]
    Payload,
    /// In AMQP's `type`: an event with another value there is of another type.
    Named(String),
    /// In AMQP's `type`, as the name of an enum's variant. The payload is the variant's content.
    Variant,
}

/// Error of an event that cannot be decoded as the type that is wanted, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// The event is of another type.
    UnknownType(String),
    /// The payload does not decode.
    Malformed(String),
}

/// An event, encoded: AMQP's `type` and the body of the message.
pub(in crate::pubsub) struct EncodedEvent {
    pub(in crate::pubsub) event_type: Option<String>,
    pub(in crate::pubsub) body: Bytes,
}

impl EventTyping {
    pub(in crate::pubsub) fn encode<T: Serialize>(
        &self,
        codec: Codec,
        event: &T,
    ) -> Result<EncodedEvent, Error> {
        let failed = |reason: String| Error::new(ErrorKind::Encode).caused_by(reason);
        let encoded = match self {
            Self::Payload => codec.encode(event).map(|body| (None, body)),
            Self::Named(name) => codec.encode(event).map(|body| (Some(name.clone()), body)),
            Self::Variant => {
                let name = variant::name(event).map_err(|error| failed(error.to_string()))?;
                codec
                    .encode(&variant::VariantContent(event))
                    .map(|body| (Some(name.to_owned()), body))
            }
        };
        let (event_type, body) = encoded.map_err(|error| failed(error.to_string()))?;
        Ok(EncodedEvent { event_type, body })
    }

    pub(super) fn decode<T: DeserializeOwned>(
        &self,
        event_type: Option<&str>,
        codec: Codec,
        body: &[u8],
    ) -> Result<T, DecodeError> {
        let plain = || {
            codec
                .decode(body)
                .map_err(|error| DecodeError::Malformed(error.to_string()))
        };
        match (self, event_type) {
            (Self::Payload, _) => plain(),
            (Self::Named(name), Some(found)) if name == found => plain(),
            (Self::Named(name), Some(found)) => {
                let text = format!("the event is `{found}`, not `{name}`");
                Err(DecodeError::UnknownType(text))
            }
            (Self::Variant, Some(found)) => {
                variant::decode(found, codec, body).map_err(DecodeError::from)
            }
            (Self::Named(_) | Self::Variant, None) => Err(DecodeError::UnknownType(
                "the event names no type".to_owned(),
            )),
        }
    }
}

impl From<VariantError> for DecodeError {
    fn from(error: VariantError) -> Self {
        match error {
            VariantError::UnknownName(reason) => Self::UnknownType(reason),
            VariantError::Malformed(reason) => Self::Malformed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum OrderEvent {
        #[serde(rename = "order.placed")]
        Placed(Placed),
        #[serde(rename = "order.paid")]
        Paid { cents: u64 },
        #[serde(rename = "order.moved")]
        Moved(u32, u32),
        #[serde(rename = "order.cancelled")]
        Cancelled,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Placed {
        id: u64,
        items: Vec<String>,
    }

    fn all() -> [OrderEvent; 4] {
        let items = vec!["carrot".to_owned()];
        [
            OrderEvent::Placed(Placed { id: 7, items }),
            OrderEvent::Paid { cents: 250 },
            OrderEvent::Moved(1, 2),
            OrderEvent::Cancelled,
        ]
    }

    #[test]
    fn a_variant_is_named_by_the_type_and_carried_bare() {
        for codec in [Codec::Json, Codec::MsgPack] {
            for event in all() {
                let EncodedEvent { event_type, body } =
                    EventTyping::Variant.encode(codec, &event).unwrap();
                let read = EventTyping::Variant.decode(event_type.as_deref(), codec, &body);
                assert_eq!(read, Ok(event));
            }
        }
        let [placed, paid, ..] = all();
        let placed = EventTyping::Variant.encode(Codec::Json, &placed).unwrap();
        assert_eq!(placed.event_type.as_deref(), Some("order.placed"));
        assert_eq!(&placed.body[..], br#"{"id":7,"items":["carrot"]}"#);
        let paid = EventTyping::Variant.encode(Codec::Json, &paid).unwrap();
        assert_eq!(&paid.body[..], br#"{"cents":250}"#);
    }

    #[test]
    fn other_types_are_unknown_and_broken_ones_malformed() {
        let decode = |event_type, body: &[u8]| {
            EventTyping::Variant.decode::<OrderEvent>(event_type, Codec::Json, body)
        };
        assert!(matches!(
            decode(Some("order.lost"), b"{}"),
            Err(DecodeError::UnknownType(_))
        ));
        assert!(matches!(
            decode(None, b"{}"),
            Err(DecodeError::UnknownType(_))
        ));
        assert!(matches!(
            decode(Some("order.paid"), b"{}"),
            Err(DecodeError::Malformed(_))
        ));
        let named = EventTyping::Named("order.placed".into());
        let other = named.decode::<Placed>(Some("order.paid"), Codec::Json, b"{}");
        assert_eq!(
            other,
            Err(DecodeError::UnknownType(
                "the event is `order.paid`, not `order.placed`".into()
            ))
        );
    }

    #[test]
    fn only_an_enum_has_variants() {
        let error = EventTyping::Variant
            .encode(Codec::Json, &7u8)
            .map(|_| ())
            .unwrap_err();
        assert!(error.is_encode());
        let refused = EventTyping::Variant.decode::<u8>(Some("u8"), Codec::Json, b"7");
        assert!(matches!(refused, Err(DecodeError::Malformed(_))));
    }
}
