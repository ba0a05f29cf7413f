//! Conditions on dead letters, as `--where` has them: `reason==attempts && error~"busy"`.
//!
//! A condition is made of comparisons of a field with a value, joined by `&&`, `||`, `!` and parentheses.

mod lexer;
mod parser;
mod value;

use std::fmt;
use std::str::FromStr;

pub(crate) use value::Value;

/// The help of the option, for commands that have it.
pub(crate) const HELP: &str = "Conditions:
  FIELD OPERATOR VALUE, joined by &&, ||, ! and ( ).
  Fields: id, reason, error, first_error, attempts, task, queue, exchange, key, content_type, app,
  age (since it died), header.NAME, body, body.PATH (of its JSON: body.user.id, body.items.0).
  Operators: == != < <= > >=, ~ (contains) and !~. Values are words, numbers, times (age>2h), or in
  quotes. A field that a letter does not have is equal to nothing and contains nothing.";

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Compare {
        field: Field,
        operator: Operator,
        value: Value,
    },
}

/// A field of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Id,
    Reason,
    Error,
    FirstError,
    Attempts,
    Task,
    Queue,
    Exchange,
    Key,
    ContentType,
    App,
    Age,
    Header(String),
    /// The body, or a part of it: the names of fields and the indices of lists on the way to it.
    Body(Vec<String>),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Contains,
    ContainsNot,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The reason why a text is no condition, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionError {
    /// The number of the character, from 1.
    pub(crate) column: usize,
    pub(crate) text: String,
}

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.text)
    }
}

impl std::error::Error for ConditionError {}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        parser::parse(text)
    }
}

impl Condition {
    /// Whether it holds for a letter, whose fields `read` gives: `None` for one that it does not have.
    pub(crate) fn holds(&self, read: &impl Fn(&Field) -> Option<Value>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(read)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(read)),
            Self::Not(condition) => !condition.holds(read),
            Self::Compare {
                field,
                operator,
                value,
            } => operator.holds(read(field).as_ref(), value),
        }
    }
}

impl Operator {
    fn holds(self, field: Option<&Value>, value: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = || field.and_then(|field| field.order(value));
        let contains = || field.is_some_and(|field| field.as_text().contains(&*value.as_text()));
        let is_equal = || field.is_some_and(|field| field.equals(value));
        match self {
            Self::Equal => is_equal(),
            Self::NotEqual => !is_equal(),
            Self::Contains => contains(),
            Self::ContainsNot => !contains(),
            Self::Less => order() == Some(Less),
            Self::LessOrEqual => matches!(order(), Some(Less | Equal)),
            Self::Greater => order() == Some(Greater),
            Self::GreaterOrEqual => matches!(order(), Some(Greater | Equal)),
        }
    }

    /// Whether it compares numbers or times.
    fn is_order(self) -> bool {
        matches!(
            self,
            Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual
        )
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Contains => "~",
            Self::ContainsNot => "!~",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

#[cfg(test)]
mod tests;
