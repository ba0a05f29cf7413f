//! Syntax that routing keys and topic patterns share: AMQP short strings of words separated by
//! dots.

use crate::error::Error;
use crate::wire::name::SHORT_STRING_MAX;

/// The wildcard of a topic pattern that stands for exactly one word.
pub(super) const ONE_WORD: &str = "*";
/// The wildcard of a topic pattern that stands for any number of words.
pub(super) const ANY_WORDS: &str = "#";

/// Error returned when a [`RoutingKey`](super::RoutingKey) or a [`Pattern`](super::Pattern) cannot
/// be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is longer than an AMQP short string can be.
    #[error("a routing key can be 255 bytes long at most, this one has {length}: `{start}…`")]
    TooLong {
        /// The length found, in bytes.
        length: usize,
        /// The first characters of the text.
        start: String,
    },
    /// The text contains a control character, such as NUL.
    #[error("a control character in `{key}` (at byte {at})")]
    Control {
        /// The text, with the character escaped.
        key: String,
        /// The position of the character, in bytes.
        at: usize,
    },
    /// Two dots follow each other, or one is at the start or at the end.
    #[error("word {number} of `{key}` is empty")]
    EmptyWord {
        /// The whole text.
        key: String,
        /// The number of the empty word, from 1.
        number: usize,
    },
    /// A wildcard in a routing key.
    #[error("`{word}` in `{key}`: wildcards are for binding patterns, not for routing keys")]
    Wildcard {
        /// The wildcard.
        word: String,
        /// The whole text.
        key: String,
    },
    /// A wildcard beside other characters in one word of a pattern.
    #[error("`{word}` in `{pattern}`: `*` and `#` are whole words or none")]
    PartOfAWord {
        /// The word.
        word: String,
        /// The whole text.
        pattern: String,
    },
}

/// Splits as RabbitMQ does: the empty key has no words.
pub(super) fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').filter(move |_| !key.is_empty())
}

pub(super) fn check_length_and_characters(key: &str) -> Result<(), KeyError> {
    if key.len() > SHORT_STRING_MAX {
        return Err(KeyError::TooLong {
            length: key.len(),
            start: key.chars().take(40).collect(),
        });
    }
    match key.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(KeyError::Control {
            key: key.escape_debug().to_string(),
            at,
        }),
        None => Ok(()),
    }
}

pub(super) fn check_words(
    key: &str,
    check_word: impl Fn(&str) -> Result<(), KeyError>,
) -> Result<(), KeyError> {
    check_length_and_characters(key)?;
    for (index, word) in words(key).enumerate() {
        if word.is_empty() {
            return Err(KeyError::EmptyWord {
                key: key.to_owned(),
                number: index + 1,
            });
        }
        check_word(word)?;
    }
    Ok(())
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::invalid(error.to_string())
    }
}
