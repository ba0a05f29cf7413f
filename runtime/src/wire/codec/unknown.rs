//! Arguments that a method does not have: noticed while the arguments are decoded, and named afterwards.
//!
//! Derived code skips the value of an unknown field with `deserialize_ignored_any`. So a deserializer around
//! that of each value notices it, and does nothing else: the arguments are decoded as without it. Only if
//! something was skipped, the body is read a second time for the names.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::{Codec, CodecError};

/// The longest part of a name that is kept, in bytes.
const MAX_NAME: usize = 64;

/// At most so many names are kept; the others are counted.
const MAX_NAMES: usize = 8;

/// Decodes the arguments of a method, which are the fields of the struct `A`. Sets `skipped` if there are
/// others, whose names [`unknown_arguments`] finds.
///
/// Everything here is inlined, and the flag is not part of the result, so that this is as quick as decoding
/// without it.
pub(crate) fn decode_arguments<A: DeserializeOwned>(
    codec: Codec,
    bytes: &[u8],
    skipped: &Cell<bool>,
) -> Result<A, CodecError> {
    let seed = ArgumentsSeed {
        skipped,
        makes: PhantomData,
    };
    codec.decode_seed(seed, bytes)
}

/// Whether a body has no arguments, without a look into it.
pub(crate) fn is_plainly_empty(codec: Codec, bytes: &[u8]) -> bool {
    match codec {
        Codec::MsgPack => matches!(bytes, [] | [0x80]),
        Codec::Json => matches!(bytes, [] | b"{}"),
        // A single value, without names.
        Codec::Text | Codec::Bytes => true,
    }
}

/// The arguments of a body that are not among `names`.
pub(crate) fn unknown_arguments(codec: Codec, names: &[&str], bytes: &[u8]) -> UnknownArguments {
    // A body that is neither a map nor a list has no arguments to name.
    codec
        .decode_seed(NamesSeed { names }, bytes)
        .unwrap_or_default()
}

/// Arguments that a method does not have.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct UnknownArguments {
    /// The first of them. A name comes from a peer: it is cut off, and not escaped.
    pub(crate) names: Vec<String>,
    /// The number of all others.
    pub(crate) others: usize,
}

impl UnknownArguments {
    fn add(&mut self, name: String) {
        if self.names.len() < MAX_NAMES {
            self.names.push(name);
        } else {
            self.others += 1;
        }
    }
}

/// The names for an error, `` `limit`, `page` and 3 more``. They are not escaped.
impl fmt::Display for UnknownArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.names.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}`{name}`")?;
        }
        if self.others > 0 {
            write!(f, " and {} more", self.others)?;
        }
        Ok(())
    }
}

struct ArgumentsSeed<'a, A> {
    skipped: &'a Cell<bool>,
    makes: PhantomData<A>,
}

impl<'de, A: DeserializeOwned> DeserializeSeed<'de> for ArgumentsSeed<'_, A> {
    type Value = A;

    #[inline(always)]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<A, D::Error> {
        let skipped = self.skipped;
        A::deserialize(Arguments { inner, skipped })
    }
}

/// The deserializer of the struct of arguments, its visitor, or the fields that the visitor gets.
struct Arguments<'a, I> {
    inner: I,
    skipped: &'a Cell<bool>,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Arguments<'_, D> {
    type Error = D::Error;

    #[inline(always)]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        inner: V,
    ) -> Result<V::Value, D::Error> {
        let skipped = self.skipped;
        let visitor = Arguments { inner, skipped };
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("arguments are the fields of a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }

    #[inline(always)]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Arguments<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline(always)]
    fn visit_map<M: MapAccess<'de>>(self, inner: M) -> Result<V::Value, M::Error> {
        let skipped = self.skipped;
        self.inner.visit_map(Arguments { inner, skipped })
    }

    // A list that is too long is an error of the format.
    #[inline(always)]
    fn visit_seq<S: SeqAccess<'de>>(self, inner: S) -> Result<V::Value, S::Error> {
        self.inner.visit_seq(inner)
    }
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Arguments<'_, M> {
    type Error = M::Error;

    #[inline(always)]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, M::Error> {
        self.inner.next_key_seed(seed)
    }

    #[inline(always)]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, inner: T) -> Result<T::Value, M::Error> {
        let skipped = self.skipped;
        self.inner.next_value_seed(Argument { inner, skipped })
    }
}

/// The seed or the deserializer of one argument.
struct Argument<'a, I> {
    inner: I,
    skipped: &'a Cell<bool>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Argument<'_, T> {
    type Value = T::Value;

    #[inline(always)]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<T::Value, D::Error> {
        let skipped = self.skipped;
        self.inner.deserialize(Argument { inner, skipped })
    }
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*))*) => {$(
        #[inline(always)]
        fn $method<V: Visitor<'de>>(
            self,
            $($argument: $type,)*
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            self.inner.$method($($argument,)* visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Argument<'_, D> {
    type Error = D::Error;

    #[inline(always)]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.skipped.set(true);
        self.inner.deserialize_ignored_any(visitor)
    }

    forward! {
        deserialize_any()
        deserialize_bool()
        deserialize_i8()
        deserialize_i16()
        deserialize_i32()
        deserialize_i64()
        deserialize_i128()
        deserialize_u8()
        deserialize_u16()
        deserialize_u32()
        deserialize_u64()
        deserialize_u128()
        deserialize_f32()
        deserialize_f64()
        deserialize_char()
        deserialize_str()
        deserialize_string()
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_unit()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier()
    }

    #[inline(always)]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Collects the names of a map, or the positions of a list, that are not among the known ones.
struct NamesSeed<'a> {
    names: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for NamesSeed<'_> {
    type Value = UnknownArguments;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NamesSeed<'_> {
    type Value = UnknownArguments;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map or a list of arguments")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut unknown = UnknownArguments::default();
        while let Some(key) = map.next_key_seed(NameSeed { names: self.names })? {
            map.next_value::<IgnoredAny>()?;
            if let Some(name) = key {
                unknown.add(name);
            }
        }
        Ok(unknown)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        let mut unknown = UnknownArguments::default();
        let mut position = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            position += 1;
            if position > self.names.len() {
                unknown.add(position.to_string());
            }
        }
        Ok(unknown)
    }
}

/// Decodes a name, and returns it unless it is known. Derived code takes the number of a field for its name
/// as well.
struct NameSeed<'a> {
    names: &'a [&'a str],
}

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an argument")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        let is_known = self.names.contains(&name);
        Ok((!is_known).then(|| cut_off(name)))
    }

    fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        self.visit_str(&String::from_utf8_lossy(name))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let is_known = usize::try_from(number).is_ok_and(|number| number < self.names.len());
        Ok((!is_known).then(|| number.to_string()))
    }
}

/// The beginning of a name, in whole characters.
fn cut_off(name: &str) -> String {
    let kept = name.char_indices();
    kept.take_while(|(at, letter)| at + letter.len_utf8() <= MAX_NAME)
        .map(|(_, letter)| letter)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Known {
        text: String,
        limit: Option<Vec<Option<u8>>>,
        // Also decoded with `deserialize_ignored_any`, but not unknown.
        #[serde(default)]
        rest: Option<IgnoredAny>,
    }

    const NAMES: [&str; 3] = ["text", "limit", "rest"];

    #[derive(Serialize)]
    struct Newer {
        text: &'static str,
        page: BTreeMap<&'static str, u8>,
        limit: [Option<u8>; 2],
        dry_run: bool,
    }

    fn decoded(codec: Codec, body: &[u8]) -> Result<(Known, bool), CodecError> {
        let skipped = Cell::new(false);
        let known = decode_arguments(codec, body, &skipped)?;
        Ok((known, skipped.get()))
    }

    #[test]
    fn unknown_arguments_are_noticed_and_named() {
        let newer = Newer {
            text: "hare",
            page: BTreeMap::from([("number", 1)]),
            limit: [Some(1), None],
            dry_run: true,
        };
        for codec in [Codec::MsgPack, Codec::Json] {
            let body = codec.encode(&newer).unwrap();
            let (known, has_skipped) = decoded(codec, &body).unwrap();
            assert_eq!(known.text, "hare");
            assert_eq!(known.limit, Some(vec![Some(1), None]));
            assert!(has_skipped);
            let unknown = unknown_arguments(codec, &NAMES, &body);
            assert_eq!(unknown.to_string(), "`page`, `dry_run`", "{codec}");
        }
    }

    #[test]
    fn known_arguments_are_not() {
        let body = r#"{"limit":[7,null],"text":"hare","rest":{"any":[1]}}"#;
        let (known, _) = decoded(Codec::Json, body.as_bytes()).unwrap();
        assert_eq!(known.limit, Some(vec![Some(7), None]));
        let unknown = unknown_arguments(Codec::Json, &NAMES, body.as_bytes());
        assert_eq!(unknown, UnknownArguments::default());

        for (codec, body) in [
            (Codec::Json, &br#"{"text":"hare"}"#[..]),
            (Codec::Json, br#"["hare",null]"#),
            (Codec::MsgPack, b"\x81\xa4text\xa1x"),
            (Codec::MsgPack, b"\x92\xa1x\xc0"),
            // By the numbers and by the bytes of their names.
            (Codec::MsgPack, b"\x82\x00\xa1x\xc4\x05limit\xc0"),
        ] {
            let (_, has_skipped) = decoded(codec, body).unwrap();
            assert!(!has_skipped, "{body:?}");
            let unknown = unknown_arguments(codec, &NAMES, body);
            assert_eq!(unknown, UnknownArguments::default(), "{body:?}");
        }
    }

    #[test]
    fn a_number_that_is_no_position_is_unknown() {
        let body = b"\x82\x00\xa1x\x07\xc0";
        assert!(decoded(Codec::MsgPack, body).unwrap().1);
        let unknown = unknown_arguments(Codec::MsgPack, &NAMES, body);
        assert_eq!(unknown.to_string(), "`7`");
    }

    #[test]
    fn positions_behind_the_last_argument_are_unknown() {
        let unknown = unknown_arguments(Codec::Json, &["n"], b"[1,2,3]");
        assert_eq!(unknown.to_string(), "`2`, `3`");
        for (codec, body) in [
            (Codec::Json, &br#"["hare",null,null,1]"#[..]),
            (Codec::MsgPack, b"\x94\xa1x\xc0\xc0\x01"),
        ] {
            assert!(decoded(codec, body).is_err(), "{codec}");
        }
    }

    #[test]
    fn bodies_without_arguments_have_no_unknown_ones() {
        for (codec, body) in [
            (Codec::MsgPack, &b""[..]),
            (Codec::MsgPack, b"\x80"),
            (Codec::MsgPack, b"\xc0"),
            (Codec::MsgPack, b"\xc1"),
            (Codec::Json, b""),
            (Codec::Json, b"{}"),
            (Codec::Json, b" { } "),
            (Codec::Json, b"null"),
            (Codec::Json, b"7 7"),
            (Codec::Text, b"text"),
            (Codec::Bytes, b"\x81"),
        ] {
            let unknown = unknown_arguments(codec, &[], body);
            assert_eq!(unknown, UnknownArguments::default(), "{body:?}");
        }
        assert!(is_plainly_empty(Codec::Json, b"{}") && is_plainly_empty(Codec::MsgPack, b"\x80"));
        assert!(!is_plainly_empty(Codec::Json, br#"{"a":1}"#));
        assert!(!is_plainly_empty(Codec::MsgPack, b"\x81\xa1a\x01"));
    }

    #[test]
    fn names_of_a_peer_are_few_and_short() {
        let body: BTreeMap<String, u8> = (0..20)
            .map(|at| (format!("{at:02}{}", "ä".repeat(100)), 0))
            .collect();
        for codec in [Codec::MsgPack, Codec::Json] {
            let unknown = unknown_arguments(codec, &[], &codec.encode(&body).unwrap());
            assert_eq!((unknown.names.len(), unknown.others), (MAX_NAMES, 12));
            assert!(unknown.names.iter().all(|name| name.len() <= MAX_NAME));
            assert!(unknown.to_string().ends_with(" and 12 more"), "{unknown}");
        }
    }
}
