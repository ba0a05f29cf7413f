//! Rules of a contract, each in a function of its own.

mod method;
mod names;
mod types;

pub(crate) use types::display;

use crate::ast::{Contract, is_async_trait};
use crate::ctxt::Ctxt;

/// Reports each violation of a rule.
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

// A request contains only the name of the service: no generic arguments could be passed.
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

// `async_trait` is applied for `dyn`. Otherwise it is not needed, and would box the futures of the trait.
fn no_async_trait(ctxt: &Ctxt, contract: &Contract<'_>) {
    for attribute in &contract.original.attrs {
        if is_async_trait(attribute) {
            let attribute_of_ours = contract.kind.attribute();
            let message = if contract.options.is_dyn {
                "`dyn` applies `async_trait` to the trait: remove `#[async_trait]` here, but not above \
                 its impls"
                    .to_owned()
            } else {
                format!(
                    "a contract needs no `async_trait`: remove `#[async_trait]`, here and above its \
                     impls, or write `#[lepus::{attribute_of_ours}(dyn)]` to use it as `dyn {}`",
                    contract.original.ident
                )
            };
            ctxt.error_on(attribute, message);
        }
    }
}

// RabbitMQ's quorum queues are always durable.
fn durable_quorum(ctxt: &Ctxt, contract: &Contract<'_>) {
    if let (Some(transient), Some(_)) = (contract.options.transient, contract.options.quorum) {
        ctxt.error_at(
            transient,
            "a quorum queue is durable: remove `durable = false` or `quorum`",
        );
    }
}

// A request that names no method goes to the default method.
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
