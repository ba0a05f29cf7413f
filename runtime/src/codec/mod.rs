//! Values to bytes and back, chosen by content type.

mod raw;

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

use crate::escape::Escaped;

/// How values are written on the wire. Default: MessagePack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// `application/msgpack`: structs as maps by name, so that fields can be added.
    #[default]
    MsgPack,
    /// `application/json`.
    Json,
    /// `text/plain`: one scalar or string, in UTF-8, as `Display` would write it.
    Text,
    /// `application/octet-stream`: the bytes themselves (`Vec<u8>`, `bytes::Bytes`, `String`).
    Bytes,
}

/// Why a value could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[error("{content_type}: {reason}")]
pub struct CodecError {
    content_type: &'static str,
    reason: String,
}

/// How deep values may nest; serde_json's own limit is the same.
const DEPTH: usize = 128;

const ALL: [(Codec, &str); 4] = [
    (Codec::MsgPack, "application/msgpack"),
    (Codec::Json, "application/json"),
    (Codec::Text, "text/plain"),
    (Codec::Bytes, "application/octet-stream"),
];

/// Names in use for MessagePack besides `application/msgpack`, which IANA came to late.
const MSGPACK_ALIASES: [&str; 3] = [
    "application/x-msgpack",
    "application/vnd.msgpack",
    "application/messagepack",
];

impl Codec {
    /// The content type, as the property of that name carries it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        ALL.iter()
            .find(|(codec, _)| *codec == self)
            .map_or("", |(_, name)| name)
    }

    /// The codec for a content type; parameters such as `; charset=utf-8` are ignored.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let known = ALL
            .iter()
            .find(|(_, name)| essence.eq_ignore_ascii_case(name));
        known.map(|(codec, _)| *codec).or_else(|| {
            MSGPACK_ALIASES
                .iter()
                .any(|alias| essence.eq_ignore_ascii_case(alias))
                .then_some(Self::MsgPack)
        })
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// [`CodecError`] when the value cannot be written this way: a map with keys that are no
    /// strings as JSON, a struct as text, anything but bytes as bytes.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Bytes, CodecError> {
        match self {
            Self::MsgPack => {
                let mut buffer = Vec::with_capacity(64);
                let mut serializer = rmp_serde::Serializer::new(&mut buffer).with_struct_map();
                value
                    .serialize(&mut serializer)
                    .map_err(|error| self.error(error))?;
                Ok(buffer.into())
            }
            Self::Json => serde_json::to_vec(value)
                .map(Bytes::from)
                .map_err(|error| self.error(error)),
            Self::Text => serde_plain::to_string(&value)
                .map(Bytes::from)
                .map_err(|error| self.error(error)),
            Self::Bytes => raw::to_bytes(value)
                .map(Bytes::from)
                .map_err(|error| self.error(error)),
        }
    }

    /// Decodes a value. Hostile input is refused, never followed: nesting is limited, and
    /// declared lengths are not trusted.
    ///
    /// # Errors
    /// [`CodecError`] with what was expected and what was found.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, CodecError> {
        self.decode_seed(PhantomData::<T>, bytes)
    }

    /// As [`decode`](Self::decode), into whatever the seed makes.
    pub(crate) fn decode_seed<'de, S: DeserializeSeed<'de>>(
        self,
        seed: S,
        bytes: &'de [u8],
    ) -> Result<S::Value, CodecError> {
        match self {
            Self::MsgPack => {
                let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
                // The default of 1024 overflows the stack of a thread with 2 MiB.
                deserializer.set_max_depth(DEPTH);
                seed.deserialize(&mut deserializer)
                    .map_err(|error| self.error(error))
            }
            Self::Json => {
                let mut deserializer = serde_json::Deserializer::from_slice(bytes);
                let value = seed.deserialize(&mut deserializer);
                let value = value.map_err(|error| self.error(error))?;
                deserializer.end().map_err(|error| self.error(error))?;
                Ok(value)
            }
            Self::Text => {
                let text = std::str::from_utf8(bytes).map_err(|error| self.error(error))?;
                seed.deserialize(serde_plain::Deserializer::new(text))
                    .map_err(|error| self.error(error))
            }
            Self::Bytes => raw::from_bytes(seed, bytes).map_err(|error| self.error(error)),
        }
    }

    fn error(self, reason: impl fmt::Display) -> CodecError {
        CodecError {
            content_type: self.content_type(),
            reason: Escaped(reason).to_string(),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content_type())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        id: u64,
        name: String,
        tags: Vec<String>,
        nested: Option<Box<Sample>>,
        map: BTreeMap<String, i32>,
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let leaf =
            (any::<u64>(), ".*", prop::collection::vec(".*", 0..3)).prop_map(|(id, name, tags)| {
                Sample {
                    id,
                    name,
                    tags,
                    nested: None,
                    map: BTreeMap::new(),
                }
            });
        leaf.prop_recursive(3, 8, 1, |inner| {
            (inner, any::<i32>()).prop_map(|(inner, number)| Sample {
                map: BTreeMap::from([(inner.name.clone(), number)]),
                nested: Some(Box::new(inner)),
                id: 1,
                name: "outer".into(),
                tags: vec![],
            })
        })
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Arguments {
        n: u64,
    }

    #[test]
    fn arguments_are_a_map_by_name_and_an_array_is_accepted() {
        assert_eq!(
            &Codec::MsgPack.encode(&Arguments { n: 30 }).unwrap()[..],
            b"\x81\xa1n\x1e"
        );
        assert_eq!(
            &Codec::Json.encode(&Arguments { n: 30 }).unwrap()[..],
            br#"{"n":30}"#
        );
        assert_eq!(
            Codec::MsgPack.decode::<Arguments>(b"\x91\x1e").unwrap(),
            Arguments { n: 30 }
        );
        assert_eq!(
            Codec::Json.decode::<Arguments>(b"[30]").unwrap(),
            Arguments { n: 30 }
        );
    }

    #[test]
    fn text_is_what_display_writes() {
        assert_eq!(&Codec::Text.encode(&30u64).unwrap()[..], b"30");
        assert_eq!(Codec::Text.decode::<u64>(b"30").unwrap(), 30);
        assert_eq!(
            Codec::Text.decode::<String>("häse".as_bytes()).unwrap(),
            "häse"
        );
        let error = Codec::Text
            .decode::<String>(b"\xff")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("text/plain: invalid utf-8"), "{error}");
    }

    #[test]
    fn content_types_are_matched_without_their_parameters() {
        for (codec, name) in ALL {
            assert_eq!(Codec::from_content_type(name), Some(codec));
        }
        assert_eq!(
            Codec::from_content_type("Application/JSON; charset=utf-8"),
            Some(Codec::Json)
        );
        assert_eq!(
            Codec::from_content_type("application/x-msgpack"),
            Some(Codec::MsgPack)
        );
        assert_eq!(Codec::from_content_type("application/xml"), None);
    }

    #[test]
    fn a_huge_declared_length_and_deep_nesting_are_refused() {
        assert!(
            Codec::MsgPack
                .decode::<Vec<u64>>(b"\xdd\xff\xff\xff\xff\x01")
                .is_err()
        );
        assert!(
            Codec::MsgPack
                .decode::<String>(b"\xdb\xff\xff\xff\xffx")
                .is_err()
        );
        let deep = vec![0x91; 1 << 20];
        assert!(Codec::MsgPack.decode::<serde_json::Value>(&deep).is_err());
        let deep = "[".repeat(1 << 20);
        assert!(
            Codec::Json
                .decode::<serde_json::Value>(deep.as_bytes())
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(value in sample()) {
            for codec in [Codec::MsgPack, Codec::Json] {
                let bytes = codec.encode(&value).unwrap();
                prop_assert_eq!(codec.decode::<Sample>(&bytes).unwrap(), value.clone());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (codec, _) in ALL {
                let _ = codec.decode::<Sample>(&bytes);
                let _ = codec.decode::<serde_json::Value>(&bytes);
                let _ = codec.decode::<String>(&bytes);
            }
        }

        #[test]
        fn bytes_are_carried_as_they_are(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let encoded = Codec::Bytes.encode(&bytes).unwrap();
            prop_assert_eq!(&encoded[..], &bytes[..]);
            prop_assert_eq!(Codec::Bytes.decode::<Vec<u8>>(&encoded).unwrap(), bytes);
        }
    }
}
