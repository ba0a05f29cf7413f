//! Bindings of the four exchange types: routing keys, topic patterns and header matches.

mod header_match;
mod into_binding;
mod key;
mod key_syntax;
mod kind;
mod pattern;

pub use header_match::Match;
pub use into_binding::IntoBinding;
pub use key::RoutingKey;
pub use key_syntax::KeyError;
pub use kind::{ByHeaders, ByKey, ByPattern, Kind, Selective, ToAll};
pub use pattern::Pattern;
