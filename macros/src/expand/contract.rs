//! The trait, as written except for its futures, which are `Send`; and boxed, if it is to be used as
//! `dyn Trait`.

use crate::ast::{Contract, is_async_trait, is_conditional, item_of};
use crate::names::Kind;
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::{
    Attribute, FnArg, ItemTrait, Pat, ReturnType, TraitItem, TraitItemFn, Type, parse_quote,
};

/// The trait of a contract without mistakes.
pub(super) fn definition(contract: &Contract<'_>) -> TokenStream {
    let mut definition = contract.original.clone();
    rewrite(contract, &mut definition);
    definition.into_token_stream()
}

/// The trait of a contract with mistakes, without the parts that rustc would report again.
pub(super) fn fallback(contract: &Contract<'_>) -> TokenStream {
    let mut definition = contract.original.clone();
    definition
        .attrs
        .retain(|attribute| !is_async_trait(attribute));
    for item in &mut definition.items {
        if let TraitItem::Fn(method) = item {
            method.sig.constness = None;
            method.sig.variadic = None;
            if method.default.is_none() {
                unname_patterns(method);
            }
        }
    }
    rewrite(contract, &mut definition);
    definition.into_token_stream()
}

fn rewrite(contract: &Contract<'_>, definition: &mut ItemTrait) {
    definition
        .supertraits
        .push(parse_quote!(::core::marker::Send));
    definition
        .supertraits
        .push(parse_quote!(::core::marker::Sync));
    definition.supertraits.push(parse_quote!('static));
    definition.colon_token.get_or_insert_default();
    // With only a client, the methods are never called. Default bodies have to be async blocks.
    definition
        .attrs
        .push(parse_quote!(#[allow(dead_code, clippy::manual_async_fn)]));
    for item in &mut definition.items {
        if let TraitItem::Fn(method) = item {
            clean_method(method);
            if !contract.options.is_dyn {
                rewrite_method(method);
                bound_stream(method);
            }
        }
    }
    if contract.options.is_dyn {
        // The last one, so that the user's attributes see the trait as it is written, as `mockall` needs.
        let krate = &contract.options.krate;
        definition
            .attrs
            .push(parse_quote!(#[#krate::__rt::async_trait]));
    }
}

/// Removes the attributes that are for Lepus.
fn clean_method(method: &mut TraitItemFn) {
    let is_ours = |attribute: &Attribute| {
        [Kind::Service, Kind::Tasks]
            .map(Kind::method_attribute)
            .iter()
            .any(|ours| attribute.path().is_ident(ours) || is_conditional(attribute, ours))
    };
    method.attrs.retain(|attribute| !is_ours(attribute));
    for input in &mut method.sig.inputs {
        if let FnArg::Typed(input) = input {
            input.attrs.clear();
        }
    }
}

/// Rewrites an `async fn` to a function that returns a `Send` future.
fn rewrite_method(method: &mut TraitItemFn) {
    if method.sig.asyncness.take().is_none() {
        return;
    }
    let output = match &method.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, output) => output.to_token_stream(),
    };
    // With the method's span, so that rustc points there and not at the whole trait.
    let span = Span::call_site().located_at(method.sig.ident.span());
    let future = quote_spanned! {span=>
        -> impl ::core::future::Future<Output = #output> + ::core::marker::Send
    };
    method.sig.output = parse_quote!(#future);
    if let Some(body) = &mut method.default {
        let statements = &body.stmts;
        body.stmts = parse_quote! {
            async move {
                #(#statements)*
            }
        };
    }
}

/// Adds `Send` to a stream that a method returns.
fn bound_stream(method: &mut TraitItemFn) {
    let span = Span::call_site().located_at(method.sig.ident.span());
    if let ReturnType::Type(_, output) = &mut method.sig.output
        && let Type::ImplTrait(opaque) = &mut **output
        && item_of(opaque).is_some()
    {
        let send = quote_spanned!(span=> ::core::marker::Send);
        opaque.bounds.push(parse_quote!(#send));
    }
}

fn unname_patterns(method: &mut TraitItemFn) {
    for input in &mut method.sig.inputs {
        if let FnArg::Typed(input) = input {
            let is_name = matches!(&*input.pat, Pat::Ident(pat)
                if pat.by_ref.is_none() && pat.mutability.is_none() && pat.subpat.is_none());
            if !is_name {
                *input.pat = parse_quote!(_);
            }
        }
    }
}
