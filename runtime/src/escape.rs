//! Escaping of texts from a peer or the broker for logs and errors. Control characters could begin a forged
//! log line, or move the cursor of a terminal.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

/// Displays a value with control characters escaped, as `\n` or `\u{1b}`. Unicode characters that break lines
/// or change the direction of text are escaped as well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// A text with control characters escaped, which is borrowed if it has none: a field of a span, which takes a plain
/// text without formatting it.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if text.bytes().all(is_plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(Escaped(text).to_string())
    }
}

/// An optional text as a field of a log event, which is left out if there is none.
pub(crate) fn escaped(text: Option<&str>) -> Option<tracing::field::DisplayValue<Escaped<&str>>> {
    text.map(|text| tracing::field::display(Escaped(text)))
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, letter)) = rest.char_indices().find(|(_, letter)| is_control(*letter)) {
            let (shown, others) = rest.split_at(at);
            self.0.write_str(shown)?;
            write!(self.0, "{}", letter.escape_default())?;
            rest = others.get(letter.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

fn is_control(letter: char) -> bool {
    let is_format = matches!(
        letter,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    is_format || letter.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_written_out() {
        let shown = |text: &str| Escaped(text).to_string();
        assert_eq!(shown("häse `x` \\ \"y\""), "häse `x` \\ \"y\"");
        assert_eq!(
            shown("a\nERROR b\r\t\u{1b}[2J"),
            "a\\nERROR b\\r\\t\\u{1b}[2J"
        );
        assert_eq!(
            shown("\u{85}\u{2028}\u{202e}\0"),
            "\\u{85}\\u{2028}\\u{202e}\\u{0}"
        );
    }

    proptest! {
        #[test]
        fn nothing_else_changes(text in any::<String>()) {
            let shown = Escaped(&text).to_string();
            prop_assert!(!shown.chars().any(is_control));
            prop_assert_eq!(printable(&text), &*shown);
            if !text.chars().any(is_control) {
                prop_assert_eq!(shown, text);
            }
        }
    }
}
