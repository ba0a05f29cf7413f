//! Binding patterns of topic exchanges, validated when they are created and matched as the broker
//! matches them.

use std::sync::Arc;

use super::key::RoutingKey;
use super::key_syntax::{ANY_WORDS, KeyError, ONE_WORD, check_words, words};
use crate::wire::name::text_type;

/// A binding pattern of a topic exchange: words separated by dots, at most 255 bytes. `*` stands
/// for exactly one word, `#` for any number of words, including none.
///
/// ```
/// use lepus::events::Pattern;
///
/// let pattern = Pattern::parse("kern.*")?;
/// assert!(pattern.matches("kern.critical") && !pattern.matches("kern"));
/// let mistake = Pattern::parse("kern.crit*").unwrap_err();
/// assert_eq!(mistake.to_string(), "`crit*` in `kern.crit*`: `*` and `#` are whole words or none");
/// # Ok::<(), lepus::events::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Parses a pattern. The empty pattern matches only the empty key.
    ///
    /// # Errors
    /// [`KeyError`], which shows the invalid part.
    pub fn parse(pattern: impl AsRef<str>) -> Result<Self, KeyError> {
        let pattern = pattern.as_ref();
        check_words(pattern, |word| {
            if word.len() > 1 && word.contains(['*', '#']) {
                return Err(KeyError::PartOfAWord {
                    word: word.to_owned(),
                    pattern: pattern.to_owned(),
                });
            }
            Ok(())
        })?;
        Ok(Self(pattern.into()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic exchange routes an event with this routing key by this pattern.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let pattern: Vec<&str> = words(&self.0).collect();
        let key: Vec<&str> = words(key).collect();
        let (mut in_pattern, mut in_key) = (0, 0);
        // The position of the last `#`, and the number of the first word of the key after those
        // that it has matched so far. On a mismatch it is tried with one word more.
        let mut last_any: Option<(usize, usize)> = None;
        while let Some(word) = key.get(in_key) {
            match pattern.get(in_pattern) {
                Some(&ANY_WORDS) => {
                    last_any = Some((in_pattern, in_key));
                    in_pattern += 1;
                }
                Some(wanted) if *wanted == ONE_WORD || wanted == word => {
                    in_pattern += 1;
                    in_key += 1;
                }
                _ => match &mut last_any {
                    Some((position, matched)) => {
                        *matched += 1;
                        (in_pattern, in_key) = (*position + 1, *matched);
                    }
                    None => return false,
                },
            }
        }
        let mut rest = pattern.iter().skip(in_pattern);
        rest.all(|word| *word == ANY_WORDS)
    }
}

text_type!(Pattern, KeyError);

/// Creates the pattern that matches this key and no other. It is the way to bind to a key with a
/// word such as `c#`, which [`Pattern::parse`] rejects.
impl TryFrom<RoutingKey> for Pattern {
    type Error = KeyError;

    fn try_from(key: RoutingKey) -> Result<Self, KeyError> {
        let text = key.as_str();
        if let Some(word) = words(text).find(|word| [ONE_WORD, ANY_WORDS].contains(word)) {
            return Err(KeyError::Wildcard {
                word: word.to_owned(),
                key: text.to_owned(),
            });
        }
        Ok(Self(key.0))
    }
}

impl TryFrom<&RoutingKey> for Pattern {
    type Error = KeyError;

    fn try_from(key: &RoutingKey) -> Result<Self, KeyError> {
        Self::try_from(key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_show_the_invalid_part() {
        let key = |text: &str| RoutingKey::parse(text).unwrap_err().to_string();
        let pattern = |text: &str| Pattern::parse(text).unwrap_err().to_string();
        assert_eq!(key("kern..critical"), "word 2 of `kern..critical` is empty");
        assert_eq!(key(".kern"), "word 1 of `.kern` is empty");
        assert_eq!(
            key("kern.*"),
            "`*` in `kern.*`: wildcards are for binding patterns, not for routing keys"
        );
        assert_eq!(
            pattern("k*rn.#"),
            "`k*rn` in `k*rn.#`: `*` and `#` are whole words or none"
        );
        assert_eq!(
            pattern("a.##"),
            "`##` in `a.##`: `*` and `#` are whole words or none"
        );
        assert_eq!(key("a\0b"), "a control character in `a\\0b` (at byte 1)");
        assert!(key(&"x".repeat(256)).contains("this one has 256: `xxx"));
    }

    #[test]
    fn valid_keys_and_patterns() {
        for text in ["", "kern", "kern.critical", "lang.c#", &"x".repeat(255)] {
            assert_eq!(RoutingKey::parse(text).unwrap().as_str(), text);
        }
        for text in ["", "#", "*", "kern.*", "*.critical", "#.a.#", "häse.*"] {
            assert_eq!(Pattern::parse(text).unwrap().as_str(), text);
        }
        assert!(RoutingKey::literal("*.").is_ok());
        let exactly = Pattern::try_from(RoutingKey::parse("lang.c#").unwrap()).unwrap();
        assert!(exactly.matches("lang.c#") && !exactly.matches("lang.c"));
        assert!(Pattern::try_from(RoutingKey::literal("a.*").unwrap()).is_err());
    }

    #[test]
    fn words_match_as_on_a_topic_exchange() {
        for (pattern, key, expected) in [
            ("kern.*", "kern.critical", true),
            ("kern.*", "kern", false),
            ("kern.*", "kern.a.b", false),
            ("*.critical", "kern.critical", true),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("*", "", false),
            ("", "", true),
            ("", "a", false),
            ("a.#", "a", true),
            ("a.#.b", "a.b", true),
            ("a.#.b", "a.x.b.y.b", true),
            ("a.#.b", "a.x.b.y", false),
            ("#.*.b", "b", false),
            ("#.a.#.a", "a.b.a", true),
            ("*.#", "a", true),
        ] {
            assert_eq!(
                Pattern::parse(pattern).unwrap().matches(key),
                expected,
                "{pattern:?} {key:?}"
            );
        }
    }

    /// The definition of a match, word by word.
    fn by_definition(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            ([ANY_WORDS, rest @ ..], key) => {
                (0..=key.len()).any(|count| by_definition(rest, &key[count..]))
            }
            ([ONE_WORD, pattern @ ..], [_, key @ ..]) => by_definition(pattern, key),
            ([wanted, pattern @ ..], [word, key @ ..]) if wanted == word => {
                by_definition(pattern, key)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_matcher_is_the_definition(
            pattern in proptest::collection::vec("[ab*#]", 0..7),
            key in proptest::collection::vec("[ab]", 0..8),
        ) {
            let words: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let key_words: Vec<&str> = key.iter().map(String::as_str).collect();
            let parsed = Pattern::parse(pattern.join(".")).unwrap();
            prop_assert_eq!(parsed.matches(&key.join(".")), by_definition(&words, &key_words));
        }
    }
}
