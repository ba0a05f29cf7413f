//! The arguments of a method as one serde value, declared where it is used so that no name leaks.

use crate::ast::Method;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Path;

/// Which way the arguments go.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Out,
    In,
}

/// The struct's name. Items are not hygienic, so it is one that no user writes.
pub(super) fn ident() -> Ident {
    format_ident!("__LepusArguments")
}

/// The struct, to stand at the head of a function body.
pub(super) fn declaration(krate: &Path, method: &Method<'_>, way: Way) -> TokenStream {
    let ident = ident();
    let derived = match way {
        Way::Out => "Serialize",
        Way::In => "Deserialize",
    };
    let names = method.arguments.iter().map(|argument| argument.name);
    let types = method.arguments.iter().map(|argument| argument.ty());
    // At the method's place, so that rustc points there when an argument cannot be encoded.
    let span = Span::call_site().located_at(method.ident().span());
    let derived = Ident::new(derived, span);
    let derive = quote_spanned!(span=> #[derive(__lepus_serde::#derived)]);
    // Through an alias, because serde takes the path as a string and `$crate` is none.
    quote! {
        use #krate::__rt::serde as __lepus_serde;
        #derive
        #[serde(crate = "__lepus_serde")]
        struct #ident {
            #(#names: #types,)*
        }
    }
}
