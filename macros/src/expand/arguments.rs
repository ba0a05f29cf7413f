//! The arguments of a method as one serde value, declared where it is used so that no name leaks.

use crate::ast::{Argument, Method, without_groups};
use crate::names::wire_name;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Path, PathArguments, Type};

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
    let fields = method.arguments.iter().enumerate().map(|(at, argument)| {
        let (name, ty) = (argument.name, argument.ty());
        // A missing `Option` is `None` in a map anyway, but not at the end of an array.
        let may_be_missing = method.arguments.iter().skip(at).all(is_option);
        let default = match way {
            Way::In if may_be_missing => Some(quote!(#[serde(default)])),
            Way::In | Way::Out => None,
        };
        quote!(#default #name: #ty)
    });
    // Errors quote the names of the struct, and the user wrote none.
    let expecting = match way {
        Way::In => {
            let expected = expected(method);
            Some(quote!(#[serde(expecting = #expected)]))
        }
        Way::Out => None,
    };
    // At the method's place, so that rustc points there when an argument cannot be encoded.
    let span = Span::call_site().located_at(method.ident().span());
    let derived = Ident::new(derived, span);
    let derive = quote_spanned!(span=> #[derive(__lepus_serde::#derived)]);
    // Through an alias, because serde takes the path as a string and `$crate` is none.
    quote! {
        use #krate::__rt::serde as __lepus_serde;
        #derive
        #[serde(crate = "__lepus_serde", rename = "arguments")]
        #expecting
        struct #ident {
            #(#fields,)*
        }
    }
}

/// The arguments, for an error that ends in "expected …".
fn expected(method: &Method<'_>) -> String {
    let names = method.arguments.iter();
    let names: Vec<_> = names
        .map(|argument| format!("`{}`", wire_name(argument.name)))
        .collect();
    let arguments = match names.len() {
        1 => "argument",
        _ => "arguments",
    };
    format!(
        "a map or an array of the {arguments} {} of `{}`",
        names.join(", "),
        method.name()
    )
}

/// Whether an argument is an `Option`, as far as its type says so itself: an alias hides it.
fn is_option(argument: &Argument<'_>) -> bool {
    let Type::Path(path) = without_groups(argument.ty()) else {
        return false;
    };
    let last = path.path.segments.last();
    last.is_some_and(|last| {
        last.ident == "Option" && matches!(last.arguments, PathArguments::AngleBracketed(_))
    })
}
