//! Events as subscribers receive them: their metadata, their types, their decoding, and reports of
//! those that could not be delivered.

mod decoder;
mod event_type;
mod missed;
mod received;

pub use decoder::UnknownTypes;
pub(super) use decoder::{Decoded, EventDecoder};
pub(super) use event_type::{EncodedEvent, EventTyping};
pub use missed::{Gap, Missed, Undecodable};
pub use received::Event;
pub(super) use received::RawEvent;
