//! Routing keys: checked when they are made, trusted afterwards.

use std::sync::Arc;

use super::words::{ANY, KeyError, ONE, each_word, short, text};

/// What an event is published under: words with dots between them, 255 bytes at the most.
///
/// A key may be empty, but none of its words may be, and none may be a wildcard: `*` and `#` as
/// whole words belong into a [`Pattern`](super::Pattern). A direct exchange whose keys are no words takes
/// [`RoutingKey::literal`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutingKey(pub(super) Arc<str>);

impl RoutingKey {
    /// Parses a key.
    ///
    /// # Errors
    /// [`KeyError`], which shows the offending part.
    pub fn parse(key: impl AsRef<str>) -> Result<Self, KeyError> {
        let key = key.as_ref();
        each_word(key, |word| match word {
            ONE | ANY => Err(KeyError::Wildcard {
                word: word.to_owned(),
                key: key.to_owned(),
            }),
            _ => Ok(()),
        })?;
        Ok(Self(key.into()))
    }

    /// Any text as it is, `*`, `#` and empty words included: a topic exchange sees no wildcards
    /// in a routing key, and a direct one sees no words at all.
    ///
    /// # Errors
    /// [`KeyError`] when it is longer than 255 bytes or holds a control character.
    pub fn literal(key: impl AsRef<str>) -> Result<Self, KeyError> {
        let key = key.as_ref();
        short(key)?;
        Ok(Self(key.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

text!(RoutingKey);
