//! `Vec<u8>` as bytes. serde encodes it as a list of numbers, for which MessagePack takes up to two bytes each;
//! generated code encodes the arguments and results of this type as one piece.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// A type that generated code encodes as bytes: `Vec<u8>` and `Option<Vec<u8>>`. It decodes from a list of
/// numbers as well.
pub trait Octets: Sized {
    /// Serializes the value as bytes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;

    /// Deserializes the value from bytes, or from a list of numbers.
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl Octets for Vec<u8> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }

    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // JSON has no bytes, and serde_json would take those of a string, which somebody may mean as base 64.
        if deserializer.is_human_readable() {
            return Deserialize::deserialize(deserializer);
        }
        deserializer.deserialize_byte_buf(OctetsVisitor)
    }
}

impl Octets for Option<Vec<u8>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_ref().map(AsOctets).serialize(serializer)
    }

    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::<AsOctets<Vec<u8>>>::deserialize(deserializer)?;
        Ok(value.map(|AsOctets(bytes)| bytes))
    }
}

/// A value that is serialized and deserialized as bytes.
#[derive(Debug)]
pub struct AsOctets<T>(pub T);

impl<T: Octets> Serialize for AsOctets<&T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(self.0, serializer)
    }
}

impl<'de, T: Octets> Deserialize<'de> for AsOctets<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

/// For `#[serde(with = "…")]`.
pub fn serialize<T: Octets, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.serialize(serializer)
}

/// For `#[serde(with = "…")]`.
pub fn deserialize<'de, T: Octets, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::deserialize(deserializer)
}

struct OctetsVisitor;

impl<'de> Visitor<'de> for OctetsVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes or a list of them")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, list: S) -> Result<Vec<u8>, S::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::Codec;

    fn encoded<T: Octets>(codec: Codec, value: &T) -> Vec<u8> {
        codec.encode(&AsOctets(value)).unwrap().to_vec()
    }

    fn decoded<T: Octets>(codec: Codec, bytes: &[u8]) -> Result<T, String> {
        let value = codec.decode::<AsOctets<T>>(bytes);
        value
            .map(|value| value.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn bytes_are_bin_in_messagepack_and_a_list_in_json() {
        let bytes = vec![0_u8, 127, 255];
        assert_eq!(encoded(Codec::MsgPack, &bytes), b"\xc4\x03\x00\x7f\xff");
        assert_eq!(encoded(Codec::MsgPack, &None::<Vec<u8>>), b"\xc0");
        assert_eq!(
            encoded(Codec::MsgPack, &Some(bytes.clone())),
            b"\xc4\x03\x00\x7f\xff"
        );
        assert_eq!(encoded(Codec::Json, &bytes), b"[0,127,255]");
        assert_eq!(encoded(Codec::Json, &Some(bytes.clone())), b"[0,127,255]");
        assert_eq!(encoded(Codec::Bytes, &bytes), bytes);
    }

    #[test]
    fn both_forms_decode() {
        let bytes = vec![0_u8, 127, 255];
        for (codec, body) in [
            (Codec::MsgPack, &b"\xc4\x03\x00\x7f\xff"[..]),
            (Codec::MsgPack, b"\x93\x00\x7f\xcc\xff"),
            (Codec::Json, b"[0,127,255]"),
            (Codec::Bytes, b"\x00\x7f\xff"),
        ] {
            assert_eq!(decoded::<Vec<u8>>(codec, body).as_ref(), Ok(&bytes));
            let plain = codec.decode::<Vec<u8>>(body).unwrap();
            assert_eq!(plain, bytes, "by a peer that does not know of this form");
            if codec != Codec::Bytes {
                let optional = decoded::<Option<Vec<u8>>>(codec, body);
                assert_eq!(optional, Ok(Some(bytes.clone())));
            }
        }
        assert_eq!(
            decoded::<Option<Vec<u8>>>(Codec::MsgPack, b"\xc0"),
            Ok(None)
        );
        assert_eq!(decoded::<Option<Vec<u8>>>(Codec::Json, b"null"), Ok(None));
    }

    #[test]
    fn a_text_is_not_taken_for_bytes() {
        for (codec, body) in [
            (Codec::MsgPack, &b"\xa4AP8="[..]),
            (Codec::Json, br#""AP8=""#),
        ] {
            let error = decoded::<Vec<u8>>(codec, body).unwrap_err();
            assert!(error.contains("string"), "{error}");
        }
        let error = decoded::<Vec<u8>>(Codec::MsgPack, b"\x91\xcd\x01\x00").unwrap_err();
        assert!(error.contains("256"), "{error}");
    }

    #[test]
    fn a_length_that_is_not_there_costs_nothing() {
        for body in [
            &b"\xc6\xff\xff\xff\xff\x00"[..],
            b"\xdd\xff\xff\xff\xff\x00",
        ] {
            assert!(decoded::<Vec<u8>>(Codec::MsgPack, body).is_err());
        }
    }
}
