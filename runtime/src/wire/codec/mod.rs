//! Codecs: values to bytes and back, chosen by the content type.

mod argument;
mod json_view;
pub mod octets;
mod raw;
mod refuse;
mod strict;
mod unknown;
pub(crate) mod variant;

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Visitor};
use serde::{Deserializer, Serialize};

pub(crate) use argument::failed_argument;
pub(crate) use json_view::undecoded;
use strict::{Checked, Floats};
pub(crate) use unknown::{decode_arguments, is_plainly_empty, unknown_arguments};
pub(crate) use variant::VariantError;

use crate::escape::Escaped;

/// The format of values on the wire. Default: MessagePack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// `application/msgpack`: structs as maps by name, so that fields can be added.
    #[default]
    MsgPack,
    /// `application/json`.
    Json,
    /// `text/plain`: one scalar or string, in UTF-8, in the form of its `Display`.
    Text,
    /// `application/octet-stream`: the bytes themselves (`Vec<u8>`, `bytes::Bytes`, `String`).
    Bytes,
}

/// The error of a value that cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[error("{content_type}: {reason}")]
pub struct CodecError {
    content_type: &'static str,
    reason: String,
}

impl CodecError {
    /// Adds the part of the value that failed.
    pub(crate) fn at(self, part: impl fmt::Display) -> Self {
        let reason = format!("{part}: {}", self.reason);
        Self { reason, ..self }
    }
}

/// A content type for which there is no codec. It may come from a peer, and is escaped.
#[derive(Debug)]
pub(crate) struct UnknownContentType<'a>(&'a str);

impl<'a> UnknownContentType<'a> {
    /// The content type, escaped.
    pub(crate) fn name(&self) -> Escaped<&'a str> {
        Escaped(self.0)
    }
}

impl fmt::Display for UnknownContentType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "content type `{}` is not understood", self.name())
    }
}

/// The deepest nesting of values. serde_json has the same limit.
const MAX_DEPTH: usize = 128;

const CONTENT_TYPES: [(Codec, &str); 4] = [
    (Codec::MsgPack, "application/msgpack"),
    (Codec::Json, "application/json"),
    (Codec::Text, "text/plain"),
    (Codec::Bytes, "application/octet-stream"),
];

/// Other content types in use for MessagePack. IANA registered `application/msgpack` late.
const MSGPACK_ALIASES: [&str; 3] = [
    "application/x-msgpack",
    "application/vnd.msgpack",
    "application/messagepack",
];

impl Codec {
    /// The value of the `content-type` property.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        CONTENT_TYPES
            .iter()
            .find(|(codec, _)| *codec == self)
            .map_or("", |(_, name)| name)
    }

    /// The codec of a content type. Parameters such as `; charset=utf-8` are ignored.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let known = CONTENT_TYPES
            .iter()
            .find(|(_, name)| essence.eq_ignore_ascii_case(name));
        known.map(|(codec, _)| *codec).or_else(|| {
            MSGPACK_ALIASES
                .iter()
                .any(|alias| essence.eq_ignore_ascii_case(alias))
                .then_some(Self::MsgPack)
        })
    }

    /// The codec of a message with this content type; `self` if the message has none.
    ///
    /// # Errors
    /// The content type is not known.
    pub(crate) fn for_content_type(
        self,
        content_type: Option<&str>,
    ) -> Result<Self, UnknownContentType<'_>> {
        match content_type {
            None => Ok(self),
            Some(name) => Self::from_content_type(name).ok_or(UnknownContentType(name)),
        }
    }

    /// The encoded value `()`.
    pub(crate) fn unit(self) -> Bytes {
        Bytes::from_static(match self {
            Self::MsgPack => b"\xc0",
            Self::Json => b"null",
            Self::Text | Self::Bytes => b"",
        })
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// The codec has no form for the value, or would decode it as another value:
    ///
    /// - JSON: a map whose keys are not strings, NaN and the infinities;
    /// - MessagePack and JSON: `Some(None)` and `Some(())`, which would be decoded as `None`;
    /// - text: a struct, a list or a map;
    /// - bytes: all but bytes and strings.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Bytes, CodecError> {
        match self {
            Self::MsgPack => {
                let mut buffer = Vec::with_capacity(64);
                let mut serializer = rmp_serde::Serializer::new(&mut buffer).with_struct_map();
                Checked::new(value, Floats::Any)
                    .serialize(&mut serializer)
                    .map_err(|error| self.error(error))?;
                Ok(buffer.into())
            }
            Self::Json => serde_json::to_vec(&Checked::new(value, Floats::Finite))
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

    /// Decodes a value. Bytes that follow it are an error. Input may be hostile: the depth of nesting is
    /// limited, and declared lengths are not trusted.
    ///
    /// # Errors
    /// The bytes are not a value of this type. The text tells what was expected and what was found.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, CodecError> {
        self.decode_seed(PhantomData::<T>, bytes)
    }

    /// A view of an encoded value as JSON text, for people and tools that look at messages without
    /// knowing their types. Nothing is lost: different values have different views.
    ///
    /// - JSON is shown as it is, with its spaces.
    /// - MessagePack is shown as the JSON value that is the same: nil, booleans, numbers, texts, lists, and
    ///   maps in their order. A float always has a point or an exponent. All other values are objects with
    ///   one field:
    ///
    ///   | value | view |
    ///   |---|---|
    ///   | bytes | `{"$bytes":"<base 64>"}` |
    ///   | an extension with its type | `{"$ext":[5,"<base 64>"]}` |
    ///   | a map with a key that is no text or occurs twice | `{"$map":[[key,value],…]}` |
    ///   | a text that is not UTF-8 | `{"$text":"<base 64>"}` |
    ///   | a float that is no finite number | `{"$float":"Infinity"}`, `"-Infinity"`, `"NaN <its bits>"` |
    ///
    ///   A number is shown without the width in which it is encoded.
    /// - Text is shown as a JSON string, and bytes as `{"$bytes":"<base 64>"}`.
    /// - Bytes that this codec cannot decode are shown as `{"$body":"<base 64>"}`; so is MessagePack that is
    ///   nested more than 128 levels deep.
    /// - A map with one key that begins with `$` is shown in `$map`, and JSON whose first name begins so as
    ///   `{"$json":…}`, because they could be taken for one of these objects.
    ///
    /// ```
    /// use lepus::Codec;
    ///
    /// let body = Codec::MsgPack.encode(&(7, "hare", 0.5)).unwrap();
    /// assert_eq!(Codec::MsgPack.to_json(&body), r#"[7,"hare",0.5]"#);
    /// assert_eq!(Codec::MsgPack.to_json(b"\xc4\x02\x00\xff"), r#"{"$bytes":"AP8="}"#);
    /// ```
    #[must_use]
    pub fn to_json(self, bytes: &[u8]) -> String {
        let view = match self {
            Self::MsgPack => json_view::msgpack(bytes, MAX_DEPTH),
            Self::Json => json_view::json(bytes),
            Self::Text => json_view::utf8(bytes),
            Self::Bytes => Some(json_view::bytes(bytes)),
        };
        view.unwrap_or_else(|| undecoded(bytes))
    }

    /// As [`decode`](Self::decode), with a seed.
    pub(crate) fn decode_seed<'de, S: DeserializeSeed<'de>>(
        self,
        seed: S,
        bytes: &'de [u8],
    ) -> Result<S::Value, CodecError> {
        match self {
            Self::MsgPack => {
                let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
                // The default of 1024 overflows the stack of a thread with 2 MiB.
                deserializer.set_max_depth(MAX_DEPTH);
                let value = seed.deserialize(&mut deserializer);
                let value = value.map_err(|error| self.error(error))?;
                match EndOfInput::deserialize(&mut deserializer) {
                    // No marker could be read, because there are no more bytes.
                    Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
                    _ => Err(self.error("more bytes follow the value")),
                }
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

/// Deserialized after a value, to find out whether bytes follow it. It accepts no value, so that an error
/// about a marker is always about the first one.
struct EndOfInput;

impl<'de> Deserialize<'de> for EndOfInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl Visitor<'_> for EndOfInput {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the input")
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

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum Plain {
        Circle(f64),
        #[serde(other)]
        Unknown,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    #[serde(tag = "kind")]
    enum Tagged {
        Circle {
            radius: f64,
        },
        #[serde(other)]
        Unknown,
    }

    #[test]
    fn a_new_variant_is_read_as_the_one_for_all_others() {
        #[derive(Serialize)]
        enum NewPlain {
            Square(f64),
            Point,
        }

        #[derive(Serialize)]
        #[serde(tag = "kind")]
        enum NewTagged {
            Square { side: f64 },
            Point,
        }

        for codec in [Codec::MsgPack, Codec::Json] {
            let plain = |value: &NewPlain| codec.decode::<Plain>(&codec.encode(value).unwrap());
            assert_eq!(plain(&NewPlain::Point).unwrap(), Plain::Unknown);
            assert!(plain(&NewPlain::Square(1.0)).is_err(), "{codec}");
            let tagged = |value: &NewTagged| codec.decode::<Tagged>(&codec.encode(value).unwrap());
            for value in [NewTagged::Point, NewTagged::Square { side: 1.0 }] {
                assert_eq!(tagged(&value).unwrap(), Tagged::Unknown);
            }
        }
    }

    #[test]
    fn bytes_decode_as_a_list_of_numbers() {
        /// Encoded as bytes, as `bytes::Bytes` is.
        struct Blob<'a>(&'a [u8]);

        impl Serialize for Blob<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }

        let list = vec![0_u8, 127, 255];
        let bytes = Blob(&list);
        for codec in [Codec::MsgPack, Codec::Json] {
            for encoded in [codec.encode(&list).unwrap(), codec.encode(&bytes).unwrap()] {
                assert_eq!(codec.decode::<Vec<u8>>(&encoded).unwrap(), list);
            }
        }
        assert_eq!(
            &Codec::MsgPack.encode(&list).unwrap()[..],
            b"\x93\x00\x7f\xcc\xff"
        );
        assert_eq!(
            &Codec::MsgPack.encode(&bytes).unwrap()[..],
            b"\xc4\x03\x00\x7f\xff"
        );
    }

    #[test]
    fn text_is_written_as_by_display() {
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
        for (codec, name) in CONTENT_TYPES {
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

    #[test]
    fn bytes_behind_a_value_are_refused() {
        let value = Codec::MsgPack.encode(&Arguments { n: 30 }).unwrap();
        // A number, an array and a map without contents, a truncated text, and an unused marker.
        for more in [
            &b"\x07"[..],
            b"\x91",
            b"\x81",
            b"\xcd",
            b"\xa5x",
            b"\xc1",
            b"\xc0",
        ] {
            let error = Codec::MsgPack.decode::<Arguments>(&[&value, more].concat());
            let error = error.unwrap_err().to_string();
            assert_eq!(
                error, "application/msgpack: more bytes follow the value",
                "{more:?}"
            );
        }
        let seven = Codec::MsgPack.decode::<Option<u8>>(b"\x07");
        assert_eq!(seven.unwrap(), Some(7));
        assert!(Codec::MsgPack.decode::<Option<u8>>(b"\xc0\xc0").is_err());
        assert!(Codec::Json.decode::<u8>(b"7 ").is_ok());
        for (codec, bytes) in [(Codec::Json, &b"7 8"[..]), (Codec::Text, b"7 8")] {
            assert!(codec.decode::<u8>(bytes).is_err(), "{codec}");
        }
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Metre(f64);

    #[derive(Serialize)]
    enum Length {
        Tuple(u8, f32),
        Named { metres: Metre },
    }

    #[test]
    fn numbers_that_json_does_not_have_are_refused() {
        let refused: [Result<Bytes, CodecError>; 7] = [
            Codec::Json.encode(&f64::NAN),
            Codec::Json.encode(&f32::INFINITY),
            Codec::Json.encode(&Some(vec![1.0, f64::NEG_INFINITY])),
            Codec::Json.encode(&Length::Tuple(1, f32::NAN)),
            Codec::Json.encode(&Length::Named {
                metres: Metre(f64::NAN),
            }),
            Codec::Json.encode(&BTreeMap::from([("x", (1, f64::NAN))])),
            Codec::Json.encode(&serde_json::json!({ "x": 1 }).get("x").map(|_| f64::NAN)),
        ];
        for refused in refused {
            let error = refused.unwrap_err().to_string();
            assert!(error.starts_with("application/json: "), "{error}");
            assert!(error.contains("is not a number"), "{error}");
        }
        let finite = Codec::Json.encode(&(1.5, f32::MAX, Metre(-0.0))).unwrap();
        let finite: (f64, f32, Metre) = Codec::Json.decode(&finite).unwrap();
        assert_eq!(finite, (1.5, f32::MAX, Metre(0.0)));
        for codec in [Codec::MsgPack, Codec::Text] {
            let nan = codec.encode(&f64::NAN).unwrap();
            assert!(codec.decode::<f64>(&nan).unwrap().is_nan(), "{codec}");
        }
    }

    #[derive(Serialize)]
    struct Nothing;

    #[derive(Serialize)]
    struct Wrapped(Option<u8>);

    #[test]
    fn values_that_would_be_read_as_none_are_refused() {
        for codec in [Codec::MsgPack, Codec::Json] {
            let refused = [
                codec.encode(&Some(None::<u8>)),
                codec.encode(&(7, Some(Wrapped(None)))),
                codec.encode(&Some(())),
                codec.encode(&[Some(Nothing)]),
            ];
            for refused in refused {
                let error = refused.unwrap_err().to_string();
                assert!(error.ends_with("would be read as None"), "{error}");
            }
            for taken in [
                codec.encode(&Some(Some(7))),
                codec.encode(&None::<Option<u8>>),
                codec.encode(&(Some(vec![None::<u8>]), (), Nothing)),
                codec.encode(&Some(serde_json::Value::Null)),
            ] {
                taken.unwrap();
            }
        }
    }

    #[test]
    fn the_argument_that_does_not_decode_is_found() {
        #[derive(Deserialize)]
        struct Division {
            #[expect(dead_code, reason = "only decoded")]
            dividend: u64,
            #[expect(dead_code, reason = "only decoded")]
            divisor: u64,
        }
        let failed = |codec, bytes: &[u8]| {
            failed_argument::<Division>(codec, &["dividend", "divisor"], bytes)
        };
        for (bytes, at) in [
            (&br#"{"divisor":"x","dividend":1}"#[..], Some(1)),
            (br#"{"dividend":-1}"#, Some(0)),
            (br#"{"dividend":1,"other":2,"divisor":[]}"#, Some(1)),
            (br#"[1,null]"#, Some(1)),
            (br#"{"dividend":1}"#, None),
            (br#""x""#, None),
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(failed(Codec::Json, bytes), at, "{text}");
        }
        assert_eq!(failed(Codec::MsgPack, b"\x92\x01\xa1x"), Some(1));
        assert_eq!(
            failed(Codec::MsgPack, b"\x82\xa7divisor\x01\xa8dividend\xc0"),
            Some(0)
        );
    }

    proptest! {
        #[test]
        fn encoded_values_decode_to_the_same(value in sample()) {
            for codec in [Codec::MsgPack, Codec::Json] {
                let bytes = codec.encode(&value).unwrap();
                prop_assert_eq!(codec.decode::<Sample>(&bytes).unwrap(), value.clone());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for (codec, _) in CONTENT_TYPES {
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
