//! Subscriptions: the builder, the queue and its bindings on every connection, and the broadcast
//! and group modes as streams and handlers.

mod bindings;
mod broadcast;
mod buffer;
mod group;
mod handler_runner;
mod mode;
mod setup;
mod stream;
mod subscribe;

pub use bindings::Bindings;
pub use group::GroupEvent;
pub use mode::{Broadcast, Group, Overflow};
pub use stream::{GroupSubscription, Mode, Subscription};
pub use subscribe::Subscribe;
