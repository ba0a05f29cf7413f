//! JSON as text. It is laid out again without being decoded, so that no digit of a number and no order of names is lost.

use std::iter::Peekable;
use std::str::Chars;

use serde::de::IgnoredAny;

/// # Errors
/// The text is no JSON: the reason.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let parsed: Result<IgnoredAny, _> = serde_json::from_str(text);
    parsed.map(|_| ()).map_err(|error| error.to_string())
}

/// A text as a JSON string.
pub(crate) fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Valid JSON on one line, without spaces between its tokens.
pub(crate) fn compact(json: &str) -> String {
    let mut layout = Layout::new(json, None);
    layout.all();
    layout.out
}

/// Valid JSON on several lines, indented by two spaces.
pub(crate) fn pretty(json: &str) -> String {
    let mut layout = Layout::new(json, Some(0));
    layout.all();
    layout.out
}

/// The first integer in valid JSON that 64 bits cannot hold.
pub(crate) fn large_integer(json: &str) -> Option<&str> {
    let mut rest = json;
    loop {
        let begin = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
        rest = rest.get(begin..)?;
        if let Some(inside) = rest.strip_prefix('"') {
            rest = behind_string(inside);
            continue;
        }
        let is_other = |c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c);
        let (number, behind) = rest.split_at(rest.find(is_other).unwrap_or(rest.len()));
        let is_integer = !number.contains(['.', 'e', 'E']);
        if is_integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
            return Some(number);
        }
        rest = behind;
    }
}

/// The text behind the end of a string whose first quote is taken.
fn behind_string(inside: &str) -> &str {
    let mut chars = inside.chars();
    loop {
        match chars.next() {
            Some('\\') => {
                chars.next();
            }
            Some('"') | None => return chars.as_str(),
            Some(_) => {}
        }
    }
}

struct Layout<'a> {
    rest: Peekable<Chars<'a>>,
    /// The depth, unless all is on one line.
    depth: Option<usize>,
    out: String,
}

impl<'a> Layout<'a> {
    fn new(json: &'a str, depth: Option<usize>) -> Self {
        Self {
            rest: json.chars().peekable(),
            depth,
            out: String::with_capacity(json.len()),
        }
    }

    fn all(&mut self) {
        while let Some(c) = self.rest.next() {
            match c {
                '"' => self.string(),
                '{' | '[' => self.open(c),
                '}' | ']' => {
                    self.new_line(|depth| depth.saturating_sub(1));
                    self.out.push(c);
                }
                ',' => {
                    self.out.push(c);
                    self.new_line(|depth| depth);
                }
                ':' => {
                    self.out.push(c);
                    if self.depth.is_some() {
                        self.out.push(' ');
                    }
                }
                c if c.is_ascii_whitespace() => {}
                c => self.out.push(c),
            }
        }
    }

    /// An empty list or object stays on its line.
    fn open(&mut self, c: char) {
        self.out.push(c);
        while self.rest.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        match self.rest.next_if(|next| matches!(next, '}' | ']')) {
            Some(close) => self.out.push(close),
            None => self.new_line(|depth| depth + 1),
        }
    }

    /// The rest of a string. JSON allows some control characters in it that a terminal acts on; they are escaped.
    fn string(&mut self) {
        self.out.push('"');
        while let Some(c) = self.rest.next() {
            match c {
                '\\' => {
                    self.out.push(c);
                    self.out.extend(self.rest.next());
                }
                '"' => {
                    self.out.push(c);
                    return;
                }
                c if c.is_control() => self.out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => self.out.push(c),
            }
        }
    }

    fn new_line(&mut self, change: impl FnOnce(usize) -> usize) {
        if let Some(depth) = &mut self.depth {
            *depth = change(*depth);
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("  ", *depth));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_again() {
        let json = r#" {"b" : [1, 2.50, {}], "a":"x, \"y\": [", "n": 340282366920938463463374607431768211455, "e":[ ]}"#;
        assert_eq!(
            compact(json),
            r#"{"b":[1,2.50,{}],"a":"x, \"y\": [","n":340282366920938463463374607431768211455,"e":[]}"#
        );
        let lines = [
            "{",
            "  \"b\": [",
            "    1,",
            "    2.50,",
            "    {}",
            "  ],",
            "  \"a\": \"x, \\\"y\\\": [\",",
            "  \"n\": 340282366920938463463374607431768211455,",
            "  \"e\": []",
            "}",
        ];
        assert_eq!(pretty(json), lines.join("\n"));
        assert_eq!(pretty("832040"), "832040");
    }

    #[test]
    fn control_characters_of_a_terminal_are_escaped() {
        assert_eq!(compact("\"\u{9b}31m\u{7f}\""), r#""\u009b31m\u007f""#);
    }

    #[test]
    fn an_integer_of_more_than_64_bits_is_found() {
        for json in [
            "18446744073709551615",
            "-9223372036854775808",
            r#"{"99999999999999999999":["\"99999999999999999999",1e99,9.9999999999999999999e30]}"#,
            "[true,null,-0]",
        ] {
            assert_eq!(large_integer(json), None, "{json}");
        }
        for (json, number) in [
            ("18446744073709551616", "18446744073709551616"),
            ("[1,-9223372036854775809]", "-9223372036854775809"),
            (r#"{"a\\":18446744073709551616}"#, "18446744073709551616"),
        ] {
            assert_eq!(large_integer(json), Some(number), "{json}");
        }
    }

    #[test]
    fn a_text_that_is_no_json_is_refused() {
        assert!(check(r#"{"n":30}"#).is_ok());
        for wrong in ["", "{n:30}", "[1,]", "1 2", "hare"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
