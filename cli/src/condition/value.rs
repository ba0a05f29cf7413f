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

/// The order of two numbers. Integers are compared without rounding, however long they are.
fn numbers(number: &str, other: &str) -> Option<Ordering> {
    if let (Some(number), Some(other)) = (integer(number), integer(other)) {
        return Some(match (number, other) {
            ((false, number), (false, other)) => by_digits(number, other),
            ((true, number), (true, other)) => by_digits(other, number),
            ((is_negative, _), _) => match is_negative {
                true => Ordering::Less,
                false => Ordering::Greater,
            },
        });
    }
    float(number)?.partial_cmp(&float(other)?)
}

/// Whether an integer is negative, and its digits without leading zeros.
fn integer(text: &str) -> Option<(bool, &str)> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some((text.starts_with('-') && !digits.is_empty(), digits))
}

fn by_digits(number: &str, other: &str) -> Ordering {
    number
        .len()
        .cmp(&other.len())
        .then_with(|| number.cmp(other))
}

/// A number in digits: neither `inf` nor `nan`.
pub(super) fn float(text: &str) -> Option<f64> {
    let is_number = text.contains(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_length_are_compared_without_rounding() {
        let largest = "340282366920938463463374607431768211455";
        let almost = "340282366920938463463374607431768211454";
        for (number, other, order) in [
            (largest, almost, Ordering::Greater),
            (
                "-340282366920938463463374607431768211455",
                almost,
                Ordering::Less,
            ),
            ("-2", "-10", Ordering::Greater),
            ("-0", "000", Ordering::Equal),
            ("+7", "07", Ordering::Equal),
            ("5.0", "5", Ordering::Equal),
        ] {
            assert_eq!(numbers(number, other), Some(order), "{number} {other}");
        }
        assert_eq!(numbers("hare", "5"), None);
        assert_eq!(numbers("", "5"), None);
    }
}
