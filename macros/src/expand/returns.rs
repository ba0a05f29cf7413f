//! Return types that may be aliases of `Result`: rustc is asked by constants in the generated code, because
//! a macro sees only names.

use crate::ast::{Contract, Item, Returns, cfgs, without_groups};
use crate::check::display;
use crate::names::Kind;
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Path, Type};

/// The statements of a constant expression: whether `ty` is a `Result`.
pub(super) fn is_result(krate: &Path, ty: &Type) -> TokenStream {
    quote! {
        #[allow(unused_imports)]
        use #krate::__rt::PlainReturn as _;
        <#krate::__rt::ReturnType<#ty>>::IS_RESULT
    }
}

/// Assertions that the types that are generated as plain values are not aliases of `Result`.
pub(super) fn assertions(contract: &Contract<'_>) -> Vec<TokenStream> {
    if contract.kind != Kind::Service {
        return Vec::new();
    }
    let krate = &contract.options.krate;
    let plain = contract.methods.iter().filter_map(|method| {
        let ty = match method.returns {
            Returns::Value(ty)
            | Returns::Stream {
                item: Item::Value(ty),
                ..
            } => ty,
            _ => return None,
        };
        match without_groups(ty) {
            Type::Path(_) | Type::Macro(_) => Some((method, ty)),
            _ => None,
        }
    });
    let assertion = plain.map(|(method, ty)| {
        let outer = cfgs(&contract.original.attrs);
        let inner = method.cfgs();
        let text = format!(
            "`{}` is an alias of a `Result`, whose error is sent by itself: write `Result<T, E>`, or \
             let the name of the alias end in `Result`",
            display(ty)
        );
        let is_result = is_result(krate, ty);
        let span = Span::call_site().located_at(ty.span());
        // With the type's span, so that rustc points there.
        let assertion = quote_spanned!(span=> ::core::assert!(!{ #is_result }, #text));
        quote! {
            #(#outer)*
            #(#inner)*
            const _: () = #assertion;
        }
    });
    assertion.collect()
}
