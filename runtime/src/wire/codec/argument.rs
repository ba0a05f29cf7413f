//! Search for the argument that does not decode. serde's errors name a field only if it is missing.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserializer, forward_to_deserialize_any};

use super::Codec;

/// The argument that does not decode, by its position in `names`. `None` if it is not a single one.
///
/// This decodes the bytes again, so it is called only for bytes that did not decode.
pub(crate) fn failed_argument<A: DeserializeOwned>(
    codec: Codec,
    names: &[&str],
    bytes: &[u8],
) -> Option<usize> {
    let current = Cell::new(None);
    let tracked = TrackingSeed::<A> {
        names,
        current: &current,
        makes: PhantomData,
    };
    match codec.decode_seed(tracked, bytes) {
        Ok(_) => None,
        Err(_) => current.get(),
    }
}

struct TrackingSeed<'a, A> {
    names: &'a [&'a str],
    /// The position of the argument that is being decoded.
    current: &'a Cell<Option<usize>>,
    makes: PhantomData<A>,
}

impl<'de, A: DeserializeOwned> DeserializeSeed<'de> for TrackingSeed<'_, A> {
    type Value = A;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<A, D::Error> {
        let Self { names, current, .. } = self;
        A::deserialize(Tracking {
            inner,
            names,
            current,
        })
    }
}

/// A deserializer or visitor around another one, which notes the argument that is being decoded.
struct Tracking<'a, I> {
    inner: I,
    names: &'a [&'a str],
    current: &'a Cell<Option<usize>>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tracking<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self {
            inner,
            names,
            current,
        } = self;
        inner.deserialize_any(Tracking {
            inner: visitor,
            names,
            current,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Tracking<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<M: MapAccess<'de>>(self, inner: M) -> Result<V::Value, M::Error> {
        let (names, current) = (self.names, self.current);
        self.inner.visit_map(NamedArguments {
            inner,
            names,
            current,
            key: None,
        })
    }

    fn visit_seq<M: SeqAccess<'de>>(self, inner: M) -> Result<V::Value, M::Error> {
        let current = self.current;
        let at = 0;
        self.inner
            .visit_seq(PositionalArguments { inner, current, at })
    }
}

struct NamedArguments<'a, M> {
    inner: M,
    names: &'a [&'a str],
    current: &'a Cell<Option<usize>>,
    key: Option<usize>,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for NamedArguments<'_, M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, M::Error> {
        let Some(key) = self.inner.next_key::<String>()? else {
            return Ok(None);
        };
        self.key = self.names.iter().position(|name| *name == key);
        let key: StringDeserializer<M::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, M::Error> {
        self.current.set(self.key);
        let value = self.inner.next_value_seed(seed)?;
        self.current.set(None);
        Ok(value)
    }
}

struct PositionalArguments<'a, M> {
    inner: M,
    current: &'a Cell<Option<usize>>,
    at: usize,
}

impl<'de, M: SeqAccess<'de>> SeqAccess<'de> for PositionalArguments<'_, M> {
    type Error = M::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, M::Error> {
        self.current.set(Some(self.at));
        self.at += 1;
        let value = self.inner.next_element_seed(seed)?;
        self.current.set(None);
        Ok(value)
    }
}
