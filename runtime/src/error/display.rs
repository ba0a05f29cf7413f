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
            site,
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
        match (site, address) {
            (None, None) => kind.fmt(f),
            (None, Some(address)) => write!(f, "{kind} ({address})"),
            (Some(site), _) => {
                let (elapsed, outcome) = (site.elapsed.as_secs_f64(), site.outcome);
                write!(f, "{site}: {kind} after {elapsed:.3} s ({outcome})")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.inner.kind);
        if let Some(site) = &self.inner.site {
            debug.field("site", site);
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
