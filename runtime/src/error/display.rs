//! Texts of errors.

use std::error::Error as StdError;
use std::fmt;

use super::{Error, Inner};
use crate::escape::Escaped;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text of a status comes from a peer, and the broker's text may quote one.
        Escaped(&*self.inner).fmt(f)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            names,
            elapsed,
            outcome,
            address,
            addresses,
            ..
        } = self;
        if !addresses.is_empty() {
            f.write_str("no connection to any address of the broker: ")?;
            for (index, failure) in addresses.iter().enumerate() {
                let separator = if index > 0 { "; " } else { "" };
                write!(f, "{separator}{failure}")?;
                if let Some(cause) = failure.source() {
                    write!(f, ": {cause}")?;
                }
            }
            return Ok(());
        }
        if let Some(names) = names {
            write!(f, "{names}: ")?;
        }
        kind.fmt(f)?;
        if let Some(elapsed) = elapsed {
            write!(f, " after {:.3} s", elapsed.as_secs_f64())?;
        }
        match (outcome, address) {
            (Some(outcome), _) => write!(f, " ({outcome})"),
            (None, Some(address)) => write!(f, " ({address})"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.inner.kind);
        if let Some(names) = &self.inner.names {
            debug.field("site", &format_args!("{names}"));
        }
        if let Some(elapsed) = &self.inner.elapsed {
            debug.field("elapsed", elapsed);
        }
        if let Some(outcome) = &self.inner.outcome {
            debug.field("outcome", outcome);
        }
        if let Some(address) = &self.inner.address {
            debug.field("address", address);
        }
        if !self.inner.addresses.is_empty() {
            debug.field("addresses", &self.inner.addresses);
        }
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}
