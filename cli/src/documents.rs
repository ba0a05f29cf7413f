//! JSON that a command is given: as an argument, in a file (`@file`), or a line each on stdin (`-`).

use std::fs;

use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

use crate::failure::Failure;
use crate::json_text;

/// The documents that a command is given.
pub(crate) enum Documents {
    /// One, until it is taken.
    One(Option<String>),
    Lines {
        lines: Lines<BufReader<Stdin>>,
        /// The number of the last line.
        number: usize,
    },
}

impl Documents {
    /// Opens what an argument names.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn open(argument: &str) -> Result<Self, Failure> {
        if argument == "-" {
            return Ok(Self::stdin());
        }
        Ok(Self::One(Some(match argument.strip_prefix('@') {
            Some(path) => read(path)?,
            None => argument.to_owned(),
        })))
    }

    /// Checks the document that was given, before anything is done. Lines of stdin are checked one by one.
    ///
    /// # Errors
    /// It is not JSON.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::One(Some(text)) => json_text::check(text).map_err(|reason| self.no_json(&reason)),
            Self::One(None) | Self::Lines { .. } => Ok(()),
        }
    }

    fn no_json(&self, reason: &str) -> Failure {
        let place = self.place();
        Failure::usage(format!(
            "{place} is no JSON: {reason}; a text is written \"…\""
        ))
    }

    /// The lines of stdin.
    pub(crate) fn stdin() -> Self {
        Self::Lines {
            lines: BufReader::new(tokio::io::stdin()).lines(),
            number: 0,
        }
    }

    /// The number of the line that was taken last; 0 if there are no lines.
    pub(crate) fn number(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Lines { number, .. } => *number,
        }
    }

    /// The next text. Empty lines are left out. `None` at the end.
    ///
    /// # Errors
    /// Stdin cannot be read.
    pub(crate) async fn next_text(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Self::One(document) => Ok(document.take()),
            Self::Lines { lines, number } => loop {
                *number += 1;
                let line = lines.next_line().await.map_err(|error| {
                    Failure::usage(format!("line {number} of stdin cannot be read: {error}"))
                })?;
                if line.as_deref().is_none_or(|line| !line.trim().is_empty()) {
                    return Ok(line);
                }
            },
        }
    }

    /// The next document, as it is written: no digit of a number is lost. `None` at the end.
    ///
    /// # Errors
    /// Stdin cannot be read, or the text is not JSON.
    pub(crate) async fn next(&mut self) -> Result<Option<Box<RawValue>>, Failure> {
        let Some(text) = self.next_text().await? else {
            return Ok(None);
        };
        let parsed = serde_json::from_str(&text);
        let value = parsed.map_err(|error| self.no_json(&error.to_string()))?;
        Ok(Some(value))
    }

    /// The document that was taken last, for an error.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::One(_) => "the document".to_owned(),
            Self::Lines { number, .. } => format!("line {number} of stdin"),
        }
    }
}

/// Reads a file that an argument names.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{path} cannot be read: {error}")))
}

/// Parses a header, `name=value`. The value is an integer, `true` or `false` if it looks like one, the text of a JSON
/// string in quotes, and otherwise text.
pub(crate) fn header(text: &str) -> Result<(String, lepus::amqp::Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}` is no header; write NAME=VALUE"))?;
    let value = match value {
        "true" => true.into(),
        "false" => false.into(),
        _ => match value.parse::<i64>() {
            // A zip code keeps its leading zero.
            Ok(number) if number.to_string() == value => number.into(),
            _ => match serde_json::from_str::<String>(value) {
                Ok(text) => text.into(),
                Err(_) => value.into(),
            },
        },
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use lepus::amqp::Value;

    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), Value::from("b=c"))));
        assert_eq!(header("n=-7"), Ok(("n".into(), Value::Int(-7))));
        assert_eq!(
            header("zip=01067"),
            Ok(("zip".into(), Value::from("01067")))
        );
        assert_eq!(header("t=true"), Ok(("t".into(), Value::Bool(true))));
        assert_eq!(header("e="), Ok(("e".into(), Value::from(""))));
        assert_eq!(header("id=\"7\""), Ok(("id".into(), Value::from("7"))));
        assert!(header("=1").is_err() && header("none").is_err());
    }
}
