//! Entries of a batch: the list that they stand in, and the bytes that each contains.

use std::fmt;

use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most calls, or replies, in one message.
pub(crate) const MAX_BATCH: usize = 4096;

/// Bytes, written as MessagePack `bin`. serde would write a `&[u8]` as an array.
#[derive(Deserialize)]
pub(super) struct ByteString<'a>(#[serde(borrow)] pub(super) &'a [u8]);

impl Serialize for ByteString<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// A list whose length is checked before any entry is decoded: an entry of seven bytes takes a hundred in
/// memory.
pub(super) struct BoundedList<S> {
    /// The name of the entries in errors.
    pub(super) name: &'static str,
    pub(super) entry: S,
}

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for BoundedList<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for BoundedList<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.name)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let count = entries.size_hint().unwrap_or_default();
        if count > MAX_BATCH {
            let text = format!(
                "{count} {} in a message, the limit is {MAX_BATCH}",
                self.name
            );
            return Err(serde::de::Error::custom(text));
        }
        let mut all = Vec::with_capacity(count);
        while let Some(entry) = entries.next_element_seed(self.entry)? {
            all.push(entry);
        }
        Ok(all)
    }
}
