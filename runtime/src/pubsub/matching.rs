//! What a headers exchange binds by: conditions on an event's headers.

use std::fmt;

use crate::error::Error;
use crate::wire::name::SHORT_STRING_MAX;
use crate::wire::value::{Table, Value};

/// RabbitMQ reads the rule of a binding from this argument.
const RULE: &str = "x-match";

/// Conditions on the headers of an event, of which [all](Match::all) or [any](Match::any) have to
/// hold.
///
/// ```
/// use lepus::Match;
///
/// let reports = Match::all().header("format", "pdf").header("type", "report");
/// let signed = Match::any().present("signature").present("seal");
/// ```
///
/// RabbitMQ compares types as well as values, and integers of different widths are different
/// types to it: a [`Value::Int`] here is a 64-bit one, while Python's `pika`, for instance, sends
/// small integers with 32 bits. Text is the safe choice between languages.
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
    /// Every condition has to hold. Without conditions, every event matches.
    #[must_use]
    pub fn all() -> Self {
        Self {
            rule: Rule::All,
            conditions: Table::new(),
        }
    }

    /// One condition at least has to hold. Without conditions, no event matches, and the binding
    /// is refused.
    #[must_use]
    pub fn any() -> Self {
        Self {
            rule: Rule::Any,
            conditions: Table::new(),
        }
    }

    /// The event has this header with this value.
    ///
    /// Where a name begins with `x-`, the binding is made with RabbitMQ's `all-with-x` or
    /// `any-with-x` (since 3.10): the plain rules pass over such headers.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.conditions.insert(name.to_owned(), value.into());
        self
    }

    /// The event has this header, whatever its value.
    #[must_use]
    pub fn present(self, name: &str) -> Self {
        self.header(name, Value::Null)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.rule == Rule::Any && self.conditions.is_empty() {
            return Err(Error::invalid(
                "a match of any of no headers matches nothing: add a condition with `header`",
            ));
        }
        match self.conditions.keys().find(|name| !is_fine(name)) {
            Some(name) => Err(Error::invalid(format!(
                "`{}` is no header to match: a name has 1 to {SHORT_STRING_MAX} bytes, and \
                 `{RULE}` is the rule itself",
                name.chars().take(40).collect::<String>()
            ))),
            None => Ok(()),
        }
    }

    /// The arguments of the binding.
    pub(super) fn arguments(&self) -> Table {
        let with_x = self.conditions.keys().any(|name| name.starts_with("x-"));
        let rule = match (self.rule, with_x) {
            (Rule::All, false) => "all",
            (Rule::All, true) => "all-with-x",
            (Rule::Any, false) => "any",
            (Rule::Any, true) => "any-with-x",
        };
        let mut arguments = self.conditions.clone();
        arguments.insert(RULE.to_owned(), rule.into());
        arguments
    }
}

fn is_fine(name: &str) -> bool {
    (1..=SHORT_STRING_MAX).contains(&name.len()) && name != RULE
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
    fn what_can_never_match_is_refused() {
        assert!(Match::all().check().is_ok());
        assert!(Match::any().check().unwrap_err().is_invalid());
        let rule = Match::all().header("x-match", "any").check().unwrap_err();
        assert!(
            rule.to_string().starts_with("`x-match` is no header"),
            "{rule}"
        );
        assert!(Match::all().header("", 1).check().is_err());
    }
}
