//! Bindings of headers exchanges: conditions on an event's headers.

use std::fmt;

use crate::error::Error;
use crate::wire::name::SHORT_STRING_MAX;
use crate::wire::value::{Table, Value};

/// The binding argument that tells RabbitMQ whether all conditions or any one must hold.
const X_MATCH: &str = "x-match";

/// A binding to a headers exchange: conditions on the headers of an event, of which
/// [all](Match::all) or [at least one](Match::any) must hold.
///
/// ```
/// use lepus::events::Match;
///
/// let reports = Match::all().header("format", "pdf").header("type", "report");
/// let signed = Match::any().present("signature").present("seal");
/// ```
///
/// RabbitMQ compares types as well as values, and integers of different widths are different
/// types: [`Value::Int`] is sent with 64 bits, while Python's `pika`, for instance, sends small
/// integers with 32 bits. Between languages, text is the safe choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    rule: Rule,
    conditions: Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    All,
    Any,
}

impl Match {
    /// A match of which every condition must hold. Without conditions, it matches every event.
    #[must_use]
    pub fn all() -> Self {
        Self {
            rule: Rule::All,
            conditions: Table::new(),
        }
    }

    /// A match of which at least one condition must hold. Without conditions it would match no
    /// event, and is an [`is_invalid`](Error::is_invalid) error.
    #[must_use]
    pub fn any() -> Self {
        Self {
            rule: Rule::Any,
            conditions: Table::new(),
        }
    }

    /// Adds a condition: the event has this header with this value.
    ///
    /// If a name begins with `x-`, the binding is made with `all-with-x` or `any-with-x` (RabbitMQ
    /// 3.10): the plain rules ignore such headers.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.conditions.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a condition: the event has this header, with any value.
    #[must_use]
    pub fn present(self, name: &str) -> Self {
        self.header(name, Value::Null)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.rule == Rule::Any && self.conditions.is_empty() {
            return Err(Error::invalid(
                "`Match::any` without a condition matches no event: add one with `header`",
            ));
        }
        match self.conditions.keys().find(|name| !is_valid_name(name)) {
            Some(name) => Err(Error::invalid(format!(
                "`{}` is not a header that can be matched: a name has 1 to {SHORT_STRING_MAX} bytes, \
                 and `{X_MATCH}` is the argument that holds the rule",
                name.chars().take(40).collect::<String>()
            ))),
            None => Ok(()),
        }
    }

    /// The arguments of `queue.bind`.
    pub(super) fn arguments(&self) -> Table {
        let with_x = self.conditions.keys().any(|name| name.starts_with("x-"));
        let rule = match (self.rule, with_x) {
            (Rule::All, false) => "all",
            (Rule::All, true) => "all-with-x",
            (Rule::Any, false) => "any",
            (Rule::Any, true) => "any-with-x",
        };
        let mut arguments = self.conditions.clone();
        arguments.insert(X_MATCH.to_owned(), rule.into());
        arguments
    }
}

fn is_valid_name(name: &str) -> bool {
    (1..=SHORT_STRING_MAX).contains(&name.len()) && name != X_MATCH
}

impl From<&Match> for Match {
    fn from(same: &Match) -> Self {
        same.clone()
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rule {
            Rule::All => "all of",
            Rule::Any => "any of",
        })?;
        for (name, value) in &self.conditions {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_an_argument_of_the_binding() {
        let arguments = Match::all()
            .header("format", "pdf")
            .present("n")
            .arguments();
        assert_eq!(arguments["x-match"], Value::from("all"));
        assert_eq!(arguments["n"], Value::Null);
        let arguments = Match::any().header("x-tenant", "hare").arguments();
        assert_eq!(arguments["x-match"], Value::from("any-with-x"));
    }

    #[test]
    fn a_match_that_can_never_hold_is_invalid() {
        assert!(Match::all().check().is_ok());
        assert!(Match::any().check().unwrap_err().is_invalid());
        let rule = Match::all().header("x-match", "any").check().unwrap_err();
        assert!(
            rule.to_string().starts_with("`x-match` is not a header"),
            "{rule}"
        );
        assert!(Match::all().header("", 1).check().is_err());
    }
}
