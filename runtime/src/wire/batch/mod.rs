//! Batches: the bodies of messages that carry several calls or several replies. Both are MessagePack
//! arrays, whatever codec the arguments and values in them use.

mod cancelled;
mod entries;
mod headers;
mod items;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::ser::SerializeTupleStruct;
use serde::{Deserializer, Serialize, Serializer};

use crate::wire::codec::{Codec, CodecError};
use crate::wire::envelope::ReplyStatus;
use crate::wire::trace_headers::TraceHeaders;
use crate::wire::value::Table;
pub(crate) use cancelled::{MAX_CANCELLED_IDS, decode_cancelled, encode_cancelled, id_in_batch};
pub(crate) use entries::MAX_BATCH;
use entries::{BoundedList, ByteString};
use headers::{CallHeadersSeed, HeaderBudget, HeaderMap, TableSeed};
pub(crate) use items::{Items, MAX_ITEMS_SIZE, decode_credit, encode_credit, encode_items};

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
    pub(crate) headers: Cow<'a, Table>,
    pub(crate) trace: Cow<'a, TraceHeaders>,
}

/// One reply of a batch.
#[derive(Debug, PartialEq)]
pub(crate) struct BatchedReply {
    pub(crate) id: u64,
    pub(crate) status: ReplyStatus,
    pub(crate) body: Bytes,
    pub(crate) headers: Table,
}

impl BatchedReply {
    /// Its headers, with those of its status.
    fn all_headers(&self) -> Cow<'_, Table> {
        if !self.status.has_headers() {
            return Cow::Borrowed(&self.headers);
        }
        let mut headers = self.headers.clone();
        self.status.add_headers(&mut headers);
        Cow::Owned(headers)
    }

    /// The most bytes that its headers take. `None` if a batch cannot carry them, as with
    /// [`size_of_headers`]; those of its status it can.
    pub(crate) fn size_of_headers(&self) -> Option<usize> {
        size_of_headers(&self.all_headers(), &TraceHeaders::new())
    }
}

/// A reply as it is written: an array of four. An array of five if the reply or its status has headers: they
/// are the fifth.
struct WireReply<'a>(&'a BatchedReply);

impl Serialize for WireReply<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let BatchedReply {
            id, status, body, ..
        } = self.0;
        let (status, message) = status.parts();
        let headers = HeaderMap {
            headers: &self.0.all_headers(),
            trace: &TraceHeaders::new(),
        };
        let has_headers = !headers.is_empty();
        let length = if has_headers { 5 } else { 4 };
        let mut reply = serializer.serialize_tuple_struct("reply", length)?;
        reply.serialize_field(id)?;
        reply.serialize_field(&status)?;
        reply.serialize_field(&message)?;
        reply.serialize_field(&ByteString(body))?;
        if has_headers {
            reply.serialize_field(&headers)?;
        }
        reply.end()
    }
}

/// A decoded reply, whose body is a part of the message.
struct ReceivedBatchedReply<'a> {
    id: u64,
    status: ReplyStatus,
    body: &'a [u8],
    headers: Table,
}

/// Decodes a reply: an array of four or five.
#[derive(Clone, Copy)]
struct ReplySeed<'b>(&'b HeaderBudget);

impl<'de> DeserializeSeed<'de> for ReplySeed<'_> {
    type Value = ReceivedBatchedReply<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReplySeed<'_> {
    type Value = ReceivedBatchedReply<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reply, an array of four or five")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut reply: A) -> Result<Self::Value, A::Error> {
        let missing = |count| serde::de::Error::invalid_length(count, &self);
        let id = reply.next_element()?.ok_or_else(|| missing(0))?;
        let status: Option<&str> = reply.next_element()?.ok_or_else(|| missing(1))?;
        let message: Option<Cow<'_, str>> = reply.next_element()?.ok_or_else(|| missing(2))?;
        let ByteString(body) = reply.next_element()?.ok_or_else(|| missing(3))?;
        let headers = reply.next_element_seed(TableSeed(self.0))?;
        let mut headers = headers.unwrap_or_default();
        Ok(ReceivedBatchedReply {
            id,
            status: ReplyStatus::from_parts(status, message.as_deref(), &mut headers),
            body,
            headers,
        })
    }
}

/// The most bytes that the headers and the trace of a call take in a batch. `None` if a batch cannot carry
/// them: a name is longer than AMQP allows, or they are nested too deeply.
pub(crate) fn size_of_headers(headers: &Table, trace: &TraceHeaders) -> Option<usize> {
    HeaderMap { headers, trace }.size()
}

/// An array of five. An array of six if the call has headers: they are the sixth.
impl Serialize for BatchedCall<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = HeaderMap {
            headers: &self.headers,
            trace: &self.trace,
        };
        let has_headers = !headers.is_empty();
        let length = if has_headers { 6 } else { 5 };
        let mut call = serializer.serialize_tuple_struct("call", length)?;
        call.serialize_field(&self.id)?;
        call.serialize_field(self.method)?;
        call.serialize_field(&self.time_left)?;
        call.serialize_field(&self.message_id)?;
        call.serialize_field(&ByteString(self.arguments))?;
        if has_headers {
            call.serialize_field(&headers)?;
        }
        call.end()
    }
}

/// Decodes a call: an array of five or six.
#[derive(Clone, Copy)]
struct CallSeed<'b>(&'b HeaderBudget);

impl<'de> DeserializeSeed<'de> for CallSeed<'_> {
    type Value = BatchedCall<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CallSeed<'_> {
    type Value = BatchedCall<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call, an array of five or six")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut call: A) -> Result<Self::Value, A::Error> {
        let missing = |count| serde::de::Error::invalid_length(count, &self);
        let id = call.next_element()?.ok_or_else(|| missing(0))?;
        let method = call.next_element()?.ok_or_else(|| missing(1))?;
        let time_left = call.next_element()?.ok_or_else(|| missing(2))?;
        let message_id = call.next_element()?.ok_or_else(|| missing(3))?;
        let ByteString(arguments) = call.next_element()?.ok_or_else(|| missing(4))?;
        let headers = call.next_element_seed(CallHeadersSeed(self.0))?;
        let (headers, trace) = headers.unwrap_or_default();
        Ok(BatchedCall {
            id,
            method,
            time_left,
            message_id,
            arguments,
            headers: Cow::Owned(headers),
            trace: Cow::Owned(trace),
        })
    }
}

/// Encodes the body of a message that carries calls.
pub(crate) fn encode_calls<'a>(
    calls: impl Iterator<Item = BatchedCall<'a>>,
) -> Result<Bytes, CodecError> {
    Codec::MsgPack.encode(&calls.collect::<Vec<_>>())
}

/// Decodes the body of a message that carries calls.
///
/// # Errors
/// It is not a batch, or has more than [`MAX_BATCH`] calls, or too many values in their headers.
pub(crate) fn decode_calls(body: &[u8]) -> Result<Vec<BatchedCall<'_>>, CodecError> {
    let budget = HeaderBudget::new();
    let calls = BoundedList {
        name: "calls",
        entry: CallSeed(&budget),
    };
    Codec::MsgPack.decode_seed(calls, body)
}

/// Encodes the body of a message that carries replies.
pub(crate) fn encode_replies(replies: &[BatchedReply]) -> Result<Bytes, CodecError> {
    let replies = replies.iter().map(WireReply);
    Codec::MsgPack.encode(&replies.collect::<Vec<_>>())
}

/// Decodes the body of a message that carries replies. Their bodies share its memory.
///
/// # Errors
/// It is not a batch, or has more than [`MAX_BATCH`] replies.
pub(crate) fn decode_replies(body: &Bytes) -> Result<Vec<BatchedReply>, CodecError> {
    let budget = HeaderBudget::new();
    let replies = BoundedList {
        name: "replies",
        entry: ReplySeed(&budget),
    };
    let replies = Codec::MsgPack.decode_seed(replies, body)?;
    Ok(replies
        .into_iter()
        .map(|reply| BatchedReply {
            id: reply.id,
            status: reply.status,
            body: body.slice_ref(reply.body),
            headers: reply.headers,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::{Code, Status};
    use crate::wire::value::Value;
    use proptest::prelude::*;
    use std::time::Duration;

    fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
        entries.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn call(headers: Table, trace: Table) -> BatchedCall<'static> {
        BatchedCall {
            id: 7,
            method: "fib",
            time_left: 9000,
            message_id: None,
            arguments: b"\x81\xa1n\x1e",
            headers: Cow::Owned(headers),
            trace: Cow::Owned(trace.into()),
        }
    }

    #[test]
    fn calls_byte_for_byte() {
        let body = encode_calls([call(Table::new(), Table::new())].into_iter()).unwrap();
        assert_eq!(
            &body[..],
            b"\x91\x95\x07\xa3fib\xcd\x23\x28\xc0\xc4\x04\x81\xa1n\x1e"
        );
        let headers = table([("tenant", "hare".into())]);
        let trace = table([("baggage", "x".into())]);
        let body = encode_calls([call(headers, trace)].into_iter()).unwrap();
        assert_eq!(
            &body[..],
            b"\x91\x96\x07\xa3fib\xcd\x23\x28\xc0\xc4\x04\x81\xa1n\x1e\
              \x82\xa6tenant\xa4hare\xa7baggage\xa1x"
        );
    }

    #[test]
    fn every_value_of_a_header_survives() {
        let timestamps = [0, 1_700_000_000, u32::MAX.into(), 1 << 32, u64::MAX];
        let timestamps = timestamps.map(Value::Timestamp);
        let headers = table([
            ("bool", true.into()),
            (
                "numbers",
                vec![Value::Int(i64::MIN), Value::Int(i64::MAX), Value::Int(-7)].into(),
            ),
            (
                "floats",
                vec![Value::Float(1.5), Value::Float(f64::NEG_INFINITY)].into(),
            ),
            ("text", "häse".into()),
            ("bytes", b"\xff\x00".to_vec().into()),
            ("times", timestamps.to_vec().into()),
            (
                "nested",
                table([("list", vec![Value::Null, table([]).into()].into())]).into(),
            ),
            ("nothing", Value::Null),
        ]);
        let sent = call(headers, table([("traceparent", "00-1-2-01".into())]));
        let body = encode_calls([&sent].into_iter().map(|sent| BatchedCall {
            headers: Cow::Borrowed(&sent.headers),
            trace: Cow::Borrowed(&sent.trace),
            ..*sent
        }));
        let body = body.unwrap();
        assert_eq!(decode_calls(&body).unwrap(), [sent]);
    }

    #[test]
    fn headers_of_other_writers_are_read() {
        let read = |headers: &[u8]| {
            let call = [&b"\x91\x96\x07\xa1x\x01\xc0\xc4\x00"[..], headers].concat();
            let mut calls = decode_calls(&call).unwrap();
            let BatchedCall { headers, trace, .. } = calls.remove(0);
            (headers.into_owned(), trace.as_table().clone())
        };
        assert_eq!(read(b"\x80"), (table([]), table([])));
        // Numbers of each width, a text that is not UTF-8, and timestamps of 64 bits.
        let headers = b"\x84\xa1a\xcc\x07\xa1b\xca\x3f\xc0\x00\x00\xa1c\xa1\xff\
            \xa1d\xd7\xff\x00\x00\x00\x07\x00\x00\x00\x09";
        let expected = table([
            ("a", Value::Int(7)),
            ("b", Value::Float(1.5)),
            ("c", Value::Bytes(vec![0xff])),
            ("d", Value::Timestamp((3 << 32) + 9)),
        ]);
        assert_eq!(read(headers), (expected, table([])));
        let largest = read(b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(largest.0, table([("a", "18446744073709551615".into())]));
        // Reserved names, and the trace.
        let headers = b"\x83\xaarpc-accept\xa1x\xa7x-death\xc0\xabtraceparent\xa1t";
        assert_eq!(
            read(headers),
            (table([]), table([("traceparent", "t".into())]))
        );
    }

    #[test]
    fn an_entry_of_the_trace_replaces_a_header() {
        let sent = call(
            table([("baggage", 1.into())]),
            table([("baggage", 2.into())]),
        );
        let body = encode_calls([sent].into_iter()).unwrap();
        let calls = decode_calls(&body).unwrap();
        assert_eq!(calls, [call(table([]), table([("baggage", 2.into())]))]);
    }

    #[test]
    fn arrays_of_other_lengths_are_no_calls() {
        for calls in [
            &b"\x91\x94\x07\xa1x\x01\xc0"[..],
            b"\x91\x97\x07\xa1x\x01\xc0\xc4\x00\x80\x80",
            b"\x91\x96\x07\xa1x\x01\xc0\xc4\x00",
            b"\x91\xc4\x05\x07\xa1x\x01\xc0",
        ] {
            assert!(decode_calls(calls).is_err(), "{calls:?}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let error = |headers: &[u8]| {
            let call = [&b"\x91\x96\x07\xa1x\x01\xc0\xc4\x00"[..], headers].concat();
            decode_calls(&call).unwrap_err().to_string()
        };
        // No value follows, so that an error can only be about the count.
        for count in [
            &b"\xdf\x00\x01\x00\x01"[..],
            b"\xdf\xff\xff\xff\xff",
            b"\x81\xa1a\xdd\x00\x01\x00\x00",
            b"\x81\xa1a\xdf\xff\xff\xff\xff",
            b"\x81\xa1a\x92\xdd\xff\xff\xff\xff\xc0",
        ] {
            let error = error(count);
            assert!(error.contains("more than 65536 values"), "{error}");
        }
        let deep = [&b"\x81\xa1a"[..], &[0x91; 1 << 20]].concat();
        assert!(error(&deep).contains("depth"), "{}", error(&deep));
        for wrong in [
            // No map, a name that is no text, and one that is not UTF-8.
            &b"\xc0"[..],
            b"\x90",
            b"\x81\x01\x01",
            b"\x81\xa1\xff\x01",
            // An extension type that is not known, timestamps of other lengths, an extension cut off.
            b"\x81\xa1a\xd4\x05\x00",
            b"\x81\xa1a\xd4\xff\x00",
            b"\x81\xa1a\xd8\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x81\xa1a\xc9\xff\xff\xff\xff\xff",
            b"\x81\xa1a",
        ] {
            error(wrong);
        }
    }

    /// The count is that of the message, because a message may have many calls.
    #[test]
    fn the_values_of_all_calls_are_counted_together() {
        let with_values = |count: u16| {
            let [high, low] = (count - 1).to_be_bytes();
            let list = [&[0xdc, high, low][..], &vec![0xc0; usize::from(count) - 1]].concat();
            [&b"\x96\x07\xa1x\x01\xc0\xc4\x00\x81\xa1a"[..], &list].concat()
        };
        let two = |second| [&b"\x92"[..], &with_values(1 << 15), &with_values(second)].concat();
        assert_eq!(decode_calls(&two(1 << 15)).unwrap().len(), 2);
        let error = decode_calls(&two((1 << 15) + 1)).unwrap_err().to_string();
        assert!(error.contains("more than 65536 values"), "{error}");
    }

    #[test]
    fn headers_that_a_batch_cannot_carry_have_no_size() {
        let size = |headers: &Table| size_of_headers(headers, &TraceHeaders::new());
        let nested = |depth| (0..depth).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        assert_eq!(size(&table([])), Some(0));
        assert!(size(&table([("a", nested(64))])).is_some());
        assert_eq!(size(&table([("a", nested(65))])), None);
        assert!(size(&table([(&"a".repeat(255), 1.into())])).is_some());
        let long = table([(&"a".repeat(256), 1.into())]);
        assert_eq!(size(&long), None);
        assert_eq!(size(&table([("a", long.into())])), None);
        // RabbitMQ acts on these, so they stay headers of a message.
        for name in ["CC", "BCC"] {
            let copies = Value::List(vec!["copies".into()]);
            assert_eq!(size(&table([(name, copies)])), None);
        }
        let deepest = call(table([("a", nested(64))]), table([]));
        assert!(decode_calls(&encode_calls([deepest].into_iter()).unwrap()).is_ok());
    }

    #[test]
    fn replies_decode_to_what_was_encoded() {
        let reply = |id, status, body: &'static [u8]| BatchedReply {
            id,
            status,
            body: Bytes::from_static(body),
            headers: table([]),
        };
        let status = Status::new(Code::Internal, "broken");
        let replies = [
            reply(1, ReplyStatus::Success, b"\x1e"),
            reply(2, ReplyStatus::Application, b"\xa1x"),
            reply(u64::MAX, ReplyStatus::Failed(status), b""),
        ];
        let body = encode_replies(&replies).unwrap();
        assert_eq!(decode_replies(&body).unwrap(), replies);
        let headers = table([("x-cache", "hit".into())]);
        let replies = [BatchedReply {
            headers,
            ..reply(2, ReplyStatus::Success, b"\x2a")
        }];
        let body = encode_replies(&replies).unwrap();
        let expected = b"\x91\x95\x02\xc0\xc0\xc4\x01\x2a\x81\xa7x-cache\xa3hit";
        assert_eq!(&body[..], expected);
        assert_eq!(decode_replies(&body).unwrap(), replies);
    }

    #[test]
    fn the_parts_of_a_status_for_programs_are_headers_of_its_reply() {
        let status = Status::new(Code::ResourceExhausted, "busy")
            .with_retry_after(Duration::from_millis(7))
            .with_details(b"\xff");
        let reply = |headers| BatchedReply {
            id: 2,
            status: ReplyStatus::Failed(status.clone()),
            body: Bytes::new(),
            headers,
        };
        let body = encode_replies(&[reply(table([]))]).unwrap();
        let expected = b"\x91\x95\x02\xb2resource_exhausted\xa4busy\xc4\x00\
            \x82\xabrpc-details\xc4\x01\xff\xafrpc-retry-after\x07";
        assert_eq!(&body[..], expected);
        assert_eq!(decode_replies(&body).unwrap(), [reply(table([]))]);
        let replies = [reply(table([("x-cache", "hit".into())]))];
        let body = encode_replies(&replies).unwrap();
        assert_eq!(decode_replies(&body).unwrap(), replies);
        let without = encode_replies(&[BatchedReply {
            id: 2,
            status: ReplyStatus::Failed(Status::new(Code::ResourceExhausted, "busy")),
            body: Bytes::new(),
            headers: table([]),
        }]);
        let size = body.len() - without.unwrap().len();
        assert!(size <= replies[0].size_of_headers().unwrap());
        // Of another writer, without sense: the reply is read without them.
        let body = b"\x91\x95\x02\xb2resource_exhausted\xa4busy\xc4\x00\
            \x82\xabrpc-details\xc0\xafrpc-retry-after\xff";
        let read = decode_replies(&Bytes::from_static(body)).unwrap();
        let nothing = Status::new(Code::ResourceExhausted, "busy");
        assert_eq!(read[0].status, ReplyStatus::Failed(nothing));
        assert!(read[0].headers.is_empty());
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

    fn header() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::Timestamp),
            ".{0,300}".prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                prop::collection::btree_map(".{0,9}", inner, 0..4).prop_map(Value::Table),
            ]
        })
    }

    proptest! {
        #[test]
        fn calls_decode_to_what_was_encoded(
            calls in prop::collection::vec(
                (
                    (any::<u64>(), ".{0,20}", any::<u64>(), prop::option::of(".{0,9}"), any::<Vec<u8>>()),
                    prop::collection::btree_map("[a-d]{0,3}", header(), 0..4),
                ),
                0..9,
            ),
        ) {
            let calls = || calls.iter().map(|(call, headers)| {
                let (id, method, time_left, message_id, arguments) = call;
                BatchedCall {
                    id: *id,
                    method,
                    time_left: *time_left,
                    message_id: message_id.as_deref(),
                    arguments,
                    headers: Cow::Borrowed(headers),
                    trace: Cow::Owned(TraceHeaders::new()),
                }
            });
            for call in calls() {
                let without = BatchedCall {
                    headers: Cow::Owned(Table::new()),
                    trace: Cow::Owned(TraceHeaders::new()),
                    ..call
                };
                let size = size_of_headers(&call.headers, &call.trace).unwrap();
                let [with, without] = [call, without].map(|call| encode_calls([call].into_iter()));
                prop_assert!(with.unwrap().len() - without.unwrap().len() <= size);
            }
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
