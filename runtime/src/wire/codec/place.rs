//! The argument in which arguments do not decode. serde's errors name a field only where it is
//! missing.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserializer, forward_to_deserialize_any};

use super::Codec;

/// The argument, by its position among `names`, whose value keeps `A` from being decoded; `None`
/// where no single one does. It decodes them a second time, so it is for bytes that have failed to.
pub(crate) fn culprit<A: DeserializeOwned>(
    codec: Codec,
    names: &[&str],
    bytes: &[u8],
) -> Option<usize> {
    let place = Cell::new(None);
    let tracked = Tracked::<A> {
        names,
        place: &place,
        makes: PhantomData,
    };
    match codec.decode_seed(tracked, bytes) {
        Ok(_) => None,
        Err(_) => place.get(),
    }
}

struct Tracked<'a, A> {
    names: &'a [&'a str],
    /// The value that is being decoded.
    place: &'a Cell<Option<usize>>,
    makes: PhantomData<A>,
}

impl<'de, A: DeserializeOwned> DeserializeSeed<'de> for Tracked<'_, A> {
    type Value = A;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<A, D::Error> {
        let Self { names, place, .. } = self;
        A::deserialize(Track {
            inner,
            names,
            place,
        })
    }
}

/// A deserializer, or what it gives out of a map or a sequence, and which part that is.
struct Track<'a, I> {
    inner: I,
    names: &'a [&'a str],
    place: &'a Cell<Option<usize>>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Track<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self {
            inner,
            names,
            place,
        } = self;
        inner.deserialize_any(Track {
            inner: visitor,
            names,
            place,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Track<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<M: MapAccess<'de>>(self, inner: M) -> Result<V::Value, M::Error> {
        let (names, place) = (self.names, self.place);
        self.inner.visit_map(Named {
            inner,
            names,
            place,
            key: None,
        })
    }

    fn visit_seq<M: SeqAccess<'de>>(self, inner: M) -> Result<V::Value, M::Error> {
        let place = self.place;
        let at = 0;
        self.inner.visit_seq(Numbered { inner, place, at })
    }
}

struct Named<'a, M> {
    inner: M,
    names: &'a [&'a str],
    place: &'a Cell<Option<usize>>,
    key: Option<usize>,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Named<'_, M> {
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
        self.place.set(self.key);
        let value = self.inner.next_value_seed(seed)?;
        self.place.set(None);
        Ok(value)
    }
}

struct Numbered<'a, M> {
    inner: M,
    place: &'a Cell<Option<usize>>,
    at: usize,
}

impl<'de, M: SeqAccess<'de>> SeqAccess<'de> for Numbered<'_, M> {
    type Error = M::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, M::Error> {
        self.place.set(Some(self.at));
        self.at += 1;
        let value = self.inner.next_element_seed(seed)?;
        self.place.set(None);
        Ok(value)
    }
}
