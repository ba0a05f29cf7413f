//! Failures of a command: one line on stderr, and an exit code.

use std::error::Error as StdError;
use std::io::{self, Write as _};

use crate::exit::Exit;
use crate::output::printable;

/// The reason why a command ends without its result.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Empty if there is nothing to say.
    text: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { exit, text }
    }

    /// Arguments that are not valid.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// The reader of stdout has gone: the command ends without a word.
    pub(crate) fn reader_has_gone() -> Self {
        Self::new(Exit::Ok, "")
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Writes the failure as one line to stderr.
    pub(crate) fn print(&self) {
        if !self.text.is_empty() {
            let line = printable(&self.text).replace('\n', " ");
            // Nothing can be done if stderr is closed.
            let _ = writeln!(io::stderr(), "error: {line}");
        }
    }
}

/// An error of Lepus, with its causes.
impl From<lepus::Error> for Failure {
    fn from(error: lepus::Error) -> Self {
        Self::new(Exit::of_error(&error), with_causes(&error))
    }
}

/// An error of writing to stdout. If its reader has gone, as `head` does, that is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::reader_has_gone(),
            _ => Self::new(
                Exit::Internal,
                format!("the output cannot be written: {error}"),
            ),
        }
    }
}

/// The text of an error, with that of each cause which is not in it already.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let of_cause = error.to_string();
        if !text.contains(&of_cause) {
            text = format!("{text}: {of_cause}");
        }
        cause = error.source();
    }
    text
}
