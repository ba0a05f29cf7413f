//! JSON that a command is given: as an argument, in a file (`@file`), or a line each on stdin (`-`).

use std::fs;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

use crate::failure::Failure;

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
            let lines = BufReader::new(tokio::io::stdin()).lines();
            return Ok(Self::Lines { lines, number: 0 });
        }
        Ok(Self::One(Some(match argument.strip_prefix('@') {
            Some(path) => fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("{path} cannot be read: {error}")))?,
            None => argument.to_owned(),
        })))
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

    /// The next document. `None` at the end.
    ///
    /// # Errors
    /// Stdin cannot be read, or the text is not JSON.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let Some(text) = self.next_text().await? else {
            return Ok(None);
        };
        let parsed = serde_json::from_str(&text);
        let place = self.place();
        let value = parsed.map_err(|error| {
            Failure::usage(format!(
                "{place} is no JSON: {error}; a text is written \"…\""
            ))
        })?;
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

/// Parses a header, `name=value`. The value is a number, `true` or `false` if it looks like one, and otherwise text.
pub(crate) fn header(text: &str) -> Result<(String, lepus::amqp::Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}` is no header; write name=value"))?;
    let value = match value {
        "true" => true.into(),
        "false" => false.into(),
        _ => match value.parse::<i64>() {
            // A zip code keeps its leading zero.
            Ok(number) if number.to_string() == value => number.into(),
            _ => value.into(),
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
        assert!(header("=1").is_err() && header("none").is_err());
    }
}
