//! The codec of `application/octet-stream`: a value that consists of bytes, encoded as it is.

use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{DeserializeSeed, Visitor};
use serde::ser::{Impossible, Serialize, SerializeSeq, SerializeTuple, Serializer};

/// Encodes a value that is bytes, a string, or a sequence of bytes.
pub(super) fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, NotBytes> {
    value.serialize(BytesSerializer)
}

/// Decodes a value from bytes.
pub(super) fn from_bytes<'de, S: DeserializeSeed<'de>>(
    seed: S,
    bytes: &'de [u8],
) -> Result<S::Value, NotBytes> {
    seed.deserialize(BytesDeserializer(bytes))
}

/// The error of a value that does not consist of bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotBytes(String);

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

fn refuse<T>(what: &str) -> Result<T, NotBytes> {
    Err(NotBytes(format!(
        "only bytes and text can be sent as bytes, not {what}"
    )))
}

struct BytesSerializer;

macro_rules! refused {
    ($($method:ident: $type:ty => $what:literal),* $(,)?) => {$(
        fn $method(self, _: $type) -> Result<Vec<u8>, NotBytes> {
            refuse($what)
        }
    )*};
}

impl Serializer for BytesSerializer {
    type Ok = Vec<u8>;
    type Error = NotBytes;
    type SerializeSeq = ByteCollector;
    type SerializeTuple = ByteCollector;
    type SerializeTupleStruct = Impossible<Vec<u8>, NotBytes>;
    type SerializeTupleVariant = Impossible<Vec<u8>, NotBytes>;
    type SerializeMap = Impossible<Vec<u8>, NotBytes>;
    type SerializeStruct = Impossible<Vec<u8>, NotBytes>;
    type SerializeStructVariant = Impossible<Vec<u8>, NotBytes>;

    refused! {
        serialize_bool: bool => "a boolean",
        serialize_i8: i8 => "a number",
        serialize_i16: i16 => "a number",
        serialize_i32: i32 => "a number",
        serialize_i64: i64 => "a number",
        serialize_u8: u8 => "a number",
        serialize_u16: u16 => "a number",
        serialize_u32: u32 => "a number",
        serialize_u64: u64 => "a number",
        serialize_f32: f32 => "a number",
        serialize_f64: f64 => "a number",
        serialize_char: char => "a character",
        serialize_unit_struct: &'static str => "a unit struct",
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

    fn serialize_none(self) -> Result<Vec<u8>, NotBytes> {
        refuse("an option")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Vec<u8>, NotBytes> {
        refuse("an option")
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<Vec<u8>, NotBytes> {
        refuse("an enum")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Vec<u8>, NotBytes> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Vec<u8>, NotBytes> {
        refuse("an enum")
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<ByteCollector, NotBytes> {
        // A sequence's own length is only a hint.
        Ok(ByteCollector(Vec::with_capacity(
            length.unwrap_or_default().min(1 << 16),
        )))
    }

    fn serialize_tuple(self, length: usize) -> Result<ByteCollector, NotBytes> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, NotBytes> {
        refuse("a struct")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, NotBytes> {
        refuse("an enum")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NotBytes> {
        refuse("a map")
    }

    fn serialize_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStruct, NotBytes> {
        refuse("a struct")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, NotBytes> {
        refuse("an enum")
    }
}

/// Serializes a sequence of bytes.
struct ByteCollector(Vec<u8>);

impl ByteCollector {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotBytes> {
        self.0.push(value.serialize(ByteSerializer)?);
        Ok(())
    }
}

impl SerializeSeq for ByteCollector {
    type Ok = Vec<u8>;
    type Error = NotBytes;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotBytes> {
        self.push(value)
    }

    fn end(self) -> Result<Vec<u8>, NotBytes> {
        Ok(self.0)
    }
}

impl SerializeTuple for ByteCollector {
    type Ok = Vec<u8>;
    type Error = NotBytes;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotBytes> {
        self.push(value)
    }

    fn end(self) -> Result<Vec<u8>, NotBytes> {
        Ok(self.0)
    }
}

/// Serializes one element of a sequence, which has to be a `u8`.
struct ByteSerializer;

macro_rules! one_byte {
    ($($method:ident($($type:ty),*) -> $ok:ty),* $(,)?) => {$(
        fn $method(self, $(_: $type),*) -> Result<$ok, NotBytes> {
            refuse("a sequence of anything else")
        }
    )*};
}

type NotAByte = Impossible<u8, NotBytes>;

impl Serializer for ByteSerializer {
    type Ok = u8;
    type Error = NotBytes;
    type SerializeSeq = NotAByte;
    type SerializeTuple = NotAByte;
    type SerializeTupleStruct = NotAByte;
    type SerializeTupleVariant = NotAByte;
    type SerializeMap = NotAByte;
    type SerializeStruct = NotAByte;
    type SerializeStructVariant = NotAByte;

    fn serialize_u8(self, byte: u8) -> Result<u8, NotBytes> {
        Ok(byte)
    }

    one_byte! {
        serialize_bool(bool) -> u8,
        serialize_i8(i8) -> u8,
        serialize_i16(i16) -> u8,
        serialize_i32(i32) -> u8,
        serialize_i64(i64) -> u8,
        serialize_u16(u16) -> u8,
        serialize_u32(u32) -> u8,
        serialize_u64(u64) -> u8,
        serialize_f32(f32) -> u8,
        serialize_f64(f64) -> u8,
        serialize_char(char) -> u8,
        serialize_str(&str) -> u8,
        serialize_bytes(&[u8]) -> u8,
        serialize_none() -> u8,
        serialize_unit() -> u8,
        serialize_unit_struct(&'static str) -> u8,
        serialize_unit_variant(&'static str, u32, &'static str) -> u8,
        serialize_seq(Option<usize>) -> NotAByte,
        serialize_tuple(usize) -> NotAByte,
        serialize_tuple_struct(&'static str, usize) -> NotAByte,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> NotAByte,
        serialize_map(Option<usize>) -> NotAByte,
        serialize_struct(&'static str, usize) -> NotAByte,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> NotAByte,
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<u8, NotBytes> {
        refuse("a sequence of options")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<u8, NotBytes> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<u8, NotBytes> {
        refuse("a sequence of enums")
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
