//! A value of an enum, from the name of its variant and the variant's content.

use std::cell::Cell;

use serde::de::value::Error as Failed;
use serde::de::{
    DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde::{Deserializer, forward_to_deserialize_any};

use super::super::typing::Refusal;
use crate::wire::codec::{Codec, CodecError};

/// Decodes the content as the named variant. A name the enum does not have is unknown, unless it
/// has a variant for all others (`#[serde(other)]`).
pub(crate) fn decode<T: DeserializeOwned>(
    variant: &str,
    codec: Codec,
    body: &[u8],
) -> Result<T, Refusal> {
    let stage = Cell::new(Stage::Before);
    let tagged = Tagged {
        variant,
        codec,
        body,
        stage: &stage,
    };
    T::deserialize(tagged).map_err(|error| match stage.get() {
        Stage::Name => Refusal::Unknown(error.to_string()),
        Stage::Before | Stage::Content => Refusal::Malformed(error.to_string()),
    })
}

/// How far the decoding has come.
#[derive(Clone, Copy)]
enum Stage {
    Before,
    Name,
    Content,
}

struct Tagged<'a, 'de> {
    variant: &'a str,
    codec: Codec,
    body: &'de [u8],
    stage: &'a Cell<Stage>,
}

impl<'de> Deserializer<'de> for Tagged<'_, 'de> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
        Err(Failed::custom(
            "only an enum's variants are types of events",
        ))
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

impl<'de> EnumAccess<'de> for Tagged<'_, 'de> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Failed> {
        self.stage.set(Stage::Name);
        let name: serde::de::value::StrDeserializer<'_, Failed> = self.variant.into_deserializer();
        let value = seed.deserialize(name)?;
        self.stage.set(Stage::Content);
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Tagged<'_, 'de> {
    type Error = Failed;

    /// Whatever the content is: there is nothing to read from it.
    fn unit_variant(self) -> Result<(), Failed> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failed> {
        failed(self.codec.decode_seed(seed, self.body))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Failed> {
        failed(self.codec.decode_seed(Tuple(length, visitor), self.body))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        failed(self.codec.decode_seed(Struct(fields, visitor), self.body))
    }
}

fn failed<T>(result: Result<T, CodecError>) -> Result<T, Failed> {
    result.map_err(Failed::custom)
}

struct Tuple<V>(usize, V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Tuple<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_tuple(self.0, self.1)
    }
}

struct Struct<V>(&'static [&'static str], V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Struct<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_struct("", self.0, self.1)
    }
}
