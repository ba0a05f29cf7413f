//! Decoding of received messages to events.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

use super::event_type::{DecodeError, EventTyping};
use super::missed::{Missed, Undecodable};
use super::received::{Event, RawEvent};
use crate::queue;
use crate::stats::Counters;
use crate::wire::codec::Codec;

/// Treatment of events whose type a subscription does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownTypes {
    /// They are skipped and counted.
    #[default]
    Skip,
    /// They are reported as [`Missed::UnknownType`]. On a shared or singleton subscription they also
    /// go to the dead-letter queue.
    Surface,
}

/// Decodes the messages of one subscription.
pub struct EventDecoder<T> {
    codec: Codec,
    typing: EventTyping,
    unknown: UnknownTypes,
    max_size: usize,
    counters: Arc<Counters>,
    skipped: Arc<AtomicU64>,
    payload: PhantomData<fn() -> T>,
}

/// The result of decoding a message.
pub(in crate::pubsub) enum Decoded<T> {
    Event(Event<T>),
    Missed(Missed),
    Skipped,
}

impl<T> EventDecoder<T> {
    pub(in crate::pubsub) fn new(
        codec: Codec,
        typing: EventTyping,
        unknown: UnknownTypes,
        max_size: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            codec,
            typing,
            unknown,
            max_size,
            counters,
            skipped: Arc::default(),
            payload: PhantomData,
        }
    }

    pub(in crate::pubsub) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
}

impl<T: DeserializeOwned> EventDecoder<T> {
    pub(in crate::pubsub) fn decode(&self, event: RawEvent) -> Decoded<T> {
        let (reason, is_unknown) = match self.payload(&event) {
            Ok(payload) => {
                let RawEvent { context, body } = event;
                return Decoded::Event(Event {
                    payload,
                    body,
                    context,
                });
            }
            Err(DecodeError::UnknownType(reason)) => (reason, true),
            Err(DecodeError::Malformed(reason)) => (reason, false),
        };
        if is_unknown && self.unknown == UnknownTypes::Skip {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            self.counters.skipped_events.add();
            return Decoded::Skipped;
        }
        let event = Box::new(event);
        let undecodable = Undecodable { event, reason };
        if is_unknown {
            return Decoded::Missed(Missed::UnknownType(undecodable));
        }
        self.counters.malformed.add();
        Decoded::Missed(Missed::Undecodable(undecodable))
    }

    fn payload(&self, event: &RawEvent) -> Result<T, DecodeError> {
        let event_type = event.info().kind.as_deref();
        match self.codec(event) {
            Ok(codec) => self.typing.decode(event_type, codec, &event.body),
            // An event of another type may be too large or use an unknown codec: it is reported as
            // of another type all the same.
            Err(reason) => match self.typing.decode::<T>(event_type, self.codec, b"") {
                Err(unknown @ DecodeError::UnknownType(_)) => Err(unknown),
                _ => Err(DecodeError::Malformed(reason)),
            },
        }
    }

    /// The codec by the event's content type, if the body is not too large.
    fn codec(&self, event: &RawEvent) -> Result<Codec, String> {
        let (size, limit) = (event.body.len(), self.max_size);
        if size > limit {
            return Err(format!("it has {size} bytes, the limit is {limit}"));
        }
        queue::payload_codec(self.codec, event.info().content_type.as_deref())
    }
}

impl<T> Clone for EventDecoder<T> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec,
            typing: self.typing.clone(),
            unknown: self.unknown,
            max_size: self.max_size,
            counters: Arc::clone(&self.counters),
            skipped: Arc::clone(&self.skipped),
            payload: PhantomData,
        }
    }
}

impl<T> fmt::Debug for EventDecoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventDecoder")
            .field("codec", &self.codec)
            .field("typing", &self.typing)
            .field("unknown", &self.unknown)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{IncomingMessage, Properties};
    use bytes::Bytes;

    fn event(
        event_type: Option<&str>,
        content_type: Option<&str>,
        body: &'static [u8],
    ) -> RawEvent {
        IncomingMessage {
            exchange: "orders".into(),
            routing_key: "order".into(),
            redelivered: false,
            properties: Properties {
                kind: event_type.map(str::to_owned),
                content_type: content_type.map(str::to_owned),
                ..Properties::default()
            },
            size: body.len() as u32,
            body: Bytes::from_static(body),
        }
        .into()
    }

    fn decoder(typing: EventTyping, unknown: UnknownTypes) -> EventDecoder<u64> {
        EventDecoder::new(Codec::Json, typing, unknown, 8, Arc::default())
    }

    #[test]
    fn an_event_is_decoded_by_its_own_content_type() {
        let decoder = decoder(EventTyping::Payload, UnknownTypes::Skip);
        for (content_type, body) in [
            (None, &b"7"[..]),
            (Some("application/msgpack"), b"\x07"),
            (Some("text/plain"), b"7"),
        ] {
            let decoded = decoder.decode(event(None, content_type, body));
            assert!(matches!(decoded, Decoded::Event(event) if event.payload == 7));
        }
        for (content_type, body, reason) in [
            (None, &b"seven"[..], "application/json"),
            (Some("application/xml"), b"7", "application/xml"),
            (None, b"123456789", "limit is 8"),
        ] {
            let Decoded::Missed(Missed::Undecodable(undecodable)) =
                decoder.decode(event(None, content_type, body))
            else {
                panic!("{body:?}");
            };
            assert!(undecodable.reason().contains(reason), "{undecodable:?}");
            assert_eq!(
                (&undecodable.bytes()[..], undecodable.key()),
                (body, "order")
            );
        }
    }

    #[test]
    fn other_types_are_skipped_and_counted_or_surfaced() {
        let typing = || EventTyping::Named("paid".into());
        let placed = || event(Some("placed"), Some("application/xml"), b"<placed/>");
        let skipping = decoder(typing(), UnknownTypes::Skip);
        assert!(matches!(skipping.decode(placed()), Decoded::Skipped));
        assert_eq!(
            (skipping.skipped(), skipping.counters.read().skipped_events),
            (1, 1)
        );
        let surfacing = decoder(typing(), UnknownTypes::Surface);
        let decoded = surfacing.decode(placed());
        assert!(matches!(decoded, Decoded::Missed(Missed::UnknownType(_))));
        assert_eq!(surfacing.skipped(), 0);
    }
}
