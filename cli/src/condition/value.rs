//! Values: of fields, and those that they are compared with.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::Duration;

/// A value of a field, or in a condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A text; or a number, of which the condition does not tell whether it is meant as one.
    Text(String),
    Time(Duration),
}

impl Value {
    /// The value as text, for a search in it.
    pub(super) fn as_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Time(time) => Cow::Owned(format!("{time:?}")),
        }
    }

    /// Whether both are the same number, or else the same text.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.as_text() == other.as_text() || self.order(other) == Some(Ordering::Equal)
    }

    /// The order of two numbers or two times. `None` for any other values.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Time(time), Self::Time(other)) => Some(time.cmp(other)),
            (Self::Text(text), Self::Text(other)) => numbers(text, other),
            _ => None,
        }
    }
}

/// The order of two numbers. Integers are compared without rounding.
fn numbers(number: &str, other: &str) -> Option<Ordering> {
    if let (Ok(number), Ok(other)) = (number.parse::<i128>(), other.parse::<i128>()) {
        return Some(number.cmp(&other));
    }
    float(number)?.partial_cmp(&float(other)?)
}

/// A number in digits: neither `inf` nor `nan`.
pub(super) fn float(text: &str) -> Option<f64> {
    let is_number = text.contains(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}
