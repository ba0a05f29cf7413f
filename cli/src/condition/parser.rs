//! From tokens to a condition.

use super::lexer::{Token, tokens};
use super::value::float;
use super::{Condition, ConditionError, Field, Operator, Value};
use crate::duration;

/// The deepest nesting of `!` and parentheses.
const MAX_DEPTH: usize = 64;

pub(super) fn parse(text: &str) -> Result<Condition, ConditionError> {
    let end = text.chars().count() + 1;
    let mut parser = Parser {
        tokens: tokens(text)?.into_iter().peekable(),
        end,
    };
    let condition = parser.any(0)?;
    match parser.tokens.next() {
        None => Ok(condition),
        Some((column, token)) => {
            let text = format!("expected `&&`, `||` or the end, not {}", token.show());
            Err(ConditionError { column, text })
        }
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<(usize, Token)>>,
    /// The column behind the last character.
    end: usize,
}

impl Parser {
    fn any(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let mut parts = vec![self.all(depth)?];
        while self.takes(&Token::Or) {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Condition::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let mut parts = vec![self.unary(depth)?];
        while self.takes(&Token::And) {
            parts.push(self.unary(depth)?);
        }
        Ok(one_or(parts, Condition::All))
    }

    fn unary(&mut self, depth: usize) -> Result<Condition, ConditionError> {
        let (column, token) = self.next("a field, `!` or `(`")?;
        let wrong = |text| Err(ConditionError { column, text });
        if depth > MAX_DEPTH {
            return wrong(format!("more than {MAX_DEPTH} of `!` and `(` are nested"));
        }
        match token {
            Token::Not => Ok(Condition::Not(Box::new(self.unary(depth + 1)?))),
            Token::Open => {
                let inside = self.any(depth + 1)?;
                match self.next("`)`")? {
                    (_, Token::Close) => Ok(inside),
                    (column, token) => Err(ConditionError {
                        column,
                        text: format!("expected `&&`, `||` or `)`, not {}", token.show()),
                    }),
                }
            }
            Token::Word(word) => match field(&word) {
                Ok(field) => self.comparison(field, &word),
                Err(text) => wrong(text),
            },
            other => wrong(format!(
                "expected a field, `!` or `(`, not {}",
                other.show()
            )),
        }
    }

    fn comparison(&mut self, field: Field, name: &str) -> Result<Condition, ConditionError> {
        let operator = match self.next("an operator, such as `==` or `~`")? {
            (_, Token::Operator(operator)) => operator,
            (column, token) => {
                let shown = token.show();
                let text = format!("expected an operator behind `{name}`, not {shown}");
                return Err(ConditionError { column, text });
            }
        };
        let (column, token) = self.next("a value")?;
        let wrong = |text| Err(ConditionError { column, text });
        let text = match token {
            Token::Word(text) | Token::Quoted(text) => text,
            token => return wrong(format!("expected a value, not {}", token.show())),
        };
        let value = match value(&field, operator, text) {
            Ok(value) => value,
            Err(text) => return wrong(text),
        };
        Ok(Condition::Compare {
            field,
            operator,
            value,
        })
    }

    fn next(&mut self, expected: &str) -> Result<(usize, Token), ConditionError> {
        self.tokens.next().ok_or_else(|| ConditionError {
            column: self.end,
            text: format!("expected {expected}, but the condition ends"),
        })
    }

    fn takes(&mut self, wanted: &Token) -> bool {
        self.tokens.next_if(|(_, token)| token == wanted).is_some()
    }
}

fn one_or(mut parts: Vec<Condition>, join: impl FnOnce(Vec<Condition>) -> Condition) -> Condition {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            join(parts)
        }
    }
}

/// The fields without a part behind a dot.
const FIELDS: [(&str, Field); 12] = [
    ("id", Field::Id),
    ("reason", Field::Reason),
    ("error", Field::Error),
    ("first_error", Field::FirstError),
    ("attempts", Field::Attempts),
    ("task", Field::Task),
    ("queue", Field::Queue),
    ("exchange", Field::Exchange),
    ("key", Field::Key),
    ("content_type", Field::ContentType),
    ("app", Field::App),
    ("age", Field::Age),
];

fn field(word: &str) -> Result<Field, String> {
    if let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == word) {
        return Ok(field.clone());
    }
    match word.split_once('.') {
        Some(("header", name)) if !name.is_empty() => return Ok(Field::Header(name.to_owned())),
        Some(("body", path)) if path.split('.').all(|part| !part.is_empty()) => {
            return Ok(Field::Body(path.split('.').map(str::to_owned).collect()));
        }
        None if word == "body" => return Ok(Field::Body(Vec::new())),
        _ => {}
    }
    let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    Err(format!(
        "`{word}` is no field; the fields are {}, header.NAME, body and body.PATH",
        names.join(", ")
    ))
}

/// The value that a field is compared with.
fn value(field: &Field, operator: Operator, text: String) -> Result<Value, String> {
    let sign = operator.as_str();
    match field {
        Field::Age if operator.is_order() => duration::parse(&text).map(Value::Time),
        Field::Age => Err(format!(
            "a time is compared by <, <=, > or >=, and not by `{sign}`"
        )),
        Field::Attempts if float(&text).is_none() => Err(format!("`{text}` is no number")),
        Field::Attempts | Field::Header(_) | Field::Body(_) if !operator.is_order() => {
            Ok(Value::Text(text))
        }
        Field::Attempts | Field::Header(_) | Field::Body(_) => match float(&text) {
            Some(_) => Ok(Value::Text(text)),
            None => Err(format!("`{sign}` compares numbers, and `{text}` is none")),
        },
        _ if operator.is_order() => Err(format!(
            "`{sign}` compares numbers and times, and this field is a text"
        )),
        _ => Ok(Value::Text(text)),
    }
}
