//! How events of several types on one exchange are told apart.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::variant;
use crate::error::{Error, Kind};
use crate::wire::codec::Codec;

/// Where an event says of which type it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Typing {
    /// In its payload, or nowhere: AMQP's `type` is not looked at.
    #[default]
    Payload,
    /// AMQP's `type` is this, or it is another type.
    Named(String),
    /// AMQP's `type` names the variant of an enum, the payload is what is in it.
    Variant,
}

/// Why an event cannot be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is of a type that is not looked for.
    Unknown(String),
    /// It does not decode.
    Malformed(String),
}

/// An event, encoded.
pub(super) struct Encoded {
    pub(super) kind: Option<String>,
    pub(super) body: Bytes,
}

impl Typing {
    pub(super) fn encode<T: Serialize>(&self, codec: Codec, event: &T) -> Result<Encoded, Error> {
        let failed = |reason: String| Error::new(Kind::Encode).caused_by(reason);
        let encoded = match self {
            Self::Payload => codec.encode(event).map(|body| (None, body)),
            Self::Named(name) => codec.encode(event).map(|body| (Some(name.clone()), body)),
            Self::Variant => {
                let name = variant::name(event).map_err(|error| failed(error.to_string()))?;
                codec
                    .encode(&variant::Content(event))
                    .map(|body| (Some(name.to_owned()), body))
            }
        };
        let (kind, body) = encoded.map_err(|error| failed(error.to_string()))?;
        Ok(Encoded { kind, body })
    }

    pub(super) fn decode<T: DeserializeOwned>(
        &self,
        kind: Option<&str>,
        codec: Codec,
        body: &[u8],
    ) -> Result<T, Refusal> {
        let plain = || {
            codec
                .decode(body)
                .map_err(|error| Refusal::Malformed(error.to_string()))
        };
        match (self, kind) {
            (Self::Payload, _) => plain(),
            (Self::Named(name), Some(kind)) if name == kind => plain(),
            (Self::Named(name), Some(kind)) => {
                let text = format!("the event is `{kind}`, not `{name}`");
                Err(Refusal::Unknown(text))
            }
            (Self::Variant, Some(kind)) => variant::decode(kind, codec, body),
            (Self::Named(_) | Self::Variant, None) => {
                Err(Refusal::Unknown("the event names no type".to_owned()))
            }
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
                let Encoded { kind, body } = Typing::Variant.encode(codec, &event).unwrap();
                let read = Typing::Variant.decode(kind.as_deref(), codec, &body);
                assert_eq!(read, Ok(event));
            }
        }
        let [placed, paid, ..] = all();
        let placed = Typing::Variant.encode(Codec::Json, &placed).unwrap();
        assert_eq!(placed.kind.as_deref(), Some("order.placed"));
        assert_eq!(&placed.body[..], br#"{"id":7,"items":["carrot"]}"#);
        let paid = Typing::Variant.encode(Codec::Json, &paid).unwrap();
        assert_eq!(&paid.body[..], br#"{"cents":250}"#);
    }

    #[test]
    fn other_types_are_unknown_and_broken_ones_malformed() {
        let decode =
            |kind, body: &[u8]| Typing::Variant.decode::<OrderEvent>(kind, Codec::Json, body);
        assert!(matches!(
            decode(Some("order.lost"), b"{}"),
            Err(Refusal::Unknown(_))
        ));
        assert!(matches!(decode(None, b"{}"), Err(Refusal::Unknown(_))));
        assert!(matches!(
            decode(Some("order.paid"), b"{}"),
            Err(Refusal::Malformed(_))
        ));
        let named = Typing::Named("order.placed".into());
        let other = named.decode::<Placed>(Some("order.paid"), Codec::Json, b"{}");
        assert_eq!(
            other,
            Err(Refusal::Unknown(
                "the event is `order.paid`, not `order.placed`".into()
            ))
        );
    }

    #[test]
    fn what_is_no_enum_has_no_variant() {
        let error = Typing::Variant
            .encode(Codec::Json, &7u8)
            .map(|_| ())
            .unwrap_err();
        assert!(error.is_encode());
        let refused = Typing::Variant.decode::<u8>(Some("u8"), Codec::Json, b"7");
        assert!(matches!(refused, Err(Refusal::Malformed(_))));
    }
}
