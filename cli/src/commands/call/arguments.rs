//! Arguments of a call, as they are given on the command line.

use std::collections::HashSet;

use crate::failure::Failure;
use crate::{documents, json_text};

/// The arguments of a call, or of several.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// One JSON text.
    One(Json),
    /// A JSON text on each line of stdin.
    Lines,
}

/// The arguments of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Json {
    pub(crate) text: String,
    /// The name and the value of a single pair, which may be the argument of a method with bare parameters.
    pub(crate) single: Option<(String, String)>,
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self { text, single: None }
    }
}

impl Arguments {
    /// Parses JSON, `@FILE`, `-`, or `name=value` pairs. Nothing is an empty object.
    ///
    /// # Errors
    /// They are none of these, or the file cannot be read.
    pub(crate) fn parse(given: &[String]) -> Result<Self, Failure> {
        match given {
            [] => Ok(Self::One("{}".to_owned().into())),
            [dash] if dash == "-" => Ok(Self::Lines),
            [one] => match one.strip_prefix('@') {
                Some(path) => {
                    let json = json(&documents::read(path)?);
                    json.map(|json| Self::One(json.into()))
                        .map_err(|failure| Failure::usage(format!("{path}: {}", failure.text())))
                }
                None => match json_text::check(one) {
                    Ok(()) => Ok(Self::One(one.clone().into())),
                    // A text that begins as an object does is no name.
                    Err(_) if is_pair(one) => pairs(given).map(Self::One),
                    Err(reason) => Err(no_json(one, &reason)),
                },
            },
            several => pairs(several).map(Self::One),
        }
    }
}

/// Checks that a text is JSON.
///
/// # Errors
/// It is not.
pub(super) fn json(text: &str) -> Result<String, Failure> {
    match json_text::check(text) {
        Ok(()) => Ok(text.trim().to_owned()),
        Err(reason) => Err(no_json(text, &reason)),
    }
}

fn no_json(text: &str, reason: &str) -> Failure {
    let shown: String = text.trim().chars().take(40).collect();
    let shown = shown.escape_debug();
    Failure::usage(format!(
        "the arguments `{shown}` are no JSON and no name=value pairs: {reason}"
    ))
}

fn is_pair(text: &str) -> bool {
    let name = text.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && !name.contains(['{', '[', '"']))
}

/// An object of `name=value` pairs.
fn pairs(given: &[String]) -> Result<Json, Failure> {
    let mut names = HashSet::new();
    let mut fields = Vec::new();
    let mut single = None;
    for pair in given {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) if is_pair(pair) => (name, value),
            _ => return Err(Failure::usage(format!("`{pair}` is no name=value pair"))),
        };
        if !names.insert(name) {
            return Err(Failure::usage(format!(
                "the argument `{name}` is given twice"
            )));
        }
        let value = match json_text::check(value) {
            Ok(()) => value.to_owned(),
            Err(_) => json_text::string(value),
        };
        fields.push(format!("{}:{value}", json_text::string(name)));
        single = Some((name.to_owned(), value)).filter(|_| given.len() == 1);
    }
    let text = format!("{{{}}}", fields.join(","));
    Ok(Json { text, single })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &[&str]) -> Result<Arguments, String> {
        let given: Vec<String> = given.iter().map(|it| (*it).to_owned()).collect();
        Arguments::parse(&given).map_err(|failure| failure.text().to_owned())
    }

    #[test]
    fn arguments_are_json_or_pairs() {
        let one = |json: &str| Ok(Arguments::One(json.to_owned().into()));
        assert_eq!(parsed(&[]), one("{}"));
        assert_eq!(parsed(&["-"]), Ok(Arguments::Lines));
        assert_eq!(parsed(&["30"]), one("30"));
        assert_eq!(parsed(&[r#"{"a":"x=y"}"#]), one(r#"{"a":"x=y"}"#));
        let pair = Json {
            text: r#"{"n":30}"#.to_owned(),
            single: Some(("n".to_owned(), "30".to_owned())),
        };
        assert_eq!(parsed(&["n=30"]), Ok(Arguments::One(pair)));
        assert_eq!(
            parsed(&["name=hare", "n=\"30\""]),
            one(r#"{"name":"hare","n":"30"}"#)
        );
        assert_eq!(
            parsed(&["at=[1,2]", "note=", "sum=a=b"]),
            one(r#"{"at":[1,2],"note":"","sum":"a=b"}"#)
        );
    }

    #[test]
    fn other_arguments_are_refused() {
        for wrong in [
            &["{n:30}"][..],
            &["hare"],
            &["=30"],
            &[r#"{"n":30"#],
            &[r#"{"a"="b"}"#],
            &["n=30", "30"],
            &["n=30", "n=31"],
            &["@/no/such/file"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
