//! Heads of the messages of an opened stream: its opening, items, credit, probes, and the end of a client's items. The
//! request that asks for a stream and the reply that ends it are ordinary ones.

use std::fmt;
use std::num::NonZeroU64;

use super::property::non_empty;
use crate::wire::message::Properties;
use crate::wire::value::{Table, Value};

/// Header of a request that asks for a stream: the number of items that may be sent before more credit comes.
pub(super) const STREAM: &str = "rpc-stream";

/// The kind of a message of a stream. It is the `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamMessage {
    /// The server has opened the stream, and has no item yet. To a client that sends items, its body is their credit.
    Open,
    /// One item, which is the body.
    Item,
    /// Several items, which are a list of bytes ([`items`](crate::wire::batch::Items)).
    Items,
    /// The number of items that may be sent in total.
    Credit,
    /// The client has sent all of its items.
    End,
    /// The server reads no further item of the client.
    Stop,
    /// Nothing: it is returned if the other side's queue is gone.
    Probe,
}

impl StreamMessage {
    const ALL: [Self; 7] = [
        Self::Item,
        Self::Items,
        Self::Credit,
        Self::Open,
        Self::End,
        Self::Stop,
        Self::Probe,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "lepus.open/1",
            Self::Item => "lepus.item/1",
            Self::Items => "lepus.items/1",
            Self::Credit => "lepus.credit/1",
            Self::End => "lepus.end/1",
            Self::Stop => "lepus.stop/1",
            Self::Probe => "lepus.probe/1",
        }
    }

    /// The kind of a message with these properties. `None` if it is no message of an opened stream.
    pub(crate) fn of(properties: &Properties) -> Option<Self> {
        let kind = properties.kind.as_deref()?;
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

/// A position in a stream, as the `message_id`: `<run>-<number>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamPosition {
    /// The execution that the message belongs to.
    pub(crate) run: String,
    /// The number of items that its sender has sent before.
    pub(crate) number: u64,
}

impl StreamPosition {
    /// Reads a `message_id`. `None` if it is none of a stream.
    pub(crate) fn parse(message_id: &str) -> Option<Self> {
        let (run, number) = message_id.rsplit_once('-')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if run.is_empty() || !is_number {
            return None;
        }
        Some(Self {
            run: run.to_owned(),
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.run, self.number)
    }
}

/// The head of a message of an opened stream. It has no headers, and its encoding is that of the request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamHead {
    pub(crate) kind: StreamMessage,
    /// That of the request.
    pub(crate) correlation_id: Vec<u8>,
    /// The queue of the sender, for the messages of the other side.
    pub(crate) reply_to: String,
    pub(crate) position: StreamPosition,
}

impl StreamHead {
    pub(crate) fn into_properties(self) -> Properties {
        Properties {
            kind: Some(self.kind.as_str().to_owned()),
            correlation_id: Some(self.correlation_id),
            reply_to: Some(self.reply_to),
            message_id: Some(self.position.to_string()),
            ..Properties::default()
        }
    }

    /// Reads a head. `None` if it is that of another message, or lacks a part.
    pub(crate) fn from_properties(properties: Properties) -> Option<Self> {
        Some(Self {
            kind: StreamMessage::of(&properties)?,
            correlation_id: properties.correlation_id?,
            reply_to: non_empty(properties.reply_to)?,
            position: StreamPosition::parse(&properties.message_id?)?,
        })
    }
}

/// Takes the credit of a request that asks for a stream out of its headers. A number below 1 is 1: without credit
/// nothing could begin.
pub(super) fn take_credit(headers: &mut Table) -> Option<NonZeroU64> {
    let credit = headers.remove(STREAM)?;
    let credit = credit.as_int()?.max(1);
    NonZeroU64::try_from(u64::try_from(credit).ok()?).ok()
}

/// The header [`STREAM`] with this credit.
pub(super) fn credit_header(credit: NonZeroU64) -> (String, Value) {
    let credit = i64::try_from(credit.get()).unwrap_or(i64::MAX);
    (STREAM.to_owned(), credit.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(kind: StreamMessage) -> StreamHead {
        StreamHead {
            kind,
            correlation_id: b"0123456ABab7".to_vec(),
            reply_to: "lepus.stream.7".into(),
            position: StreamPosition {
                run: "3fHq".into(),
                number: 17,
            },
        }
    }

    #[test]
    fn a_message_reads_as_it_was_written() {
        for kind in StreamMessage::ALL {
            let properties = head(kind).into_properties();
            assert_eq!(properties.message_id.as_deref(), Some("3fHq-17"));
            assert!(properties.headers.is_empty(), "each costs the broker");
            assert_eq!(StreamMessage::of(&properties), Some(kind));
            assert_eq!(StreamHead::from_properties(properties), Some(head(kind)));
        }
    }

    #[test]
    fn a_message_that_lacks_a_part_is_none() {
        let read = |change: fn(&mut Properties)| {
            let mut properties = head(StreamMessage::Item).into_properties();
            change(&mut properties);
            StreamHead::from_properties(properties)
        };
        assert!(read(|_| ()).is_some());
        assert_eq!(read(|it| it.kind = Some("lepus.item/2".into())), None);
        assert_eq!(read(|it| it.correlation_id = None), None);
        assert_eq!(read(|it| it.reply_to = Some(String::new())), None);
        assert_eq!(read(|it| it.message_id = None), None);
    }

    #[test]
    fn other_message_ids_are_no_positions() {
        for text in [
            "",
            "-",
            "-7",
            "run",
            "run-",
            "run-x",
            "run-+7",
            "run-99999999999999999999",
        ] {
            assert_eq!(StreamPosition::parse(text), None, "{text}");
        }
    }

    #[test]
    fn credit_is_at_least_one() {
        for (sent, read) in [(i64::MIN, 1), (0, 1), (1, 1), (i64::MAX, i64::MAX as u64)] {
            let mut headers = Table::from([(STREAM.to_owned(), Value::Int(sent))]);
            assert_eq!(take_credit(&mut headers), NonZeroU64::new(read));
            assert!(headers.is_empty());
        }
        let mut headers = Table::from([(STREAM.to_owned(), Value::from("many"))]);
        assert_eq!(take_credit(&mut headers), None);
        assert_eq!(credit_header(NonZeroU64::MAX).1, Value::Int(i64::MAX));
    }

    proptest! {
        #[test]
        fn positions_round_trip(run in "[0-9A-Za-z-]{1,30}", number: u64) {
            let position = StreamPosition { run, number };
            prop_assert_eq!(StreamPosition::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn any_text_is_read(text in ".{0,40}") {
            let _ = StreamPosition::parse(&text);
        }
    }
}
