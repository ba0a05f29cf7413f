//! Subscriptions: the builder, the queue and its bindings on every connection, and the broadcast
//! and group modes as streams and handlers.

mod bindings;
mod broadcast;
mod buffer;
mod group;
mod mode;
mod setup;
mod subscribe;

pub use bindings::Bindings;
pub use broadcast::Subscription;
pub use group::{GroupEvent, GroupSubscription};
pub use mode::{Broadcast, Group, Overflow};
pub use subscribe::Subscribe;
