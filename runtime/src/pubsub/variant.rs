//! An enum whose variant travels beside its content: in a property, not in the payload.

mod content;
mod name;
mod read;

pub(super) use content::Content;
pub(super) use name::name;
pub(super) use read::decode;

use std::fmt;

/// Why a value has no variant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoVariant(String);

impl serde::ser::Error for NoVariant {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

/// Every method of a serializer that a value which is no enum would call.
macro_rules! no_enum {
    (value: $($method:ident($($type:ty),*)),* $(,)?) => {$(
        fn $method(self, $(_: $type),*) -> Result<Self::Ok, Self::Error> {
            Err(serde::ser::Error::custom("only an enum's variants are types of events"))
        }
    )*};
    (parts: $($method:ident($($type:ty),*) -> $parts:ident),* $(,)?) => {$(
        fn $method(self, $(_: $type),*) -> Result<Self::$parts, Self::Error> {
            Err(serde::ser::Error::custom("only an enum's variants are types of events"))
        }
    )*};
    () => {
        no_enum! {
            value:
            serialize_bool(bool),
            serialize_i8(i8),
            serialize_i16(i16),
            serialize_i32(i32),
            serialize_i64(i64),
            serialize_u8(u8),
            serialize_u16(u16),
            serialize_u32(u32),
            serialize_u64(u64),
            serialize_f32(f32),
            serialize_f64(f64),
            serialize_char(char),
            serialize_str(&str),
            serialize_bytes(&[u8]),
            serialize_none(),
            serialize_unit(),
            serialize_unit_struct(&'static str),
        }
        no_enum! {
            parts:
            serialize_seq(Option<usize>) -> SerializeSeq,
            serialize_tuple(usize) -> SerializeTuple,
            serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct,
            serialize_map(Option<usize>) -> SerializeMap,
            serialize_struct(&'static str, usize) -> SerializeStruct,
        }

        fn serialize_some<T: serde::Serialize + ?Sized>(
            self,
            value: &T,
        ) -> Result<Self::Ok, Self::Error> {
            value.serialize(self)
        }

        fn serialize_newtype_struct<T: serde::Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<Self::Ok, Self::Error> {
            value.serialize(self)
        }
    };
}
use no_enum;
