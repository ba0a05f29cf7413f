//! Many calls in one message and many replies in one: how the bodies of such messages are written.
//! Both are MessagePack arrays, whatever their calls' arguments are written in.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::ReplyStatus;

/// The most calls in one message, and the most replies.
pub(crate) const MOST: usize = 4096;

/// One call among others.
#[derive(Debug, PartialEq)]
pub(crate) struct Call<'a> {
    /// What its reply names it by.
    pub(crate) id: u64,
    pub(crate) method: &'a str,
    /// Until its caller stops waiting, in milliseconds.
    pub(crate) time_left: u64,
    pub(crate) message_id: Option<&'a str>,
    pub(crate) arguments: &'a [u8],
}

/// One reply among others.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
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
    #[serde(borrow)] Raw<'a>,
);

#[derive(Serialize, Deserialize)]
struct WireAnswer<'a>(
    u64,
    #[serde(borrow)] Option<&'a str>,
    Option<Cow<'a, str>>,
    #[serde(borrow)] Raw<'a>,
);

/// Bytes, which serde would write as a list.
#[derive(Deserialize)]
struct Raw<'a>(#[serde(borrow)] &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The body of a message that carries calls.
pub(crate) fn write_calls<'a>(calls: impl Iterator<Item = Call<'a>>) -> Result<Bytes, CodecError> {
    let calls = calls.map(|call| {
        let Call {
            id,
            method,
            time_left,
            message_id,
            arguments,
        } = call;
        WireCall(id, method, time_left, message_id, Raw(arguments))
    });
    Codec::MsgPack.encode(&calls.collect::<Vec<_>>())
}

/// A list whose count is looked at before anything in it is read: an entry of seven bytes takes a
/// hundred in memory.
struct Bounded<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let count = entries.size_hint().unwrap_or_default();
        if count > MOST {
            let text = format!("{count} {} in a message, the limit is {MOST}", self.0);
            return Err(serde::de::Error::custom(text));
        }
        let mut all = Vec::with_capacity(count);
        while let Some(entry) = entries.next_element()? {
            all.push(entry);
        }
        Ok(all)
    }
}

/// Reads the body of a message that carries calls.
///
/// # Errors
/// It is none, or has more than [`MOST`] calls.
pub(crate) fn read_calls(body: &[u8]) -> Result<Vec<Call<'_>>, CodecError> {
    let calls = Bounded::<WireCall<'_>>("calls", PhantomData);
    let calls = Codec::MsgPack.decode_seed(calls, body)?;
    Ok(calls
        .into_iter()
        .map(
            |WireCall(id, method, time_left, message_id, Raw(arguments))| Call {
                id,
                method,
                time_left,
                message_id,
                arguments,
            },
        )
        .collect())
}

/// The body of a message that carries replies.
pub(crate) fn write_answers(answers: &[Answer]) -> Result<Bytes, CodecError> {
    let answers = answers.iter().map(|answer| {
        let (status, message) = answer.status.parts();
        WireAnswer(answer.id, status, message, Raw(&answer.body))
    });
    Codec::MsgPack.encode(&answers.collect::<Vec<_>>())
}

/// Reads the body of a message that carries replies. Their bodies are parts of it.
///
/// # Errors
/// It is none, or has more than [`MOST`] replies.
pub(crate) fn read_answers(body: &Bytes) -> Result<Vec<Answer>, CodecError> {
    let answers = Bounded::<WireAnswer<'_>>("replies", PhantomData);
    let answers = Codec::MsgPack.decode_seed(answers, body)?;
    Ok(answers
        .into_iter()
        .map(|WireAnswer(id, status, message, Raw(value))| Answer {
            id,
            status: ReplyStatus::from_parts(status, message.as_deref()),
            body: body.slice_ref(value),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{Code, Status};
    use proptest::prelude::*;

    #[test]
    fn calls_byte_for_byte() {
        let call = Call {
            id: 7,
            method: "fib",
            time_left: 9000,
            message_id: None,
            arguments: b"\x81\xa1n\x1e",
        };
        let body = write_calls([call].into_iter()).unwrap();
        assert_eq!(
            &body[..],
            b"\x91\x95\x07\xa3fib\xcd\x23\x28\xc0\xc4\x04\x81\xa1n\x1e"
        );
    }

    #[test]
    fn answers_survive_the_way_there_and_back() {
        let answer = |id, status, body: &'static [u8]| Answer {
            id,
            status,
            body: Bytes::from_static(body),
        };
        let status = Status::new(Code::Internal, "broken");
        let answers = [
            answer(1, ReplyStatus::Success, b"\x1e"),
            answer(2, ReplyStatus::Application, b"\xa1x"),
            answer(u64::MAX, ReplyStatus::Failed(status), b""),
        ];
        let body = write_answers(&answers).unwrap();
        assert_eq!(read_answers(&body).unwrap(), answers);
    }

    #[test]
    fn the_count_is_looked_at_before_anything_is_read() {
        // There is nothing to be read, so that it is the count which is refused.
        for (count, header) in [
            (4097, &b"\xdc\x10\x01"[..]),
            (4097, b"\xdd\x00\x00\x10\x01"),
            (u32::MAX, b"\xdd\xff\xff\xff\xff"),
        ] {
            let error = read_calls(header).unwrap_err().to_string();
            let expected = format!("{count} calls in a message, the limit is 4096");
            assert!(error.contains(&expected), "{error}");
            let error = read_answers(&Bytes::copy_from_slice(header)).unwrap_err();
            let expected = format!("{count} replies in a message, the limit is 4096");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        let call = b"\x95\x00\xa0\x00\xc0\xc4\x00";
        let most = [&b"\xdc\x10\x00"[..], &call.repeat(MOST)].concat();
        assert_eq!(read_calls(&most).unwrap().len(), MOST);
    }

    proptest! {
        #[test]
        fn calls_survive_the_way_there_and_back(
            calls in prop::collection::vec(
                (any::<u64>(), ".{0,20}", any::<u64>(), prop::option::of(".{0,9}"), any::<Vec<u8>>()),
                0..9,
            ),
        ) {
            let calls = || calls.iter().map(|(id, method, time_left, message_id, arguments)| Call {
                id: *id,
                method,
                time_left: *time_left,
                message_id: message_id.as_deref(),
                arguments,
            });
            let body = write_calls(calls()).unwrap();
            prop_assert_eq!(read_calls(&body).unwrap(), calls().collect::<Vec<_>>());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_calls(&bytes);
            let _ = read_answers(&Bytes::from(bytes));
        }
    }
}
