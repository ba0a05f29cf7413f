//! Topic patterns: words separated by dots, `*` for one word, `#` for any number of words.

/// A binding key of a topic exchange, split into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Word(Box<str>),
    One,
    Any,
}

impl Pattern {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(
            words(pattern)
                .into_iter()
                .map(|word| match word {
                    "*" => Segment::One,
                    "#" => Segment::Any,
                    word => Segment::Word(word.into()),
                })
                .collect(),
        )
    }

    /// Whether a routing key, given as its words, matches.
    ///
    /// After a mismatch it is enough to go back to the last `#`, so the time is at most proportional to
    /// words × segments.
    pub(crate) fn matches(&self, key: &[&str]) -> bool {
        let (mut segment, mut word) = (0, 0);
        let mut retry = None;
        loop {
            match (self.0.get(segment), key.get(word)) {
                (Some(Segment::Any), _) => {
                    retry = Some((segment + 1, word));
                    segment += 1;
                }
                (Some(Segment::One), Some(_)) => {
                    segment += 1;
                    word += 1;
                }
                (Some(Segment::Word(wanted)), Some(found)) if **wanted == **found => {
                    segment += 1;
                    word += 1;
                }
                (None, None) => return true,
                _ => match retry {
                    Some((after, taken)) if taken < key.len() => {
                        retry = Some((after, taken + 1));
                        segment = after;
                        word = taken + 1;
                    }
                    _ => return false,
                },
            }
        }
    }
}

/// The words of a key. As in RabbitMQ, the empty key has none, so `#` matches it and `*` does not.
pub(crate) fn words(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, key: &str) -> bool {
        Pattern::new(pattern).matches(&words(key))
    }

    #[test]
    fn the_tutorial_keys() {
        assert!(matches("*.orange.*", "quick.orange.rabbit"));
        assert!(!matches("*.orange.*", "quick.orange.male.rabbit"));
        assert!(matches("lazy.#", "lazy.brown.fox"));
        assert!(matches("lazy.#", "lazy"));
        assert!(!matches("lazy.#", "lazybones"));
    }

    #[test]
    fn empty_words_and_empty_keys() {
        assert!(matches("", ""));
        assert!(matches("#", ""));
        assert!(!matches("*", ""));
        assert!(matches("*.*", "."));
        assert!(matches("a.*.b", "a..b"));
        assert!(matches("#.#", "a.b.c"));
    }

    /// The definition of a match as code, with exponential run time.
    fn reference(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => reference(rest, key),
            (Some((&"#", rest)), Some((_, tail))) => {
                reference(rest, key) || reference(pattern, tail)
            }
            (Some((&"*", rest)), Some((_, tail))) => reference(rest, tail),
            (Some((word, rest)), Some((found, tail))) => word == found && reference(rest, tail),
            _ => false,
        }
    }

    fn dotted(words: Vec<&'static str>) -> String {
        words.join(".")
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            pattern in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "", "*", "#"]), 0..7).prop_map(dotted),
            key in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "", "c"]), 0..7).prop_map(dotted),
        ) {
            prop_assert_eq!(
                matches(&pattern, &key),
                reference(&words(&pattern), &words(&key)),
                "pattern {:?}, key {:?}", pattern, key
            );
        }
    }
}
