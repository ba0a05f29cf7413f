//! Publish/subscribe: typed events over exchanges of the four kinds, heard by broadcast, shared
//! or singleton subscriptions.

mod bindings;
mod broadcast;
mod event;
mod exchange;
mod exchange_publisher;
mod group;
mod key;
mod kind;
mod matching;
mod pattern;
mod publish;
mod publisher;
mod reader;
mod shelf;
mod spec;
mod station;
mod subscribe;
mod subscription;
mod typing;
mod variant;
mod words;

pub use bindings::Bindings;
pub use event::{Event, Gap, Missed, Undecodable};
pub use exchange::{Direct, EventExchange, Fanout, Headers, Topic};
pub use group::{GroupSubscription, Held};
pub use key::RoutingKey;
pub use kind::{ByHeaders, ByKey, ByPattern, Kind, Selective, ToAll};
pub use matching::Match;
pub use pattern::Pattern;
pub use publish::Publish;
pub use publisher::EventPublisher;
pub use reader::Unknown;
pub use subscribe::{Broadcast, Group, Overflow, Subscribe};
pub use subscription::Subscription;
pub use words::KeyError;
