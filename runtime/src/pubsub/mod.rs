//! Publish/subscribe: exchanges of the four types as typed values, their publishers, and
//! subscriptions in broadcast, shared and singleton mode.

mod binding;
mod event;
mod exchange;
mod exchange_publisher;
mod options;
mod publish;
mod publisher;
mod spec;
mod subscription;

pub use binding::{
    ByHeaders, ByKey, ByPattern, IntoBinding, KeyError, Kind, Match, Pattern, RoutingKey,
    Selective, ToAll,
};
pub use event::{Event, Gap, Missed, Undecodable, UnknownTypes};
pub use exchange::{Direct, EventExchange, Fanout, Headers, Topic};
pub use publish::Publish;
pub use publisher::EventPublisher;
pub use subscription::{
    Bindings, Broadcast, Group, GroupEvent, GroupSubscription, Mode, Overflow, Subscribe,
    Subscription,
};
