//! From a message to an event, or to word of why it is none.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

use super::event::{Event, Letter, Missed, Undecodable};
use super::typing::{Refusal, Typing};
use crate::queue;
use crate::stats::Counters;
use crate::wire::codec::Codec;

/// What becomes of events whose type a subscription does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// They are passed over, and counted.
    #[default]
    Skip,
    /// They are given out as [`Missed::UnknownType`]; on a shared or singleton subscription they
    /// end in the dead-letter queue.
    Surface,
}

/// Reads what one subscription receives.
pub(super) struct Reader<T> {
    codec: Codec,
    typing: Typing,
    unknown: Unknown,
    limit: usize,
    counters: Arc<Counters>,
    skipped: Arc<AtomicU64>,
    gives: PhantomData<fn() -> T>,
}

/// What a message turned out to be.
pub(super) enum Read<T> {
    Event(Event<T>),
    Missed(Missed),
    Skipped,
}

impl<T> Reader<T> {
    pub(super) fn new(
        codec: Codec,
        typing: Typing,
        unknown: Unknown,
        limit: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            codec,
            typing,
            unknown,
            limit,
            counters,
            skipped: Arc::default(),
            gives: PhantomData,
        }
    }

    pub(super) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}

impl<T: DeserializeOwned> Reader<T> {
    pub(super) fn read(&self, letter: Letter) -> Read<T> {
        let (reason, is_unknown) = match self.decode(&letter) {
            Ok(payload) => {
                let context = letter.context;
                return Read::Event(Event { payload, context });
            }
            Err(Refusal::Unknown(reason)) => (reason, true),
            Err(Refusal::Malformed(reason)) => (reason, false),
        };
        if is_unknown && self.unknown == Unknown::Skip {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            self.counters.skipped_events.add();
            return Read::Skipped;
        }
        let letter = Box::new(letter);
        let refused = Undecodable { letter, reason };
        if is_unknown {
            return Read::Missed(Missed::UnknownType(refused));
        }
        self.counters.malformed.add();
        Read::Missed(Missed::Undecodable(refused))
    }

    fn decode(&self, letter: &Letter) -> Result<T, Refusal> {
        let kind = letter.info().kind.as_deref();
        match self.codec(letter) {
            Ok(codec) => self.typing.decode(kind, codec, &letter.body),
            // What is not looked for may well be large, or encoded in another way.
            Err(reason) => match self.typing.decode::<T>(kind, self.codec, b"") {
                Err(unknown @ Refusal::Unknown(_)) => Err(unknown),
                _ => Err(Refusal::Malformed(reason)),
            },
        }
    }

    /// How to decode it, if it is to be decoded.
    fn codec(&self, letter: &Letter) -> Result<Codec, String> {
        let size = letter.body.len();
        if size > self.limit {
            let limit = self.limit;
            return Err(format!("it has {size} bytes, the limit is {limit}"));
        }
        queue::payload_codec(self.codec, letter.info().content_type.as_deref())
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec,
            typing: self.typing.clone(),
            unknown: self.unknown,
            limit: self.limit,
            counters: Arc::clone(&self.counters),
            skipped: Arc::clone(&self.skipped),
            gives: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("codec", &self.codec)
            .field("typing", &self.typing)
            .field("unknown", &self.unknown)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{Incoming, Properties};
    use bytes::Bytes;

    fn letter(kind: Option<&str>, content_type: Option<&str>, body: &'static [u8]) -> Letter {
        Incoming {
            exchange: "orders".into(),
            routing_key: "order".into(),
            redelivered: false,
            properties: Properties {
                kind: kind.map(str::to_owned),
                content_type: content_type.map(str::to_owned),
                ..Properties::default()
            },
            size: body.len() as u32,
            body: Bytes::from_static(body),
        }
        .into()
    }

    fn reader(typing: Typing, unknown: Unknown) -> Reader<u64> {
        Reader::new(Codec::Json, typing, unknown, 8, Arc::default())
    }

    #[test]
    fn an_event_is_read_by_its_own_content_type() {
        let reader = reader(Typing::Payload, Unknown::Skip);
        for (content_type, body) in [
            (None, &b"7"[..]),
            (Some("application/msgpack"), b"\x07"),
            (Some("text/plain"), b"7"),
        ] {
            let read = reader.read(letter(None, content_type, body));
            assert!(matches!(read, Read::Event(event) if event.payload == 7));
        }
        for (content_type, body, reason) in [
            (None, &b"seven"[..], "application/json"),
            (Some("application/xml"), b"7", "application/xml"),
            (None, b"123456789", "limit is 8"),
        ] {
            let Read::Missed(Missed::Undecodable(refused)) =
                reader.read(letter(None, content_type, body))
            else {
                panic!("{body:?}");
            };
            assert!(refused.reason().contains(reason), "{refused:?}");
            assert_eq!((&refused.bytes()[..], refused.key()), (body, "order"));
        }
    }

    #[test]
    fn other_types_are_skipped_and_counted_or_surfaced() {
        let typing = || Typing::Named("paid".into());
        let placed = || letter(Some("placed"), Some("application/xml"), b"<placed/>");
        let skipping = reader(typing(), Unknown::Skip);
        assert!(matches!(skipping.read(placed()), Read::Skipped));
        assert_eq!(
            (skipping.skipped(), skipping.counters.read().skipped_events),
            (1, 1)
        );
        let surfacing = reader(typing(), Unknown::Surface);
        let read = surfacing.read(placed());
        assert!(matches!(read, Read::Missed(Missed::UnknownType(_))));
        assert_eq!(surfacing.skipped(), 0);
    }
}
