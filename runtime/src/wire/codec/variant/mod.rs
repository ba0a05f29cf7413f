//! Enums whose variant is named by AMQP's `type`, while the payload is the variant's content.

mod content;
mod name;
mod value;

pub(crate) use content::VariantContent;
pub(crate) use name::name;
pub(crate) use value::{VariantError, decode};

use std::fmt;

/// The message of [`NotAnEnum`], for serializers that have an error type of their own.
const NOT_AN_ENUM: &str = "only the variants of an enum can be named by the type of a message";

/// Error of a value that is not an enum, and so has no variant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotAnEnum(String);

impl serde::ser::Error for NotAnEnum {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

fn not_an_enum<E: serde::ser::Error>(_: &str) -> E {
    E::custom(NOT_AN_ENUM)
}

/// Implements the serializer methods of values that are not enums, which are refused, and of options
/// and newtype structs, whose inner value is serialized.
macro_rules! only_enums {
    () => {
        refuse! {
            not_an_enum:
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str bytes none unit unit_struct seq
            tuple tuple_struct map struct
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
use only_enums;
