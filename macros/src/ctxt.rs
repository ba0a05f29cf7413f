//! Collector of mistakes, which are reported in one pass, each at its span.

use proc_macro2::Span;
use quote::ToTokens;
use std::cell::RefCell;
use std::fmt::Display;

/// Collects mistakes. [`Ctxt::finish`] must be called: dropping the collector before would lose
/// mistakes, and is an assertion failure.
#[derive(Debug)]
pub(crate) struct Ctxt {
    /// `None` after [`finish`](Self::finish).
    errors: RefCell<Option<Vec<syn::Error>>>,
}

impl Ctxt {
    pub(crate) fn new() -> Self {
        Self {
            errors: RefCell::new(Some(Vec::new())),
        }
    }

    /// Reports a mistake that covers `tokens`.
    pub(crate) fn error_on(&self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// Reports a mistake at `span`.
    pub(crate) fn error_at(&self, span: Span, message: impl Display) {
        self.push(syn::Error::new(span, message));
    }

    /// Reports an error of syn.
    pub(crate) fn push(&self, error: syn::Error) {
        if let Some(errors) = self.errors.borrow_mut().as_mut() {
            errors.push(error);
        }
    }

    /// Returns all mistakes as one error, or `Ok` if there is none.
    pub(crate) fn finish(self) -> syn::Result<()> {
        let errors = self.errors.take().unwrap_or_default();
        let all = errors.into_iter().reduce(|mut all, next| {
            all.combine(next);
            all
        });
        all.map_or(Ok(()), Err)
    }
}

impl Drop for Ctxt {
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking() || self.errors.get_mut().is_none(),
            "mistakes were collected and never read"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_wrong_is_ok() {
        assert!(Ctxt::new().finish().is_ok());
    }

    #[test]
    fn every_mistake_is_kept_in_order() {
        let ctxt = Ctxt::new();
        ctxt.error_at(Span::call_site(), "first");
        ctxt.error_on(quote::quote!(n), "second");
        let all = ctxt.finish().unwrap_err();
        let messages: Vec<_> = all.into_iter().map(|error| error.to_string()).collect();
        assert_eq!(messages, ["first", "second"]);
    }

    #[test]
    #[should_panic(expected = "never read")]
    fn dropping_an_unread_collector_panics() {
        drop(Ctxt::new());
    }
}
