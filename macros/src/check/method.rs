//! Rules of methods: their signatures, and combinations of options.

use crate::ast::{Contract, Method, Returns, incoming_item, is_conditional, without_groups};
use crate::ctxt::Ctxt;
use crate::names::Kind;
use quote::ToTokens;
use syn::{FnArg, Receiver, Type};

pub(super) fn check(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    own_attribute(ctxt, contract, method);
    conditional_attribute(ctxt, contract, method);
    is_async(ctxt, method);
    stream_can_be_sent(ctxt, contract, method);
    stream_is_opened_once(ctxt, method);
    takes_one_stream(ctxt, contract, method);
    stream_ends_with_its_caller(ctxt, method);
    no_qualifiers(ctxt, method);
    not_generic(ctxt, method);
    shared_self(ctxt, method);
    task_result(ctxt, contract, method);
    oneway_returns_nothing(ctxt, method);
    repeatable_or_not(ctxt, method);
    bare_takes_one(ctxt, method);
    strict_has_names(ctxt, method);
    strict_has_a_reply(ctxt, method);
    cancel_has_a_caller(ctxt, method);
    unstructured_codec(ctxt, contract, method);
}

// The methods of a service have `#[rpc]`, tasks have `#[task]`.
fn own_attribute(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let (ours, theirs) = (contract.kind, contract.kind.other());
    for attribute in &method.original.attrs {
        if attribute.path().is_ident(theirs.method_attribute()) {
            let message = format!(
                "`#[{}]` belongs to `#[lepus::{}]`: write `#[{}]`",
                theirs.method_attribute(),
                theirs.attribute(),
                ours.method_attribute()
            );
            ctxt.error_on(attribute.path(), message);
        }
    }
}

// rustc expands a `#[cfg_attr]` inside the trait only after the macro has run.
fn conditional_attribute(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let ours = contract.kind.method_attribute();
    for attribute in &method.original.attrs {
        if is_conditional(attribute, ours) {
            let message = format!(
                "`#[{ours}]` cannot be in a `cfg_attr`: write the method twice, each under its \
                 own `#[cfg]`"
            );
            ctxt.error_on(attribute, message);
        }
    }
}

// A call waits for the network.
fn is_async(ctxt: &Ctxt, method: &Method<'_>) {
    let signature = &method.original.sig;
    if method.stream_item().is_some() {
        if let Some(token) = signature.asyncness {
            ctxt.error_on(token, "a stream is returned at once: remove `async`");
        }
    } else if signature.asyncness.is_none() {
        let name = &signature.ident;
        ctxt.error_on(
            signature.fn_token,
            format!("a call is async: write `async fn {name}`"),
        );
    }
}

// Only a service's method has a caller that reads items, and a trait object cannot have a method of an opaque type.
fn stream_can_be_sent(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let Returns::Stream { whole, item } = &method.returns else {
        return;
    };
    if contract.kind == Kind::Service && contract.options.is_dyn {
        ctxt.error_on(
            whole,
            "a trait that is used as `dyn` cannot return a stream: remove `dyn`, or put the stream into a trait of \
             its own",
        );
    }
    if let Type::ImplTrait(_) = without_groups(item.ty()) {
        ctxt.error_on(
            item.ty(),
            "an item of a stream is one value, and cannot be a stream itself: write its concrete type",
        );
    }
}

// A stream is acknowledged when it begins, and items that were sent cannot be taken back.
fn stream_is_opened_once(ctxt: &Ctxt, method: &Method<'_>) {
    if method.stream_item().is_none() && method.upload().is_none() {
        return;
    }
    if let Some(idempotent) = method.options.idempotent {
        ctxt.error_at(
            idempotent,
            "a stream is never opened a second time by itself: remove `idempotent`",
        );
    }
    if let Some(at_most_once) = method.options.at_most_once {
        ctxt.error_at(
            at_most_once,
            "a stream runs at most once in any case: remove `at_most_once`",
        );
    }
}

// A request has one stream of items, which its caller sends for as long as the call lasts.
fn takes_one_stream(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let Some(upload) = method.upload() else {
        return;
    };
    for (_, further) in method.incoming.iter().skip(1) {
        ctxt.error_on(
            further.original,
            "a method takes one stream: put the items into one enum, or some of them into a `Vec`",
        );
    }
    if contract.kind == Kind::Tasks {
        ctxt.error_on(
            upload.original,
            "a job is one message, and takes no stream: push a job for each item",
        );
    }
    if let Some(oneway) = method.options.oneway {
        ctxt.error_at(
            oneway,
            "a oneway call ends when its request is sent, before any item: remove `oneway`",
        );
    }
}

// Neither direction of a stream goes on without a caller.
fn stream_ends_with_its_caller(ctxt: &Ctxt, method: &Method<'_>) {
    let refused = method.options.cancel.as_ref().filter(|it| !it.value);
    let text = if method.upload().is_some() {
        "no items come without a caller, so the method ends with it: remove `cancel`"
    } else if method.stream_item().is_some() {
        "nobody reads the items without a caller, so the stream ends with it: remove `cancel`"
    } else {
        return;
    };
    if let Some(cancel) = refused {
        ctxt.error_at(cancel.span, text);
    }
}

// A method is called by name over the network: only its arguments and its result are sent.
fn no_qualifiers(ctxt: &Ctxt, method: &Method<'_>) {
    let signature = &method.original.sig;
    if let Some(token) = signature.constness {
        ctxt.error_on(
            token,
            "a method of a contract cannot be const: remove `const`",
        );
    }
    if let Some(token) = signature.unsafety {
        ctxt.error_on(
            token,
            "a method of a contract cannot be unsafe: remove `unsafe`",
        );
    }
    if let Some(abi) = &signature.abi {
        ctxt.error_on(abi, "a method of a contract has no ABI: remove `extern`");
    }
    if let Some(variadic) = &signature.variadic {
        ctxt.error_on(
            variadic,
            "a method of a contract cannot be variadic: pass a `Vec`",
        );
    }
}

// The server must know the types that it decodes.
fn not_generic(ctxt: &Ctxt, method: &Method<'_>) {
    let generics = &method.original.sig.generics;
    if !generics.params.is_empty() {
        ctxt.error_on(
            generics,
            "a method of a contract cannot be generic: write the concrete types",
        );
    }
    if let Some(clause) = &generics.where_clause {
        ctxt.error_on(
            clause,
            "a method of a contract has no `where` clause: remove it",
        );
    }
}

// One implementation handles several requests at the same time.
fn shared_self(ctxt: &Ctxt, method: &Method<'_>) {
    let signature = &method.original.sig;
    let (found, message): (&dyn ToTokens, _) = match signature.inputs.first() {
        Some(FnArg::Receiver(receiver)) if is_shared(receiver) => return,
        Some(FnArg::Receiver(receiver)) if is_exclusive(receiver) => (
            receiver,
            "requests are handled concurrently: write `&self` and put mutable state behind a lock",
        ),
        Some(FnArg::Receiver(receiver)) => (
            receiver,
            "the implementation outlives each request: write `&self`",
        ),
        _ => (
            &signature.ident,
            "a method of a contract takes `&self`: write it first",
        ),
    };
    ctxt.error_on(found, message);
}

/// Whether the receiver is `&self` or `self: &Self`.
fn is_shared(receiver: &Receiver) -> bool {
    match without_groups(&receiver.ty) {
        Type::Reference(reference) => {
            let to_self =
                matches!(&*reference.elem, Type::Path(path) if path.path.is_ident("Self"));
            to_self && reference.mutability.is_none() && reference.lifetime.is_none()
        }
        _ => false,
    }
}

fn is_exclusive(receiver: &Receiver) -> bool {
    matches!(&*receiver.ty, Type::Reference(reference) if reference.mutability.is_some())
}

// A task has no reply: it succeeds or fails.
fn task_result(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    if contract.kind != Kind::Tasks {
        return;
    }
    let whole = match &method.returns {
        // An alias of `Result<(), E>` is one; rustc refuses another type.
        Returns::Nothing | Returns::MaybeResult(_) => return,
        Returns::Value(whole) | Returns::Stream { whole, .. } => whole,
        Returns::Result { whole, ok, .. } => match without_groups(ok) {
            Type::Tuple(unit) if unit.elems.is_empty() => return,
            _ => whole,
        },
    };
    ctxt.error_on(
        whole,
        "a task has no reply: return nothing or `Result<(), E>`",
    );
}

// A oneway call has no reply.
fn oneway_returns_nothing(ctxt: &Ctxt, method: &Method<'_>) {
    if method.options.oneway.is_none() {
        return;
    }
    match &method.returns {
        Returns::Nothing => {}
        Returns::Value(ty)
        | Returns::Result { whole: ty, .. }
        | Returns::MaybeResult(ty)
        | Returns::Stream { whole: ty, .. } => {
            ctxt.error_on(
                ty,
                "a oneway method returns nothing: remove the type or `oneway`",
            );
        }
    }
}

// An idempotent call is sent again if its connection is lost, so that the method may run twice.
fn repeatable_or_not(ctxt: &Ctxt, method: &Method<'_>) {
    if let (Some(_), Some(at_most_once)) = (method.options.idempotent, method.options.at_most_once)
    {
        ctxt.error_at(
            at_most_once,
            "an idempotent method may run twice: remove `at_most_once` or `idempotent`",
        );
    }
}

// A bare argument is sent by itself, without a map around it.
fn bare_takes_one(ctxt: &Ctxt, method: &Method<'_>) {
    if let Some(bare) = method.options.bare {
        let inputs = method.original.sig.inputs.iter();
        let written = inputs.filter(|input| is_sent_in_request(input)).count();
        if written != 1 {
            let message = format!(
                "bare params need exactly one argument, this method has {written}: remove \
                 `params = \"bare\"` or put them into one struct"
            );
            ctxt.error_at(bare, message);
        }
    }
}

/// Whether it is an argument, other than a stream, whose items follow the request.
fn is_sent_in_request(input: &FnArg) -> bool {
    match input {
        FnArg::Typed(argument) => incoming_item(&argument.ty).is_none(),
        FnArg::Receiver(_) => false,
    }
}

// A bare argument has no map around it that could have further ones.
fn strict_has_names(ctxt: &Ctxt, method: &Method<'_>) {
    if let (Some(strict), Some(_)) = (method.options.strict, method.options.bare) {
        ctxt.error_at(
            strict,
            "a bare argument has no others beside it: remove `strict` or `params = \"bare\"`",
        );
    }
}

// The caller of a oneway method does not wait for a refusal.
fn strict_has_a_reply(ctxt: &Ctxt, method: &Method<'_>) {
    if let (Some(strict), Some(_)) = (method.options.strict, method.options.oneway) {
        ctxt.error_at(
            strict,
            "a oneway call has no reply that could refuse an argument: remove `strict` or `oneway`",
        );
    }
}

// The caller of a oneway method does not wait for its end.
fn cancel_has_a_caller(ctxt: &Ctxt, method: &Method<'_>) {
    if let (Some(cancel), Some(_)) = (&method.options.cancel, method.options.oneway) {
        ctxt.error_at(
            cancel.span,
            "nobody waits for a oneway call, so nobody can give it up: remove `cancel` or `oneway`",
        );
    }
}

// The codecs `text` and `bytes` cannot encode a map of arguments.
fn unstructured_codec(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let Some(codec) = contract.options.unstructured_codec() else {
        return;
    };
    let takes_something = method.original.sig.inputs.iter().any(is_sent_in_request);
    if takes_something && method.options.bare.is_none() {
        let attribute = contract.kind.method_attribute();
        let message = format!(
            "the `{codec}` codec encodes a single value: write `#[{attribute}(params = \"bare\")]` \
             above `{}`",
            method.ident()
        );
        ctxt.error_at(method.ident().span(), message);
    }
}
