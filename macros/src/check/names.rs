//! Rules of names: valid on the wire, unique, and not those of generated items.

use crate::ast::{Contract, Method};
use crate::ctxt::Ctxt;
use crate::names::{is_version, name_problem, queue_problem, wire_name};
use proc_macro2::Span;

pub(super) fn check(ctxt: &Ctxt, contract: &Contract<'_>) {
    service_name(ctxt, contract);
    version(ctxt, contract);
    for method in &contract.methods {
        method_name(ctxt, method);
        reserved(ctxt, contract, method);
    }
    unique(ctxt, contract);
}

/// Whether two methods are alternatives of one, each under its own `#[cfg]`. If both are compiled,
/// rustc reports the second one.
pub(super) fn are_alternatives(a: &Method<'_>, b: &Method<'_>) -> bool {
    a.ident() == b.ident() && a.cfgs().next().is_some() && b.cfgs().next().is_some()
}

// The service's name and its queue are AMQP names. Without `queue`, the name is also the queue's.
fn service_name(ctxt: &Ctxt, contract: &Contract<'_>) {
    let options = &contract.options;
    let problem = if options.queue.is_some() {
        name_problem
    } else {
        queue_problem
    };
    let span = options
        .name
        .as_ref()
        .map_or(contract.original.ident.span(), |name| name.span());
    report(ctxt, span, problem(&contract.name()));
    if let Some(queue) = &options.queue {
        report(ctxt, queue.span(), queue_problem(&queue.value()));
    }
}

// Versions have the form `major.minor.patch`.
fn version(ctxt: &Ctxt, contract: &Contract<'_>) {
    if let Some(version) = &contract.options.version
        && !is_version(&version.value())
    {
        let found = version.value();
        let message =
            format!("`{found}` is not a version: write `major.minor.patch`, as in \"1.0.0\"");
        ctxt.error_at(version.span(), message);
    }
}

// A method's name and its queue are AMQP names. The name is the `type` of messages, where names that start with
// `lepus.` belong to the protocol.
fn method_name(ctxt: &Ctxt, method: &Method<'_>) {
    let span = method
        .options
        .name
        .as_ref()
        .map_or(method.ident().span(), |name| name.span());
    let name = method.name();
    report(ctxt, span, name_problem(&name));
    if name.starts_with("lepus.") {
        let message = "names that start with `lepus.` belong to Lepus: choose another";
        ctxt.error_at(span, message);
    }
    if let Some(queue) = &method.options.queue {
        report(ctxt, queue.span(), queue_problem(&queue.value()));
    }
}

// The sending half has a method for each of the trait's, beside its own ones.
fn reserved(ctxt: &Ctxt, contract: &Contract<'_>, method: &Method<'_>) {
    let kind = contract.kind;
    let name = wire_name(method.ident());
    if kind.reserved().contains(&name.as_str()) {
        let (stub, attribute) = (kind.stub(), kind.method_attribute());
        let message = format!(
            "the generated {stub} has its own `{name}`: rename the method and keep its wire name \
             with `#[{attribute}(name = \"{name}\")]`"
        );
        ctxt.error_at(method.ident().span(), message);
    }
}

// A message names its method by the wire name alone.
fn unique(ctxt: &Ctxt, contract: &Contract<'_>) {
    for (at, method) in contract.methods.iter().enumerate() {
        let name = method.name();
        let taken = contract
            .methods
            .iter()
            .take(at)
            .find(|earlier| earlier.name() == name && !are_alternatives(earlier, method));
        if let Some(earlier) = taken {
            let span = method
                .options
                .name
                .as_ref()
                .map_or(method.ident().span(), |name| name.span());
            let earlier = earlier.ident();
            let attribute = contract.kind.method_attribute();
            let message = format!(
                "the wire name `{name}` is taken by `{earlier}`: choose another with \
                 `#[{attribute}(name = \"…\")]`"
            );
            ctxt.error_at(span, message);
        }
    }
}

fn report(ctxt: &Ctxt, span: Span, problem: Option<String>) {
    if let Some(problem) = problem {
        ctxt.error_at(span, problem);
    }
}
