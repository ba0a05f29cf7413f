//! The attribute macros of Lepus.

mod ast;
mod attr;
mod check;
mod ctxt;
mod expand;
mod names;
mod timeout;

use names::Kind;
use proc_macro::TokenStream;
use syn::{Item, ItemTrait};

/// Makes a trait a service.
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    compile(Kind::Service, arguments.into(), item.into()).into()
}

/// Makes a trait the tasks of a work queue.
#[proc_macro_attribute]
pub fn tasks(arguments: TokenStream, item: TokenStream) -> TokenStream {
    compile(Kind::Tasks, arguments.into(), item.into()).into()
}

/// Parses, checks, expands.
fn compile(
    kind: Kind,
    arguments: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    match parse(kind, item.clone()) {
        Ok(original) => {
            let ctxt = ctxt::Ctxt::new();
            let contract = ast::Contract::parse(&ctxt, kind, arguments, &original);
            check::check(&ctxt, &contract);
            match ctxt.finish() {
                Ok(()) => expand::expand(&contract),
                Err(mistakes) => expand::fallback(&contract, &mistakes),
            }
        }
        Err(mistake) => [mistake.to_compile_error(), item].into_iter().collect(),
    }
}

fn parse(kind: Kind, item: proc_macro2::TokenStream) -> syn::Result<ItemTrait> {
    match syn::parse2(item)? {
        Item::Trait(original) => Ok(original),
        other => {
            let attribute = kind.attribute();
            let message = format!("`#[lepus::{attribute}]` goes above a trait");
            Err(syn::Error::new_spanned(other, message))
        }
    }
}
