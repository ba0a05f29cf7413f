//! The builder of subscriptions, with the options of each mode.

mod broadcast;
mod builder;
mod group;

pub use builder::Subscribe;
