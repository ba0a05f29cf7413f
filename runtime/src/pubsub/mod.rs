//! Publish/subscribe: typed events over exchanges of the four kinds, heard by broadcast, shared
//! or singleton subscriptions.

mod bindings;
mod broadcast;
mod event;
mod exchange;
mod group;
mod key;
mod kind;
mod matching;
mod outlet;
mod publish;
mod publisher;
mod reader;
mod shelf;
mod station;
mod subscribe;
mod subscription;
mod typing;
mod variant;

pub use bindings::Bindings;
pub use event::{Event, Gap, Missed, Undecodable};
pub use exchange::{Direct, EventExchange, Fanout, Headers, Topic};
pub use group::{GroupSubscription, Held};
pub use key::{KeyError, Pattern, RoutingKey};
pub use kind::{ByHeaders, ByKey, ByPattern, Kind, Selective, ToAll};
pub use matching::Match;
pub use publish::Publish;
pub use publisher::EventPublisher;
pub use reader::Unknown;
pub use subscribe::{Broadcast, Group, Overflow, Subscribe};
pub use subscription::Subscription;
