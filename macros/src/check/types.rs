//! Rules of types: values that are sent are owned, and their types are known to both sides.

use crate::ast::{Method, incoming_item, item_of, segments, without_groups};
use crate::ctxt::Ctxt;
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{Lifetime, Pat, PatType, ReturnType, Type, TypeImplTrait, TypePath, TypeReference};

pub(super) fn check(ctxt: &Ctxt, method: &Method<'_>) {
    for input in &method.original.sig.inputs {
        if let syn::FnArg::Typed(input) = input {
            if not_context(ctxt, input) {
                continue;
            }
            // A stream itself, and the values in it.
            let sent = incoming_item(&input.ty).unwrap_or(&input.ty);
            sized(ctxt, sent);
            SentTypes { ctxt }.visit_type(sent);
        }
    }
    let sent = match (method.stream_item(), &method.original.sig.output) {
        // Reported with the rules of streams.
        (Some(item), _) if matches!(without_groups(item.ty()), Type::ImplTrait(_)) => None,
        (Some(item), _) => Some(item.ty()),
        (None, ReturnType::Type(_, output)) => Some(&**output),
        (None, ReturnType::Default) => None,
    };
    if let Some(sent) = sent {
        sized(ctxt, sent);
        SentTypes { ctxt }.visit_type(sent);
    }
}

// Other frameworks pass the facts of a request as an argument. Here every argument is sent by the client. A
// `Context` of another crate can be an argument, if it has another path or the argument another name.
//
// Returns whether the argument was reported.
fn not_context(ctxt: &Ctxt, input: &PatType) -> bool {
    let ty = without_groups(&input.ty);
    let owned = match ty {
        Type::Reference(reference) => without_groups(&reference.elem),
        ty => ty,
    };
    let Type::Path(TypePath { qself: None, path }) = owned else {
        return false;
    };
    let words = segments(path);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let is_named_so = matches!(
        &*input.pat,
        Pat::Ident(name) if ["ctx", "_ctx", "context", "_context", "cx", "_cx"].contains(&&*name.ident.to_string())
    );
    let is_context = match *words.as_slice() {
        ["lepus", "Context"] => true,
        ["Context"] => is_named_so,
        _ => false,
    };
    if is_context {
        let message = "the context of a request is no argument, because the client does not send it: \
                       remove it and call `lepus::Context::current()` in the method";
        ctxt.error_on(input, message);
    }
    is_context
}

// An argument or a result is a value of known size.
fn sized(ctxt: &Ctxt, ty: &Type) {
    match without_groups(ty) {
        Type::Slice(slice) => {
            let element = display(&slice.elem);
            ctxt.error_on(
                ty,
                format!("a slice cannot be sent: write `Vec<{element}>`"),
            );
        }
        Type::Path(path) if path.path.is_ident("str") => {
            ctxt.error_on(ty, "`str` cannot be sent: write `String`");
        }
        Type::TraitObject(_) => {
            ctxt.error_on(ty, "a trait object cannot be sent: write a concrete type");
        }
        Type::Never(_) => ctxt.error_on(ty, "`!` cannot be sent: write a concrete type"),
        _ => {}
    }
}

// Reports borrowed and opaque types at any depth of a type.
struct SentTypes<'c> {
    ctxt: &'c Ctxt,
}

impl<'ast> Visit<'ast> for SentTypes<'_> {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        let instead = match without_groups(&reference.elem) {
            Type::Path(path) if path.path.is_ident("str") => "write `String`".to_owned(),
            Type::Slice(slice) => format!("write `Vec<{}>`", display(&slice.elem)),
            owned => format!("pass it by value: write `{}`", display(owned)),
        };
        self.ctxt
            .error_on(reference, format!("a reference cannot be sent: {instead}"));
    }

    fn visit_type_impl_trait(&mut self, opaque: &'ast TypeImplTrait) {
        let message = match item_of(opaque) {
            Some(item) => format!("a method takes a stream as `Incoming<{}>`", display(item)),
            None => "`impl Trait` cannot be sent: write a concrete type".to_owned(),
        };
        self.ctxt.error_on(opaque, message);
    }

    fn visit_type_path(&mut self, path: &'ast TypePath) {
        if path
            .path
            .segments
            .first()
            .is_some_and(|first| first.ident == "Self")
        {
            self.ctxt.error_on(
                path,
                "`Self` is unknown to the client: write a concrete type",
            );
        } else if is_incoming(path) {
            self.ctxt.error_on(
                path,
                "`Incoming` is an argument of its own, and in no other type: write `items: Incoming<…>`; a method \
                 returns a stream as `impl Stream<Item = …>`",
            );
        } else {
            visit::visit_type_path(self, path);
        }
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if lifetime.ident != "static" {
            let message = format!("borrowed data cannot be sent: write `'static` for `{lifetime}`");
            self.ctxt.error_on(lifetime, message);
        }
    }
}

/// Whether a type is written as `Incoming<T>`.
fn is_incoming(path: &TypePath) -> bool {
    incoming_item(&Type::Path(path.clone())).is_some()
}

/// Formats tokens for a message, with about the spaces that a user would write.
pub(crate) fn display(tokens: &impl ToTokens) -> String {
    let spaced = tokens.to_token_stream().to_string();
    [
        (" < ", "<"),
        (" >", ">"),
        ("> ", ">"),
        (" :: ", "::"),
        (" ,", ","),
        ("< ", "<"),
    ]
    .iter()
    .fold(spaced, |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_written() {
        let ty: Type = syn::parse_quote!(std::collections::HashMap<String, Vec<u8>>);
        assert_eq!(display(&ty), "std::collections::HashMap<String, Vec<u8>>");
    }
}
