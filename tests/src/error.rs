//! All texts of an error, for tests of the texts that it must not show.

use std::error::Error as _;

/// The error, its causes and the `Debug` of each.
pub fn everything(error: &lepus::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}
