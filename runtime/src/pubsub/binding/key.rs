//! Routing keys, validated when they are created.

use std::sync::Arc;

use super::key_syntax::{ANY_WORDS, KeyError, ONE_WORD, check_length_and_characters, check_words};
use crate::wire::name::text_type;

/// The routing key of an event: words separated by dots, at most 255 bytes.
///
/// A key may be empty, but none of its words may be, and none may be a wildcard: `*` and `#` as
/// whole words belong in a [`Pattern`](super::Pattern). For the keys of a direct exchange, which
/// need not consist of words, there is [`RoutingKey::literal`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutingKey(pub(super) Arc<str>);

impl RoutingKey {
    /// Parses a key.
    ///
    /// # Errors
    /// [`KeyError`], which shows the invalid part.
    pub fn parse(key: impl AsRef<str>) -> Result<Self, KeyError> {
        let key = key.as_ref();
        check_words(key, |word| match word {
            ONE_WORD | ANY_WORDS => Err(KeyError::Wildcard {
                word: word.to_owned(),
                key: key.to_owned(),
            }),
            _ => Ok(()),
        })?;
        Ok(Self(key.into()))
    }

    /// Takes any text, with `*`, `#` and empty words in it: a topic exchange gives wildcards no
    /// meaning in a routing key, and a direct exchange does not divide a key into words.
    ///
    /// # Errors
    /// [`KeyError`] if it is longer than 255 bytes or contains a control character.
    pub fn literal(key: impl AsRef<str>) -> Result<Self, KeyError> {
        let key = key.as_ref();
        check_length_and_characters(key)?;
        Ok(Self(key.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

text_type!(RoutingKey, KeyError);
