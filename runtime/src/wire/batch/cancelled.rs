//! The body of a message that tells which calls were given up: a MessagePack array of their ids.

use bytes::Bytes;
use serde::de::{DeserializeSeed, Visitor};
use serde::{Deserializer, Serialize, Serializer};

use super::entries::BoundedList;
use crate::wire::codec::{Codec, CodecError};

/// The most ids that a client puts into one message.
pub(crate) const MAX_CANCELLED_IDS: usize = 256;

/// An id: a string, or `bin` if it is not UTF-8.
struct Id<'a>(&'a [u8]);

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.serialize_bytes(self.0),
        }
    }
}

#[derive(Clone, Copy)]
struct IdSeed;

impl<'de> DeserializeSeed<'de> for IdSeed {
    type Value = &'de [u8];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IdSeed {
    type Value = &'de [u8];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a correlation id, a string or bytes")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, id: &'de str) -> Result<Self::Value, E> {
        Ok(id.as_bytes())
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, id: &'de [u8]) -> Result<Self::Value, E> {
        Ok(id)
    }
}

/// The id of a call that shares its message: the correlation id of the message, a slash, and the number of the call.
pub(crate) fn id_in_batch(correlation_id: &[u8], number: u64) -> Vec<u8> {
    [correlation_id, b"/", number.to_string().as_bytes()].concat()
}

/// Encodes the ids of calls that were given up.
pub(crate) fn encode_cancelled<'a>(
    ids: impl Iterator<Item = &'a [u8]>,
) -> Result<Bytes, CodecError> {
    Codec::MsgPack.encode(&ids.map(Id).collect::<Vec<_>>())
}

/// Decodes the ids of calls that were given up.
///
/// # Errors
/// It is not an array of strings or bytes, or has more than [`MAX_BATCH`](super::MAX_BATCH) of them.
pub(crate) fn decode_cancelled(body: &[u8]) -> Result<Vec<&[u8]>, CodecError> {
    let ids = BoundedList {
        name: "ids",
        entry: IdSeed,
    };
    Codec::MsgPack.decode_seed(ids, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_byte_for_byte() {
        let ids = [b"a1".to_vec(), id_in_batch(b"bm7", 12), b"\xff".to_vec()];
        let body = encode_cancelled(ids.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(&body[..], b"\x93\xa2a1\xa6bm7/12\xc4\x01\xff");
        assert_eq!(decode_cancelled(&body).unwrap(), ids);
    }

    #[test]
    fn other_bodies_do_not_decode() {
        for body in [
            &b""[..],
            b"\x91",
            b"\x91\x07",
            b"\xa2a1",
            b"\x91\x91\xa1a",
            b"\xdd\xff\xff\xff\xff",
        ] {
            assert!(decode_cancelled(body).is_err(), "{body:x?}");
        }
    }
}
