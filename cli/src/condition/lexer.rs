//! The words and signs of a condition, with their columns.

use super::{ConditionError, Operator};

/// A word or a sign.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A word without quotes.
    Word(String),
    /// A text in quotes.
    Quoted(String),
    Operator(Operator),
    And,
    Or,
    Not,
    Open,
    Close,
}

impl Token {
    /// The token as an error shows it.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::Quoted(_) => "a text in quotes".to_owned(),
            Self::Operator(operator) => format!("`{}`", operator.as_str()),
            Self::And => "`&&`".to_owned(),
            Self::Or => "`||`".to_owned(),
            Self::Not => "`!`".to_owned(),
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
        }
    }
}

/// The tokens of a text, each with the number of its first character, from 1.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ConditionError> {
    let mut lexer = Lexer {
        characters: text.chars().collect(),
        at: 0,
    };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let column = lexer.at + 1;
        match lexer.token()? {
            Some(token) => tokens.push((column, token)),
            None => return Ok(tokens),
        }
    }
}

struct Lexer {
    characters: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let taken = self.peek()?;
        self.at += 1;
        Some(taken)
    }

    /// Takes the next character if it is this one.
    fn take_if(&mut self, wanted: char) -> bool {
        let is_it = self.peek() == Some(wanted);
        self.at += usize::from(is_it);
        is_it
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn token(&mut self) -> Result<Option<Token>, ConditionError> {
        let column = self.at + 1;
        let wrong = |text: &str| {
            Err(ConditionError {
                column,
                text: text.to_owned(),
            })
        };
        let Some(first) = self.take() else {
            return Ok(None);
        };
        Ok(Some(match first {
            '(' => Token::Open,
            ')' => Token::Close,
            '~' => Token::Operator(Operator::Contains),
            '=' if self.take_if('=') => Token::Operator(Operator::Equal),
            '=' => return wrong("`=` is no operator, write `==`"),
            '!' if self.take_if('=') => Token::Operator(Operator::NotEqual),
            '!' if self.take_if('~') => Token::Operator(Operator::ContainsNot),
            '!' => Token::Not,
            '<' if self.take_if('=') => Token::Operator(Operator::LessOrEqual),
            '<' => Token::Operator(Operator::Less),
            '>' if self.take_if('=') => Token::Operator(Operator::GreaterOrEqual),
            '>' => Token::Operator(Operator::Greater),
            '&' if self.take_if('&') => Token::And,
            '&' => return wrong("`&` is no operator, write `&&`"),
            '|' if self.take_if('|') => Token::Or,
            '|' => return wrong("`|` is no operator, write `||`"),
            quote @ ('"' | '\'') => Token::Quoted(self.quoted(quote, column)?),
            first if is_word(first) => {
                let mut word = String::from(first);
                while let Some(next) = self.peek().filter(|next| is_word(*next)) {
                    word.push(next);
                    self.at += 1;
                }
                Token::Word(word)
            }
            other => {
                return wrong(&format!(
                    "`{}` has no meaning here; a text with it is written in quotes",
                    other.escape_default()
                ));
            }
        }))
    }

    /// The rest of a text in quotes. A backslash takes the character behind it as it is.
    fn quoted(&mut self, quote: char, column: usize) -> Result<String, ConditionError> {
        let mut text = String::new();
        loop {
            match self.take() {
                Some(end) if end == quote => return Ok(text),
                Some('\\') => match self.take() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(next) => text.push(next),
                    None => {}
                },
                Some(next) => text.push(next),
                None => {
                    return Err(ConditionError {
                        column,
                        text: format!("the text that begins with {quote} has no end"),
                    });
                }
            }
        }
    }
}

/// Whether a character needs no quotes.
fn is_word(character: char) -> bool {
    character.is_alphanumeric() || "_-.:+/@%#$*".contains(character)
}
