//! What is generated: the trait, its sending half and its receiving half.

mod arguments;
mod contract;
mod descriptor;
mod dispatcher;
mod stub;

use crate::ast::{Contract, cfgs};
use crate::attr::Halves;
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt as _;

/// A contract without mistakes.
pub(crate) fn expand(contract: &Contract<'_>) -> TokenStream {
    let definition = contract::definition(contract);
    let halves = contract.options.halves;
    let stub = (halves != Halves::Dispatcher).then(|| stub::expand(contract));
    let dispatcher = (halves != Halves::Stub).then(|| dispatcher::expand(contract));
    quote! { #definition #stub #dispatcher }
}

/// A contract with mistakes: they, and the trait, so that its implementations stay as good as
/// they are and the user sees the mistakes alone.
pub(crate) fn fallback(contract: &Contract<'_>, mistakes: &syn::Error) -> TokenStream {
    let mistakes = mistakes.to_compile_error();
    let definition = contract::fallback(contract);
    quote! { #mistakes #definition }
}

/// The sending half's type.
fn stub_ident(contract: &Contract<'_>) -> Ident {
    format_ident!(
        "{}{}",
        contract.original.ident.unraw(),
        contract.kind.stub_suffix()
    )
}

/// The receiving half's type.
fn dispatcher_ident(contract: &Contract<'_>) -> Ident {
    format_ident!(
        "{}{}",
        contract.original.ident.unraw(),
        contract.kind.dispatcher_suffix()
    )
}

/// The attributes of every generated item: the trait's `#[cfg]`s, and silence for lints that
/// nobody can heed in code that nobody wrote.
fn item_attributes(contract: &Contract<'_>) -> TokenStream {
    let cfgs = cfgs(&contract.original.attrs);
    quote! {
        #(#cfgs)*
        #[allow(
            dead_code,
            deprecated,
            unused_qualifications,
            clippy::all,
            clippy::pedantic,
            clippy::nursery
        )]
    }
}
