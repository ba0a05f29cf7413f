//! Binding patterns of topic exchanges: checked when they are made, and matched as the broker
//! does.

use std::sync::Arc;

use super::key::RoutingKey;
use super::words::{ANY, KeyError, ONE, each_word, text, words};

/// What a topic exchange binds by: words with dots between them, 255 bytes at the most, where `*`
/// stands for exactly one word and `#` for any number of words, none included.
///
/// ```
/// use lepus::Pattern;
///
/// let pattern = Pattern::parse("kern.*")?;
/// assert!(pattern.matches("kern.critical") && !pattern.matches("kern"));
/// let mistake = Pattern::parse("kern.crit*").unwrap_err();
/// assert_eq!(mistake.to_string(), "`crit*` in `kern.crit*`: `*` and `#` are whole words or none");
/// # Ok::<(), lepus::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Parses a pattern. The empty one matches the empty key alone.
    ///
    /// # Errors
    /// [`KeyError`], which shows the offending part.
    pub fn parse(pattern: impl AsRef<str>) -> Result<Self, KeyError> {
        let pattern = pattern.as_ref();
        each_word(pattern, |word| {
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

    /// Whether a topic exchange routes an event with this key by this pattern.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let pattern: Vec<&str> = words(&self.0).collect();
        let key: Vec<&str> = words(key).collect();
        let (mut at, mut seen) = (0, 0);
        // After a `#`: where it stands, and how much of the key it has swallowed up to now.
        let mut any: Option<(usize, usize)> = None;
        while let Some(word) = key.get(seen) {
            match pattern.get(at) {
                Some(&ANY) => {
                    any = Some((at, seen));
                    at += 1;
                }
                Some(wanted) if *wanted == ONE || wanted == word => {
                    at += 1;
                    seen += 1;
                }
                _ => match &mut any {
                    Some((start, swallowed)) => {
                        *swallowed += 1;
                        (at, seen) = (*start + 1, *swallowed);
                    }
                    None => return false,
                },
            }
        }
        pattern.iter().skip(at).all(|word| *word == ANY)
    }
}

text!(Pattern);

/// The pattern that matches one key and no other: the way to bind to a key with a word like `c#`,
/// which [`Pattern::parse`] takes for a mistake.
impl TryFrom<RoutingKey> for Pattern {
    type Error = KeyError;

    fn try_from(key: RoutingKey) -> Result<Self, KeyError> {
        let text = key.as_str();
        if let Some(word) = words(text).find(|word| [ONE, ANY].contains(word)) {
            return Err(KeyError::Wildcard {
                word: word.to_owned(),
                key: text.to_owned(),
            });
        }
        Ok(Self(key.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_show_the_offending_part() {
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
    fn keys_and_patterns_that_are_fine() {
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

    /// The definition, word by word.
    fn by_definition(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            ([ANY, rest @ ..], key) => {
                (0..=key.len()).any(|swallowed| by_definition(rest, &key[swallowed..]))
            }
            ([ONE, pattern @ ..], [_, key @ ..]) => by_definition(pattern, key),
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
            let cut: Vec<&str> = key.iter().map(String::as_str).collect();
            let parsed = Pattern::parse(pattern.join(".")).unwrap();
            prop_assert_eq!(parsed.matches(&key.join(".")), by_definition(&words, &cut));
        }
    }
}
