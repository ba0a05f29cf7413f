//! The codec of `application/octet-stream`: values that are bytes, written as they are.

use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{DeserializeSeed, Visitor};
use serde::ser::{Serialize, SerializeSeq, SerializeTuple, Serializer};

use super::refuse::refuse;

/// Encodes bytes, a string, or a sequence of bytes.
pub(super) fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, NotBytes> {
    value.serialize(BytesSerializer)
}

/// Decodes a value that is made of bytes.
pub(super) fn from_bytes<'de, S: DeserializeSeed<'de>>(
    seed: S,
    bytes: &'de [u8],
) -> Result<S::Value, NotBytes> {
    seed.deserialize(BytesDeserializer(bytes))
}

/// Error of a value that is not bytes, or that bytes do not decode to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotBytes(String);

impl NotBytes {
    fn value(value: &str) -> Self {
        Self(format!(
            "only bytes and text can be sent as bytes, not {value}"
        ))
    }

    fn element(value: &str) -> Self {
        Self::value(match value {
            "an option" => "a sequence of options",
            "an enum" => "a sequence of enums",
            _ => "a sequence of anything else",
        })
    }
}

impl serde::ser::Error for NotBytes {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

impl serde::de::Error for NotBytes {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

struct BytesSerializer;

impl Serializer for BytesSerializer {
    type Ok = Vec<u8>;
    type Error = NotBytes;
    type SerializeSeq = CollectedBytes;
    type SerializeTuple = CollectedBytes;

    refuse! {
        NotBytes::value:
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char none some unit_struct unit_variant
        newtype_variant tuple_struct tuple_variant map struct struct_variant
    }

    fn serialize_str(self, text: &str) -> Result<Vec<u8>, NotBytes> {
        Ok(text.as_bytes().to_vec())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Vec<u8>, NotBytes> {
        Ok(bytes.to_vec())
    }

    fn serialize_unit(self) -> Result<Vec<u8>, NotBytes> {
        Ok(Vec::new())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Vec<u8>, NotBytes> {
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<CollectedBytes, NotBytes> {
        // The length that a sequence reports is only a hint.
        Ok(CollectedBytes(Vec::with_capacity(
            length.unwrap_or_default().min(1 << 16),
        )))
    }

    fn serialize_tuple(self, length: usize) -> Result<CollectedBytes, NotBytes> {
        self.serialize_seq(Some(length))
    }
}

/// The bytes of a sequence, collected one by one.
struct CollectedBytes(Vec<u8>);

macro_rules! collect_elements {
    ($($trait:ident),*) => {$(
        impl $trait for CollectedBytes {
            type Ok = Vec<u8>;
            type Error = NotBytes;

            fn serialize_element<T: Serialize + ?Sized>(
                &mut self,
                value: &T,
            ) -> Result<(), NotBytes> {
                self.0.push(value.serialize(ByteSerializer)?);
                Ok(())
            }

            fn end(self) -> Result<Vec<u8>, NotBytes> {
                Ok(self.0)
            }
        }
    )*};
}

collect_elements!(SerializeSeq, SerializeTuple);

/// Serializes one element of a sequence, which must be a `u8`.
struct ByteSerializer;

impl Serializer for ByteSerializer {
    type Ok = u8;
    type Error = NotBytes;

    refuse! {
        NotBytes::element:
        bool i8 i16 i32 i64 u16 u32 u64 f32 f64 char str bytes none some unit unit_struct
        unit_variant newtype_variant seq tuple tuple_struct tuple_variant map struct struct_variant
    }

    fn serialize_u8(self, byte: u8) -> Result<u8, NotBytes> {
        Ok(byte)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<u8, NotBytes> {
        value.serialize(self)
    }
}

struct BytesDeserializer<'a>(&'a [u8]);

impl<'de> serde::Deserializer<'de> for BytesDeserializer<'_> {
    type Error = NotBytes;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotBytes> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotBytes> {
        match std::str::from_utf8(self.0) {
            Ok(text) => visitor.visit_str(text),
            Err(error) => Err(NotBytes(error.to_string())),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotBytes> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotBytes> {
        visitor.visit_seq(SeqDeserializer::new(self.0.iter().copied()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, NotBytes> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NotBytes> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NotBytes> {
        if self.0.is_empty() {
            visitor.visit_unit()
        } else {
            self.deserialize_any(visitor)
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf option
        unit_struct tuple_struct map struct enum identifier ignored_any
    }
}
