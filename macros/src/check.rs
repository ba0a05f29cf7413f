//! The rules of a contract, one function a rule.

mod method;
mod names;
mod types;

use crate::ast::{Contract, is_async_trait};
use crate::ctxt::Ctxt;

/// Reports every breach of every rule.
pub(crate) fn check(ctxt: &Ctxt, contract: &Contract<'_>) {
    plain_trait(ctxt, contract);
    no_async_trait(ctxt, contract);
    durable_quorum(ctxt, contract);
    one_default(ctxt, contract);
    names::check(ctxt, contract);
    for method in &contract.methods {
        method::check(ctxt, contract, method);
        types::check(ctxt, method);
    }
}

// A client knows the trait's name alone, so nothing about the trait may depend on parameters.
fn plain_trait(ctxt: &Ctxt, contract: &Contract<'_>) {
    let original = contract.original;
    if !original.generics.params.is_empty() {
        ctxt.error_on(
            &original.generics,
            "a contract cannot be generic: write the concrete types in its methods",
        );
    }
    if let Some(token) = original.unsafety {
        ctxt.error_on(token, "a contract cannot be unsafe: remove `unsafe`");
    }
    if let Some(token) = original.auto_token {
        ctxt.error_on(token, "a contract cannot be an auto trait: remove `auto`");
    }
}

// Async methods need no other macro, and another one would box what this one generates.
fn no_async_trait(ctxt: &Ctxt, contract: &Contract<'_>) {
    for attribute in &contract.original.attrs {
        if is_async_trait(attribute) {
            ctxt.error_on(
                attribute,
                "a contract is async by itself: remove `#[async_trait]`, here and above its impls",
            );
        }
    }
}

// RabbitMQ's quorum queues are durable always.
fn durable_quorum(ctxt: &Ctxt, contract: &Contract<'_>) {
    if let (Some(transient), Some(_)) = (contract.options.transient, contract.options.quorum) {
        ctxt.error_at(
            transient,
            "a quorum queue is durable: remove `durable = false` or `quorum`",
        );
    }
}

// A request without a method's name goes to one method, so there can be one alone.
fn one_default(ctxt: &Ctxt, contract: &Contract<'_>) {
    let mut defaults = contract
        .methods
        .iter()
        .filter_map(|method| method.options.default.map(|span| (method, span)));
    let Some((first, _)) = defaults.next() else {
        return;
    };
    for (method, span) in defaults {
        if !names::are_alternatives(first, method) {
            let taken = first.ident();
            ctxt.error_at(
                span,
                format!("`{taken}` is the default method: remove one `default`"),
            );
        }
    }
}
