//! What routing keys and binding patterns have in common: short strings of words with dots
//! between them.

use crate::error::Error;
use crate::wire::name::SHORT_STRING_MAX;

/// Stands for one word.
pub(super) const ONE: &str = "*";
/// Stands for any number of words.
pub(super) const ANY: &str = "#";

/// Why a text is no [`RoutingKey`](super::RoutingKey) or no [`Pattern`](super::Pattern).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// AMQP carries routing keys as short strings.
    #[error("a routing key can be 255 bytes long at most, this one has {length}: `{start}…`")]
    TooLong {
        /// The length found, in bytes.
        length: usize,
        /// How it begins.
        start: String,
    },
    /// Control characters (NUL among them) are refused.
    #[error("a control character in `{key}` (at byte {at})")]
    Control {
        /// The text, the character escaped.
        key: String,
        /// Where it stands, in bytes.
        at: usize,
    },
    /// Two dots in a row, or one at an end.
    #[error("word {number} of `{key}` is empty")]
    EmptyWord {
        /// The whole text.
        key: String,
        /// Which of its words, from 1.
        number: usize,
    },
    /// A pattern where a key is wanted.
    #[error("`{word}` in `{key}`: wildcards are for binding patterns, not for routing keys")]
    Wildcard {
        /// The wildcard.
        word: String,
        /// The whole text.
        key: String,
    },
    /// A wildcard beside other characters in one word.
    #[error("`{word}` in `{pattern}`: `*` and `#` are whole words or none")]
    PartOfAWord {
        /// The word.
        word: String,
        /// The whole text.
        pattern: String,
    },
}

/// RabbitMQ's own way to cut: the empty key has no words.
pub(super) fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').filter(move |_| !key.is_empty())
}

pub(super) fn short(key: &str) -> Result<(), KeyError> {
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

pub(super) fn each_word(
    key: &str,
    check: impl Fn(&str) -> Result<(), KeyError>,
) -> Result<(), KeyError> {
    short(key)?;
    for (index, word) in words(key).enumerate() {
        if word.is_empty() {
            return Err(KeyError::EmptyWord {
                key: key.to_owned(),
                number: index + 1,
            });
        }
        check(word)?;
    }
    Ok(())
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::invalid(error.to_string())
    }
}

macro_rules! text {
    ($type:ident) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::str::FromStr for $type {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = KeyError;

            fn try_from(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = KeyError;

            fn try_from(text: String) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl TryFrom<&String> for $type {
            type Error = KeyError;

            fn try_from(text: &String) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl From<&$type> for $type {
            fn from(same: &$type) -> Self {
                same.clone()
            }
        }
    };
}
pub(super) use text;
