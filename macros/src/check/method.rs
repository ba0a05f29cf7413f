//! Methods: their signatures, and which options go together.

use crate::ast::{Contract, Method, Returns, is_conditional, without_groups};
use crate::ctxt::Ctxt;
use crate::names::Kind;
use quote::ToTokens;
use syn::{FnArg, Receiver, Type};

pub(super) fn check(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    own_attribute(ctxt, contract, method);
    conditional_attribute(ctxt, contract, method);
    is_async(ctxt, method);
    no_qualifiers(ctxt, method);
    not_generic(ctxt, method);
    shared_self(ctxt, method);
    task_result(ctxt, contract, method);
    oneway_returns_nothing(ctxt, method);
    repeatable_or_not(ctxt, method);
    bare_takes_one(ctxt, method);
    unstructured_codec(ctxt, contract, method);
}

// A service's methods carry `#[rpc]`, a task `#[task]`.
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

// rustc opens a `#[cfg_attr]` inside the trait only after the macro has run.
fn conditional_attribute(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let ours = contract.kind.method_attribute();
    for attribute in &method.original.attrs {
        if is_conditional(attribute, ours) {
            let message = format!(
                "`#[{ours}]` cannot stand in a `cfg_attr`: write the method twice, each under its \
                 own `#[cfg]`"
            );
            ctxt.error_on(attribute, message);
        }
    }
}

// A call waits for the network.
fn is_async(ctxt: &Ctxt, method: &Method<'_>) {
    let signature = &method.original.sig;
    if signature.asyncness.is_none() {
        let name = &signature.ident;
        ctxt.error_on(
            signature.fn_token,
            format!("a call is async: write `async fn {name}`"),
        );
    }
}

// A method is called by name from anywhere: there is no ABI, no contract outside the signature.
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

// The server decodes concrete types, whoever calls.
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

// One implementation serves many requests at a time.
fn shared_self(ctxt: &Ctxt, method: &Method<'_>) {
    let signature = &method.original.sig;
    let (found, message): (&dyn ToTokens, _) = match signature.inputs.first() {
        Some(FnArg::Receiver(receiver)) if is_shared(receiver) => return,
        Some(FnArg::Receiver(receiver)) if is_exclusive(receiver) => (
            receiver,
            "requests are handled side by side: write `&self` and keep what changes behind a lock",
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

/// `&self`, or the same written out.
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

// Nobody waits for a task: it is done or it failed.
fn task_result(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    if contract.kind != Kind::Tasks {
        return;
    }
    let whole = match &method.returns {
        Returns::Nothing | Returns::HalfResult(_) => return,
        Returns::Value(whole) => whole,
        Returns::Result { whole, ok, .. } => match without_groups(ok) {
            Type::Tuple(unit) if unit.elems.is_empty() => return,
            _ => whole,
        },
    };
    ctxt.error_on(
        whole,
        "nobody reads a task's value: return nothing or `Result<(), E>`",
    );
}

// A oneway call is over once the broker has it.
fn oneway_returns_nothing(ctxt: &Ctxt, method: &Method<'_>) {
    if method.options.oneway.is_none() {
        return;
    }
    match &method.returns {
        Returns::Nothing => {}
        Returns::Value(ty) | Returns::Result { whole: ty, .. } | Returns::HalfResult(ty) => {
            ctxt.error_on(
                ty,
                "a oneway method returns nothing: remove the type or `oneway`",
            );
        }
    }
}

// An idempotent call is sent again when a connection is lost; one at most once never is.
fn repeatable_or_not(ctxt: &Ctxt, method: &Method<'_>) {
    if let (Some(_), Some(at_most_once)) = (method.options.idempotent, method.options.at_most_once)
    {
        ctxt.error_at(
            at_most_once,
            "an idempotent method may run twice: remove `at_most_once` or `idempotent`",
        );
    }
}

// Bare is the one argument itself, without a map around it.
fn bare_takes_one(ctxt: &Ctxt, method: &Method<'_>) {
    if let Some(bare) = method.options.bare {
        let written = method
            .original
            .sig
            .inputs
            .iter()
            .filter(|i| matches!(i, FnArg::Typed(_)))
            .count();
        if written != 1 {
            let message = format!(
                "bare params are one argument, this method has {written}: remove \
                 `params = \"bare\"` or put them into one struct"
            );
            ctxt.error_at(bare, message);
        }
    }
}

// Text and bytes have no map to put arguments into.
fn unstructured_codec(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let Some(codec) = contract.options.unstructured_codec() else {
        return;
    };
    let takes_something = method
        .original
        .sig
        .inputs
        .iter()
        .any(|input| matches!(input, FnArg::Typed(_)));
    if takes_something && method.options.bare.is_none() {
        let attribute = contract.kind.method_attribute();
        let message = format!(
            "the `{codec}` codec carries one value: write `#[{attribute}(params = \"bare\")]` \
             above `{}`",
            method.ident()
        );
        ctxt.error_at(method.ident().span(), message);
    }
}
