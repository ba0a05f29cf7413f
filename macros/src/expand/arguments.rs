//! The arguments of a method as a struct for serde, declared inside the function that uses it so that
//! its name is not visible elsewhere.

use crate::ast::{Argument, Method};
use crate::names::wire_name;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Path;

/// The direction in which the arguments are sent.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Out,
    In,
}

/// The struct's name. Items are not hygienic, so it is a name that users do not have.
pub(super) fn ident() -> Ident {
    format_ident!("__LepusArguments")
}

/// The declaration of the struct, for the start of a function body.
pub(super) fn declaration(krate: &Path, method: &Method<'_>, direction: Direction) -> TokenStream {
    let ident = ident();
    let derived = match direction {
        Direction::Out => "Serialize",
        Direction::In => "Deserialize",
    };
    let fields = fields(method, direction);
    // serde's errors would name the struct, which the user does not know.
    let expecting = match direction {
        Direction::In => {
            let expected = expected(method);
            Some(quote!(#[serde(expecting = #expected)]))
        }
        Direction::Out => None,
    };
    // With the method's span, so that rustc points there if an argument cannot be encoded.
    let span = Span::call_site().located_at(method.ident().span());
    let derived = Ident::new(derived, span);
    let derive = quote_spanned!(span=> #[derive(__lepus_serde::#derived)]);
    let aliases = aliases(krate, method.arguments.iter().any(|it| it.is_octets()));
    quote! {
        #aliases
        #derive
        #[serde(crate = "__lepus_serde", rename = "arguments")]
        #expecting
        struct #ident {
            #(#fields,)*
        }
    }
}

/// Names for serde's attributes, which take a path as a string, which cannot contain `$crate`.
pub(super) fn aliases(krate: &Path, has_octets: bool) -> TokenStream {
    let octets = has_octets.then(|| quote!(use #krate::__rt::octets as __lepus_octets;));
    quote! {
        use #krate::__rt::serde as __lepus_serde;
        #octets
    }
}

/// The attribute of an argument that is sent as bytes.
pub(super) fn as_octets(argument: &Argument<'_>) -> Option<TokenStream> {
    argument
        .is_octets()
        .then(|| quote!(#[serde(with = "__lepus_octets")]))
}

/// The fields for serde.
pub(super) fn fields(
    method: &Method<'_>,
    direction: Direction,
) -> impl Iterator<Item = TokenStream> {
    method
        .arguments
        .iter()
        .enumerate()
        .map(move |(at, argument)| {
            let (name, ty) = (argument.name, argument.ty());
            let as_octets = as_octets(argument);
            // serde reads a missing `Option` as `None` in a map, but neither at the end of an array, nor if
            // a function decodes it.
            let may_be_missing = (as_octets.is_some() && argument.is_option())
                || method.arguments.iter().skip(at).all(Argument::is_option);
            let default = match direction {
                Direction::In if may_be_missing => Some(quote!(#[serde(default)])),
                Direction::In | Direction::Out => None,
            };
            quote!(#default #as_octets #name: #ty)
        })
}

/// The description of the arguments in serde's "expected …" errors.
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
