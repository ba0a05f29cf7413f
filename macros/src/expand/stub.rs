//! The sending half: `…Client` for a service, `…Producer` for tasks.

use super::arguments::{self, Direction};
use super::{descriptor, dispatcher_ident, item_attributes, link, returns, stub_ident};
use crate::ast::{Argument, Contract, Item, Method, Returns, docs, is_octets};
use crate::attr::Halves;
use crate::names::{Kind, wire_name};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::spanned::Spanned as _;

pub(super) fn expand(contract: &Contract<'_>) -> TokenStream {
    let krate = &contract.options.krate;
    let vis = &contract.original.vis;
    let attributes = item_attributes(contract);
    let stub = stub_ident(contract);
    let name = link(contract);
    let (inner, doc) = match contract.kind {
        Kind::Service => (
            quote!(client: #krate::__rt::Client),
            format!(
                "The client of {name}: its methods as calls.\n\nA call is sent when it is \
                 awaited. Cloning is cheap, and the clones share one connection."
            ),
        ),
        Kind::Tasks => (
            quote!(producer: #krate::__rt::TaskProducer),
            format!(
                "The producer of {name}: its methods as jobs for a queue.\n\nA job is sent \
                 when it is awaited. Cloning is cheap, and the clones share one connection."
            ),
        ),
    };
    let descriptor = descriptor::of_stub(contract);
    let constructors = constructors(contract);
    let conversion = (contract.kind == Kind::Service).then(|| conversion(contract));
    let methods = contract.methods.iter().map(|it| method(contract, it));
    quote! {
        #attributes
        #[doc = #doc]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #stub {
            #inner,
        }

        #attributes
        impl #stub {
            #descriptor
            #constructors
            #(#methods)*
        }

        #conversion
    }
}

/// The conversion of an untyped client, which also makes `ClientBuilder::build` return a typed one.
fn conversion(contract: &Contract<'_>) -> TokenStream {
    let client = {
        let krate = &contract.options.krate;
        quote!(#krate::__rt::Client)
    };
    let attributes = item_attributes(contract);
    let stub = stub_ident(contract);
    quote! {
        #attributes
        impl ::core::convert::From<#client> for #stub {
            fn from(client: #client) -> Self {
                Self { client }
            }
        }
    }
}

fn constructors(contract: &Contract<'_>) -> TokenStream {
    let krate = &contract.options.krate;
    let vis = &contract.original.vis;
    let definition = &contract.original.ident;
    match contract.kind {
        Kind::Service => {
            let local = (contract.options.halves == Halves::Both).then(|| {
                let dispatcher = dispatcher_ident(contract);
                quote! {
                    /// Creates a client that calls `service` in this process, without a broker.
                    #[must_use]
                    #vis fn local(service: impl #definition) -> Self {
                        Self { client: #krate::__rt::Client::local(#dispatcher::new(service)) }
                    }
                }
            });
            quote! {
                /// Creates a client that calls over `connection`.
                #[must_use]
                #vis fn new(connection: &#krate::__rt::Connection) -> Self {
                    Self { client: #krate::__rt::Client::new(connection, Self::DESCRIPTOR) }
                }

                /// Creates a builder for a client with options, such as its timeout.
                #vis fn builder(
                    connection: &#krate::__rt::Connection,
                ) -> #krate::__rt::ClientBuilder<Self> {
                    #krate::__rt::ClientBuilder::new(connection, Self::DESCRIPTOR)
                }

                #local
            }
        }
        Kind::Tasks => quote! {
            /// Creates a producer that pushes over `connection`.
            #[must_use]
            #vis fn new(connection: &#krate::__rt::Connection) -> Self {
                Self { producer: #krate::__rt::TaskProducer::new(connection, Self::DESCRIPTOR) }
            }

            /// Creates a producer from one with settings of its own.
            #[must_use]
            #vis fn with_producer(producer: #krate::__rt::TaskProducer) -> Self {
                Self { producer }
            }

            /// Pushes many jobs without waiting for each confirm before the next push. Returns one
            /// result for each, in their order.
            #vis async fn push_all(
                &self,
                pushes: impl ::core::iter::IntoIterator<Item = #krate::__rt::Push>,
            ) -> ::std::vec::Vec<::core::result::Result<(), #krate::__rt::Error>> {
                self.producer.push_all(pushes).await
            }
        },
    }
}

fn method(contract: &Contract<'_>, method: &Method<'_>) -> TokenStream {
    let krate = &contract.options.krate;
    let vis = &contract.original.vis;
    let ident = method.ident();
    let carried = method.original.attrs.iter().filter(|attribute| {
        ["doc", "cfg", "cfg_attr", "deprecated"]
            .iter()
            .any(|name| attribute.path().is_ident(name))
    });
    let documented = docs(&method.original.attrs);
    let doc = documented.is_empty().then(|| {
        let verb = if contract.kind == Kind::Service {
            "Calls"
        } else {
            "Pushes"
        };
        let doc = format!("{verb} `{}`.", wire_name(ident));
        quote!(#[doc = #doc])
    });
    let all = method.all_arguments();
    let names = all.iter().map(|argument| argument.name);
    let types = all.iter().map(|argument| match argument.incoming_item() {
        Some(item) => quote! {
            impl #krate::__rt::Stream<Item = #item> + ::core::marker::Send + 'static
        },
        None => argument.ty().to_token_stream(),
    });
    let description = descriptor::method(krate, &contract.name(), method);
    let (declaration, value) = match method.bare_argument() {
        Some(argument) => {
            let name = argument.name;
            // With the type's span, so that rustc points there if it cannot be encoded.
            let span = Span::call_site().located_at(argument.ty().span());
            let value = quote_spanned!(span=> &#name);
            if argument.is_octets() {
                (None, quote!(&#krate::__rt::AsOctets(#value)))
            } else {
                (None, value)
            }
        }
        // The codec cannot encode an empty map.
        None if method.arguments.is_empty() && contract.options.unstructured_codec().is_some() => {
            (None, quote!(&()))
        }
        None => {
            let arguments = arguments::ident();
            let names = method.arguments.iter().map(|argument| argument.name);
            let declaration = arguments::declaration(krate, method, Direction::Out);
            (Some(declaration), quote!(&#arguments { #(#names),* }))
        }
    };
    let (returns, send) = match contract.kind {
        Kind::Service => {
            let (call, span) = call(contract, method);
            let name = match (method.stream_item(), method.upload()) {
                (None, None) => "call",
                (Some(_), None) => "stream",
                (None, Some(_)) => "upload",
                (Some(_), Some(_)) => "duplex",
            };
            let send = Ident::new(name, Span::call_site().located_at(span));
            (call, quote!(client.#send))
        }
        Kind::Tasks => (quote!(#krate::__rt::Push), quote!(producer.push)),
    };
    let items = method.upload().map(|upload| items(krate, upload));
    quote! {
        #(#carried)*
        #doc
        #vis fn #ident(&self, #(#names: #types),*) -> #returns {
            #declaration
            const __LEPUS_METHOD: &#krate::__rt::MethodDescriptor = &#description;
            self.#send(__LEPUS_METHOD, #value #items)
        }
    }
}

/// The further argument of an upload: its items.
fn items(krate: &syn::Path, upload: &Argument<'_>) -> TokenStream {
    let name = upload.name;
    match upload.incoming_item() {
        Some(item) if is_octets(item) => quote!(, #krate::__rt::as_octets(#name)),
        Some(item) => {
            // With the type's span, so that rustc points there if it cannot be encoded.
            let span = Span::call_site().located_at(item.span());
            quote_spanned!(span=> , #name)
        }
        None => TokenStream::new(),
    }
}

/// The type of a call, and the span for rustc's error if the result cannot be decoded.
fn call(contract: &Contract<'_>, method: &Method<'_>) -> (TokenStream, Span) {
    let krate = &contract.options.krate;
    let (call, call_of) = match method.upload() {
        None => (quote!(Call), quote!(CallOf)),
        Some(_) => (quote!(UploadCall), quote!(UploadCallOf)),
    };
    match &method.returns {
        Returns::Nothing => (quote!(#krate::__rt::#call<()>), method.ident().span()),
        Returns::Value(ty) => (quote!(#krate::__rt::#call<#ty>), ty.span()),
        Returns::MaybeResult(ty) => {
            let is_result = returns::is_result(krate, ty);
            let call = quote!(#krate::__rt::#call_of<#ty, { #is_result }>);
            (call, ty.span())
        }
        Returns::Result { whole, ok, err } => (
            quote!(#krate::__rt::#call<#ok, #krate::__rt::OwnError<#err>>),
            whole.span(),
        ),
        Returns::Stream { item, .. } => {
            let call = match item {
                Item::Value(ty) => quote!(#krate::__rt::StreamCall<#ty>),
                Item::MaybeResult(ty) => {
                    let is_result = returns::is_result(krate, ty);
                    quote!(#krate::__rt::StreamCallOf<#ty, { #is_result }>)
                }
                Item::Result { ok, err, .. } => {
                    quote!(#krate::__rt::StreamCall<#ok, #krate::__rt::OwnError<#err>>)
                }
            };
            (call, item.ty().span())
        }
    }
}
