//! Publish/subscribe: exchanges, publishers, bindings and subscriptions.
//!
//! An exchange is a typed value, by one of its four names: [`Fanout`], [`Direct`], [`Topic`], [`Headers`]. It
//! makes the publishers and subscriptions of its events.

pub use crate::pubsub::{
    Bindings, Broadcast, ByHeaders, ByKey, ByPattern, Direct, Event, EventExchange, EventPublisher,
    Fanout, Gap, Group, GroupEvent, GroupSubscription, Headers, IntoBinding, KeyError, Kind, Match,
    Missed, Mode, Overflow, Pattern, Publish, RoutingKey, Selective, Subscribe, Subscription,
    ToAll, Topic, Undecodable, UnknownTypes,
};
