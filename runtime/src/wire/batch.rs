//! Batches: the bodies of messages that carry several calls or several replies. Both are MessagePack
//! arrays, whatever codec the arguments and values in them use.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::ReplyStatus;

/// The most calls, or replies, in one message.
pub(crate) const MAX_BATCH: usize = 4096;

/// One call of a batch.
#[derive(Debug, PartialEq)]
pub(crate) struct BatchedCall<'a> {
    /// The id that its reply carries.
    pub(crate) id: u64,
    pub(crate) method: &'a str,
    /// The time until its caller stops waiting, in milliseconds.
    pub(crate) time_left: u64,
    pub(crate) message_id: Option<&'a str>,
    pub(crate) arguments: &'a [u8],
}

/// One reply of a batch.
#[derive(Debug, PartialEq)]
pub(crate) struct BatchedReply {
    pub(crate) id: u64,
    pub(crate) status: ReplyStatus,
    pub(crate) body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct WireCall<'a>(
    u64,
    &'a str,
    u64,
    #[serde(borrow)] Option<&'a str>,
    #[serde(borrow)] ByteString<'a>,
);

#[derive(Serialize, Deserialize)]
struct WireReply<'a>(
    u64,
    #[serde(borrow)] Option<&'a str>,
    Option<Cow<'a, str>>,
    #[serde(borrow)] ByteString<'a>,
);

/// Bytes, written as MessagePack `bin`. serde would write a `&[u8]` as an array.
#[derive(Deserialize)]
struct ByteString<'a>(#[serde(borrow)] &'a [u8]);

impl Serialize for ByteString<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Encodes the body of a message that carries calls.
pub(crate) fn encode_calls<'a>(
    calls: impl Iterator<Item = BatchedCall<'a>>,
) -> Result<Bytes, CodecError> {
    let calls = calls.map(|call| {
        let BatchedCall {
            id,
            method,
            time_left,
            message_id,
            arguments,
        } = call;
        WireCall(id, method, time_left, message_id, ByteString(arguments))
    });
    Codec::MsgPack.encode(&calls.collect::<Vec<_>>())
}

/// A list whose length is checked before any entry is decoded: an entry of seven bytes takes a hundred in
/// memory.
struct BoundedList<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for BoundedList<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedList<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let count = entries.size_hint().unwrap_or_default();
        if count > MAX_BATCH {
            let text = format!("{count} {} in a message, the limit is {MAX_BATCH}", self.0);
            return Err(serde::de::Error::custom(text));
        }
        let mut all = Vec::with_capacity(count);
        while let Some(entry) = entries.next_element()? {
            all.push(entry);
        }
        Ok(all)
    }
}

/// Decodes the body of a message that carries calls.
///
/// # Errors
/// It is not a batch, or has more than [`MAX_BATCH`] calls.
pub(crate) fn decode_calls(body: &[u8]) -> Result<Vec<BatchedCall<'_>>, CodecError> {
    let calls = BoundedList::<WireCall<'_>>("calls", PhantomData);
    let calls = Codec::MsgPack.decode_seed(calls, body)?;
    Ok(calls
        .into_iter()
        .map(
            |WireCall(id, method, time_left, message_id, ByteString(arguments))| BatchedCall {
                id,
                method,
                time_left,
                message_id,
                arguments,
            },
        )
        .collect())
}

/// Encodes the body of a message that carries replies.
pub(crate) fn encode_replies(replies: &[BatchedReply]) -> Result<Bytes, CodecError> {
    let replies = replies.iter().map(|reply| {
        let (status, message) = reply.status.parts();
        WireReply(reply.id, status, message, ByteString(&reply.body))
    });
    Codec::MsgPack.encode(&replies.collect::<Vec<_>>())
}

/// Decodes the body of a message that carries replies. Their bodies share its memory.
///
/// # Errors
/// It is not a batch, or has more than [`MAX_BATCH`] replies.
pub(crate) fn decode_replies(body: &Bytes) -> Result<Vec<BatchedReply>, CodecError> {
    let replies = BoundedList::<WireReply<'_>>("replies", PhantomData);
    let replies = Codec::MsgPack.decode_seed(replies, body)?;
    Ok(replies
        .into_iter()
        .map(
            |WireReply(id, status, message, ByteString(value))| BatchedReply {
                id,
                status: ReplyStatus::from_parts(status, message.as_deref()),
                body: body.slice_ref(value),
            },
        )
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{Code, Status};
    use proptest::prelude::*;

    #[test]
    fn calls_byte_for_byte() {
        let call = BatchedCall {
            id: 7,
            method: "fib",
            time_left: 9000,
            message_id: None,
            arguments: b"\x81\xa1n\x1e",
        };
        let body = encode_calls([call].into_iter()).unwrap();
        assert_eq!(
            &body[..],
            b"\x91\x95\x07\xa3fib\xcd\x23\x28\xc0\xc4\x04\x81\xa1n\x1e"
        );
    }

    #[test]
    fn replies_decode_to_what_was_encoded() {
        let reply = |id, status, body: &'static [u8]| BatchedReply {
            id,
            status,
            body: Bytes::from_static(body),
        };
        let status = Status::new(Code::Internal, "broken");
        let replies = [
            reply(1, ReplyStatus::Success, b"\x1e"),
            reply(2, ReplyStatus::Application, b"\xa1x"),
            reply(u64::MAX, ReplyStatus::Failed(status), b""),
        ];
        let body = encode_replies(&replies).unwrap();
        assert_eq!(decode_replies(&body).unwrap(), replies);
    }

    #[test]
    fn the_count_is_checked_before_anything_is_decoded() {
        // No entry follows, so that an error can only be about the count.
        for (count, header) in [
            (4097, &b"\xdc\x10\x01"[..]),
            (4097, b"\xdd\x00\x00\x10\x01"),
            (u32::MAX, b"\xdd\xff\xff\xff\xff"),
        ] {
            let error = decode_calls(header).unwrap_err().to_string();
            let expected = format!("{count} calls in a message, the limit is 4096");
            assert!(error.contains(&expected), "{error}");
            let error = decode_replies(&Bytes::copy_from_slice(header)).unwrap_err();
            let expected = format!("{count} replies in a message, the limit is 4096");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        let call = b"\x95\x00\xa0\x00\xc0\xc4\x00";
        let most = [&b"\xdc\x10\x00"[..], &call.repeat(MAX_BATCH)].concat();
        assert_eq!(decode_calls(&most).unwrap().len(), MAX_BATCH);
    }

    proptest! {
        #[test]
        fn calls_decode_to_what_was_encoded(
            calls in prop::collection::vec(
                (any::<u64>(), ".{0,20}", any::<u64>(), prop::option::of(".{0,9}"), any::<Vec<u8>>()),
                0..9,
            ),
        ) {
            let calls = || calls.iter().map(|(id, method, time_left, message_id, arguments)| BatchedCall {
                id: *id,
                method,
                time_left: *time_left,
                message_id: message_id.as_deref(),
                arguments,
            });
            let body = encode_calls(calls()).unwrap();
            prop_assert_eq!(decode_calls(&body).unwrap(), calls().collect::<Vec<_>>());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_calls(&bytes);
            let _ = decode_replies(&Bytes::from(bytes));
        }
    }
}
