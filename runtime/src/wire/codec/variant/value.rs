//! The value of an enum, decoded from the name of its variant and the variant's content.

use std::cell::Cell;

use serde::de::value::Error as Failed;
use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde::{Deserializer, forward_to_deserialize_any};

use super::NOT_AN_ENUM;
use crate::wire::codec::{Codec, CodecError};

/// Error of [`decode`], with the reason.
#[derive(Debug)]
pub(crate) enum VariantError {
    /// The enum has no variant of this name.
    UnknownName(String),
    /// The type is not an enum, or the content does not decode.
    Malformed(String),
}

/// Decodes the content as the named variant. A name that the enum does not have is an error, unless
/// the enum has a variant for all others (`#[serde(other)]`).
pub(crate) fn decode<T: DeserializeOwned>(
    variant: &str,
    codec: Codec,
    body: &[u8],
) -> Result<T, VariantError> {
    let stage = Cell::new(DecodeStage::Start);
    let deserializer = VariantDeserializer {
        variant,
        codec,
        body,
        stage: &stage,
    };
    T::deserialize(deserializer).map_err(|error| match stage.get() {
        DecodeStage::Name => VariantError::UnknownName(error.to_string()),
        DecodeStage::Start | DecodeStage::Content => VariantError::Malformed(error.to_string()),
    })
}

/// The part that is being decoded, by which an error is told from another.
#[derive(Clone, Copy)]
enum DecodeStage {
    Start,
    Name,
    Content,
}

struct VariantDeserializer<'a, 'de> {
    variant: &'a str,
    codec: Codec,
    body: &'de [u8],
    stage: &'a Cell<DecodeStage>,
}

impl<'de> Deserializer<'de> for VariantDeserializer<'_, 'de> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
        Err(Failed::custom(NOT_AN_ENUM))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_enum(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for VariantDeserializer<'_, 'de> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Failed> {
        self.stage.set(DecodeStage::Name);
        let name: serde::de::value::StrDeserializer<'_, Failed> = self.variant.into_deserializer();
        let value = seed.deserialize(name)?;
        self.stage.set(DecodeStage::Content);
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for VariantDeserializer<'_, 'de> {
    type Error = Failed;

    /// Ignores the content: a unit variant has none.
    fn unit_variant(self) -> Result<(), Failed> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failed> {
        failed(self.codec.decode_seed(seed, self.body))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Failed> {
        failed(
            self.codec
                .decode_seed(TupleSeed(length, visitor), self.body),
        )
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        failed(
            self.codec
                .decode_seed(StructSeed(fields, visitor), self.body),
        )
    }
}

fn failed<T>(result: Result<T, CodecError>) -> Result<T, Failed> {
    result.map_err(Failed::custom)
}

struct TupleSeed<V>(usize, V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for TupleSeed<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_tuple(self.0, self.1)
    }
}

struct StructSeed<V>(&'static [&'static str], V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for StructSeed<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_struct("", self.0, self.1)
    }
}
