//! Names: AMQP short strings (AMQP 0-9-1, 4.2.5.3), checked once.

use std::sync::Arc;

/// The longest AMQP short string, in bytes.
pub(crate) const SHORT_STRING_MAX: usize = 255;

/// The name of a queue, an exchange, a method, or any other AMQP short string: 1 to 255 bytes of
/// UTF-8 without control characters.
///
/// Functions for users take texts, and parse them into this type; the error of a text that is no name is
/// [`is_invalid`](crate::Error::is_invalid).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Arc<str>);

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NameError`] when it is empty, longer than 255 bytes, or holds a control character.
    pub(crate) fn parse(name: impl AsRef<str>) -> Result<Self, NameError> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > SHORT_STRING_MAX {
            return Err(NameError::TooLong { length: name.len() });
        }
        match name.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, _)) => Err(NameError::Control { at }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The traits of a validated text that is an `Arc<str>`: `Display` and `Debug`, the conversions that
/// parse it, those back to text, and the comparison with text.
macro_rules! text_type {
    ($type:ident, $error:ident) => {
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
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = $error;

            fn try_from(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl TryFrom<&String> for $type {
            type Error = $error;

            fn try_from(text: &String) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl From<&$type> for $type {
            fn from(same: &$type) -> Self {
                same.clone()
            }
        }

        impl From<$type> for String {
            fn from(text: $type) -> Self {
                text.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}
pub(crate) use text_type;

text_type!(Name, NameError);

/// The error of parsing a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// The name is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// The name is longer than an AMQP short string can be.
    #[error("a name can be 255 bytes long at most, this one has {length}")]
    TooLong {
        /// The length of the name, in bytes.
        length: usize,
    },
    /// The name has a control character.
    #[error("a name cannot hold a control character (at byte {at})")]
    Control {
        /// The position of the character, in bytes.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_strings() {
        assert_eq!(Name::parse("calculator").unwrap().as_str(), "calculator");
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse("a\0b"), Err(NameError::Control { at: 1 }));
        assert!(Name::parse("x".repeat(255)).is_ok());
        assert_eq!(
            Name::parse("x".repeat(256)),
            Err(NameError::TooLong { length: 256 })
        );
    }

    #[test]
    fn a_name_is_made_of_text_and_turns_into_text() {
        let all: [Result<Name, NameError>; 4] = [
            "calls".parse(),
            "calls".try_into(),
            String::from("calls").try_into(),
            (&String::from("calls")).try_into(),
        ];
        for name in all {
            let name = name.unwrap();
            assert!(name == "calls" && name == *"calls" && name.as_ref() == "calls");
            assert_eq!(String::from(Name::from(&name)), "calls");
        }
        assert_eq!(Name::try_from(""), Err(NameError::Empty));
    }
}
