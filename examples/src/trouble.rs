//! The error of an example's `main`: told in words, not as a structure.

use std::error::Error;
use std::fmt;

/// Any error, with its causes. A `main` that ends with it prints them on one line of stderr and
/// exits with code 1.
pub struct Trouble(Box<dyn Error>);

impl<E: Error + 'static> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

// What `main` prints of an error is its `Debug`.
impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // Some libraries repeat the cause in the error's own text.
            let text = error.to_string();
            if !told.contains(&text) {
                told = format!("{told}: {text}");
            }
            cause = error.source();
        }
        f.write_str(&told)
    }
}
