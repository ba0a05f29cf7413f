//! The error that the examples return from `main`, printed as text instead of as a structure.

use std::error::Error;
use std::fmt;

/// Any error, with its causes. A `main` that returns it prints them on one line of stderr and exits
/// with code 1.
pub struct ExampleError(Box<dyn Error>);

impl<E: Error + 'static> From<E> for ExampleError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

// `main` prints the error that it returns with `Debug`.
impl fmt::Debug for ExampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // Some libraries repeat the cause in the error's own text.
            let text = error.to_string();
            if !line.contains(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        f.write_str(&line)
    }
}
