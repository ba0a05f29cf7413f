//! The static description of a contract and of each method.

use super::{dispatcher_ident, stub_ident};
use crate::ast::{Contract, Method, docs};
use crate::attr::{Codec, Halves};
use crate::names::wire_name;
use proc_macro2::TokenStream;
use quote::quote;
use syn::Path;

/// `DESCRIPTOR` of the sending half.
pub(super) fn of_stub(contract: &Contract<'_>) -> TokenStream {
    constant(contract, &service(contract))
}

/// `DESCRIPTOR` of the receiving half: that of the sending half, if it is generated.
pub(super) fn of_dispatcher(contract: &Contract<'_>) -> TokenStream {
    match contract.options.halves {
        Halves::Both => {
            let stub = stub_ident(contract);
            constant(contract, &quote!(#stub::DESCRIPTOR))
        }
        Halves::Stub | Halves::Dispatcher => constant(contract, &service(contract)),
    }
}

/// An expression for one method's description.
pub(super) fn method(krate: &Path, service: &str, method: &Method<'_>) -> TokenStream {
    let id = method.id;
    let name = method.name();
    let full_name = format!("{service}/{name}");
    let options = &method.options;
    let arguments = (!method.arguments.is_empty()).then(|| {
        let names = method
            .arguments
            .iter()
            .map(|argument| wire_name(argument.name));
        quote!(.arguments(&[#(#names),*]))
    });
    let docs = docs(&method.original.attrs);
    let doc = (!docs.is_empty()).then(|| quote!(.doc(#docs)));
    let timeout = options
        .timeout_millis
        .map(|millis| quote!(.timeout_millis(#millis)));
    let idempotent = options.idempotent.map(|_| quote!(.idempotent()));
    let oneway = options.oneway.map(|_| quote!(.oneway()));
    let at_most_once = options.at_most_once.map(|_| quote!(.at_most_once()));
    let require_consumer = options
        .require_consumer
        .map(|_| quote!(.require_consumer()));
    let runs_on = options.cancel.as_ref().is_some_and(|cancel| !cancel.value);
    let not_cancelled = runs_on.then(|| quote!(.not_cancelled()));
    let queue = options.queue.as_ref().map(|queue| quote!(.queue(#queue)));
    let default = options.default.map(|_| quote!(.default_method()));
    let bare = options.bare.map(|_| quote!(.bare()));
    let upload = method.upload().map(|_| quote!(.upload()));
    let stream = method.stream_item().map(|_| quote!(.stream()));
    let strict = options.strict.map(|_| quote!(.strict()));
    quote! {
        #krate::__rt::MethodDescriptor::new(#id, #name)
            .full_name(#full_name) #arguments #doc #timeout #idempotent #oneway #at_most_once #require_consumer
            #not_cancelled #queue #default #bare #strict #stream #upload
    }
}

fn constant(contract: &Contract<'_>, value: &TokenStream) -> TokenStream {
    let krate = &contract.options.krate;
    let vis = &contract.original.vis;
    let (stub, dispatcher) = (stub_ident(contract), dispatcher_ident(contract));
    let doc = match contract.options.halves {
        Halves::Both => {
            format!("The description of the contract, shared by `{stub}` and `{dispatcher}`.")
        }
        Halves::Stub | Halves::Dispatcher => "The description of the contract.".to_owned(),
    };
    quote! {
        #[doc = #doc]
        #vis const DESCRIPTOR: &'static #krate::__rt::ServiceDescriptor = #value;
    }
}

/// An expression for the whole description.
fn service(contract: &Contract<'_>) -> TokenStream {
    let options = &contract.options;
    let krate = &options.krate;
    let name = contract.name();
    let methods = contract.methods.iter().map(|it| {
        let cfgs = it.cfgs();
        let method = method(krate, &name, it);
        quote!(#(#cfgs)* #method)
    });
    let version = options
        .version
        .as_ref()
        .map(|version| quote!(.version(#version)));
    let queue = options.queue.as_ref().map(|queue| quote!(.queue(#queue)));
    let codec = options.codec.map(|codec| {
        let codec = match codec {
            Codec::MsgPack => quote!(MsgPack),
            Codec::Json => quote!(Json),
            Codec::Text => quote!(Text),
            Codec::Bytes => quote!(Bytes),
        };
        quote!(.codec(#krate::__rt::Codec::#codec))
    });
    let docs = docs(&contract.original.attrs);
    let doc = (!docs.is_empty()).then(|| quote!(.doc(#docs)));
    let transient = options.transient.map(|_| quote!(.transient()));
    let quorum = options.quorum.map(|_| quote!(.quorum()));
    quote! {{
        const METHODS: &[#krate::__rt::MethodDescriptor] = &[#(#methods),*];
        const SERVICE: #krate::__rt::ServiceDescriptor =
            #krate::__rt::ServiceDescriptor::new(#name, METHODS)
                #version #queue #codec #doc #transient #quorum;
        &SERVICE
    }}
}
