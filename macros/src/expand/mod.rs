//! Expansion of an annotated trait: the trait, its sending half and its receiving half, and the enum
//! of its tasks.

mod arguments;
mod contract;
mod descriptor;
mod dispatcher;
mod returns;
mod stub;
mod task;

use crate::ast::{Contract, cfgs};
use crate::attr::Halves;
use crate::check::check;
use crate::ctxt::Ctxt;
use crate::names::Kind;
use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt as _;
use syn::{Item, ItemTrait};

/// Parses, checks and expands a contract.
pub(crate) fn compile(kind: Kind, arguments: TokenStream, item: TokenStream) -> TokenStream {
    let original = match parse(kind, item.clone()) {
        Ok(original) => original,
        Err(mistake) => {
            let mistake = mistake.to_compile_error();
            return quote! { #mistake #item };
        }
    };
    let ctxt = Ctxt::new();
    let contract = Contract::parse(&ctxt, kind, arguments, &original);
    check(&ctxt, &contract);
    match ctxt.finish() {
        Ok(()) => expand(&contract),
        Err(mistakes) => fallback(&contract, &mistakes),
    }
}

fn parse(kind: Kind, item: TokenStream) -> syn::Result<ItemTrait> {
    match syn::parse2(item)? {
        Item::Trait(original) => Ok(original),
        other => {
            let attribute = kind.attribute();
            let message = format!("`#[lepus::{attribute}]` goes above a trait");
            Err(syn::Error::new_spanned(other, message))
        }
    }
}

/// Expands a contract without mistakes.
fn expand(contract: &Contract<'_>) -> TokenStream {
    let definition = contract::definition(contract);
    let assertions = returns::assertions(contract);
    let halves = contract.options.halves;
    let stub = (halves != Halves::Dispatcher).then(|| stub::expand(contract));
    let dispatcher = (halves != Halves::Stub).then(|| dispatcher::expand(contract));
    let task =
        (contract.kind == Kind::Tasks && halves != Halves::Stub).then(|| task::expand(contract));
    quote! { #definition #(#assertions)* #stub #dispatcher #task }
}

/// Expands a contract with mistakes: to the mistakes and the trait, so that implementations of it
/// compile and the user sees only the mistakes.
fn fallback(contract: &Contract<'_>, mistakes: &syn::Error) -> TokenStream {
    let mistakes = mistakes.to_compile_error();
    let definition = contract::fallback(contract);
    quote! { #mistakes #definition }
}

/// The name of the sending half's type.
fn stub_ident(contract: &Contract<'_>) -> Ident {
    format_ident!(
        "{}{}",
        contract.original.ident.unraw(),
        contract.kind.stub_suffix()
    )
}

/// The name of the receiving half's type.
fn dispatcher_ident(contract: &Contract<'_>) -> Ident {
    format_ident!(
        "{}{}",
        contract.original.ident.unraw(),
        contract.kind.dispatcher_suffix()
    )
}

/// The name of the enum of the tasks.
fn task_ident(contract: &Contract<'_>) -> Ident {
    format_ident!("{}Task", contract.original.ident.unraw())
}

/// The attributes of every generated item: the trait's `#[cfg]`s, and `#[allow]` for lints, which the
/// user could not act on in generated code.
fn item_attributes(contract: &Contract<'_>) -> TokenStream {
    let cfgs = cfgs(&contract.original.attrs);
    quote! {
        #(#cfgs)*
        #[allow(
            dead_code,
            deprecated,
            nonstandard_style,
            unused_qualifications,
            clippy::all,
            clippy::pedantic,
            clippy::nursery
        )]
    }
}

/// The trait's name for generated docs: a link, if rustdoc can resolve it.
fn link(contract: &Contract<'_>) -> String {
    let ident = &contract.original.ident;
    let name = ident.unraw();
    if name == *ident {
        format!("[`{name}`]")
    } else {
        format!("`{name}`")
    }
}
