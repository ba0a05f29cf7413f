//! Sources of errors.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::kind::ErrorKind;

/// The source of an error.
pub(super) type SharedSource = Arc<dyn StdError + Send + Sync>;

/// The chain of sources of an error, without those whose text is part of a text above them. Many errors
/// include the text of their source in their own.
pub(super) fn without_repetition(
    kind: &ErrorKind,
    source: Box<dyn StdError + Send + Sync>,
) -> Option<SharedSource> {
    let mut texts = vec![kind.to_string()];
    let mut is_repeated = false;
    let mut next: Option<&(dyn StdError + 'static)> = Some(&*source);
    while let Some(cause) = next {
        let text = cause.to_string();
        let is_known = match kind {
            ErrorKind::Broker { text: reason, .. } => {
                !reason.is_empty() && text.contains(&**reason)
            }
            _ => false,
        };
        if is_known || texts.iter().any(|above| above.contains(&*text)) {
            is_repeated = true;
        } else {
            texts.push(text);
        }
        next = cause.source();
    }
    if !is_repeated {
        return Some(Arc::from(source));
    }
    let causes = texts.into_iter().skip(1).rev();
    causes.fold(None, |source, text| {
        Some(Arc::new(SourceText { text, source }))
    })
}

/// A source of which only the text is kept.
#[derive(Debug)]
struct SourceText {
    text: String,
    source: Option<SharedSource>,
}

impl fmt::Display for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for SourceText {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
