//! The receiving half: `…Server` for a service, `…Worker` for tasks.

use super::arguments::{self, Direction};
use super::{descriptor, dispatcher_ident, item_attributes, link, returns};
use crate::ast::{Argument, Contract, Item, Method, Returns, is_octets};
use crate::names::Kind;
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::spanned::Spanned as _;

pub(super) fn expand(contract: &Contract<'_>) -> TokenStream {
    let vis = &contract.original.vis;
    let attributes = item_attributes(contract);
    let dispatcher = dispatcher_ident(contract);
    let shown = dispatcher.to_string();
    let name = link(contract);
    let doc = match contract.kind {
        Kind::Service => format!("Serves an implementation of {name}."),
        Kind::Tasks => format!("Passes jobs to an implementation of {name}."),
    };
    let descriptor = descriptor::of_dispatcher(contract);
    let Options {
        field,
        default,
        clone,
        setters,
        getter,
    } = Options::of(contract);
    let implementation = implementation(contract, &getter);
    quote! {
        #attributes
        #[doc = #doc]
        #vis struct #dispatcher<S: ?::core::marker::Sized> {
            service: ::std::sync::Arc<S>,
            #field
        }

        #attributes
        impl<S> #dispatcher<S> {
            /// Creates it from the implementation.
            #[must_use]
            #vis fn new(service: S) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }
        }

        #attributes
        impl<S: ?::core::marker::Sized> #dispatcher<S> {
            #descriptor

            /// Creates it from an implementation that is also used elsewhere.
            #[must_use]
            #vis fn from_arc(service: ::std::sync::Arc<S>) -> Self {
                Self { service, #default }
            }

            #setters
        }

        #attributes
        impl<S: ?::core::marker::Sized> ::core::clone::Clone for #dispatcher<S> {
            fn clone(&self) -> Self {
                Self { service: ::core::clone::Clone::clone(&self.service), #clone }
            }
        }

        #attributes
        impl<S: ?::core::marker::Sized> ::core::fmt::Debug for #dispatcher<S> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#shown).finish_non_exhaustive()
            }
        }

        #implementation
    }
}

/// The parts of the receiving half that hold the options of a service. Tasks have none: those of their
/// workers are set on the pool.
#[derive(Default)]
struct Options {
    field: TokenStream,
    default: TokenStream,
    clone: TokenStream,
    setters: TokenStream,
    /// The implementation of `Service::options`.
    getter: TokenStream,
}

impl Options {
    fn of(contract: &Contract<'_>) -> Self {
        if contract.kind != Kind::Service {
            return Self::default();
        }
        let krate = &contract.options.krate;
        let vis = &contract.original.vis;
        let options = quote!(#krate::__rt::ServiceOptions);
        let layer = format_ident!("__LepusLayer");
        Self {
            field: quote!(options: #options,),
            default: quote!(options: #options::new(),),
            clone: quote!(options: ::core::clone::Clone::clone(&self.options),),
            setters: quote! {
                /// Sets how many requests of this service are handled at once. Default 1, with which an
                /// idle server is always preferred over a busy one. The maximum is 65,535; 0 counts as 1.
                #[must_use]
                #vis fn concurrency(self, requests: u16) -> Self {
                    Self { options: self.options.concurrency(requests), ..self }
                }

                /// Sets the options of the service's queue, and of the queues that its methods have of
                /// their own. They override those of the service's attribute. All servers of a service
                /// need the same ones.
                #[must_use]
                #vis fn queue_options(self, options: #krate::__rt::QueueOptions) -> Self {
                    Self { options: self.options.queue_options(options), ..self }
                }

                /// Declares no queues: they must exist, with any properties.
                #[must_use]
                #vis fn passive(self) -> Self {
                    Self { options: self.options.passive(), ..self }
                }

                /// Puts a layer around the service: it sees each request and its outcome, and may change
                /// or answer it. Further layers are added to the result, around this one.
                #[must_use]
                #vis fn layer<#layer>(self, layer: #layer) -> #krate::__rt::Layered
                where
                    Self: #krate::__rt::Service,
                    #layer: #krate::__rt::Layer<#krate::__rt::DynService>,
                    <#layer as #krate::__rt::Layer<#krate::__rt::DynService>>::Service:
                        #krate::__rt::Service,
                {
                    #krate::__rt::Layered::new(self).layer(layer)
                }
            },
            getter: quote! {
                fn options(&self) -> #options {
                    ::core::clone::Clone::clone(&self.options)
                }
            },
        }
    }
}

/// The implementation of the runtime's trait, generic over the user's implementation.
fn implementation(contract: &Contract<'_>, options: &TokenStream) -> TokenStream {
    let krate = &contract.options.krate;
    let attributes = item_attributes(contract);
    let dispatcher = dispatcher_ident(contract);
    let definition = &contract.original.ident;
    let service = service_parameter();
    let request = local("request");
    let (runtime, run, outcome, unknown) = match contract.kind {
        Kind::Service => (
            quote!(Service),
            quote!(call),
            quote!(Reply),
            quote!(unimplemented),
        ),
        Kind::Tasks => (
            quote!(Tasks),
            quote!(run),
            quote!(Verdict),
            quote!(unknown_task),
        ),
    };
    let arms = contract.methods.iter().map(|it| arm(contract, it));
    quote! {
        #attributes
        impl<#service: #definition + ?::core::marker::Sized> #krate::__rt::#runtime for #dispatcher<#service> {
            fn descriptor(&self) -> &'static #krate::__rt::ServiceDescriptor {
                Self::DESCRIPTOR
            }

            #options

            fn #run(
                &self,
                #request: #krate::__rt::Request,
            ) -> #krate::__rt::BoxFuture<#krate::__rt::#outcome> {
                match #request.method() {
                    #(#arms)*
                    _ => ::std::boxed::Box::pin(async move { #request.#unknown() }),
                }
            }
        }
    }
}

/// The match arm of one method. Each boxes its own future, so that a small one does not have the size
/// of the largest.
fn arm(contract: &Contract<'_>, method: &Method<'_>) -> TokenStream {
    let krate = &contract.options.krate;
    let cfgs = method.cfgs();
    let id = Literal::usize_unsuffixed(method.id);
    let definition = &contract.original.ident;
    let parameter = service_parameter();
    let ident = method.ident();
    let (service, request) = (local("service"), local("request"));
    let (arguments, refused, value) = (local("arguments"), local("refused"), local("value"));

    let (declaration, ty) = match method.bare_argument() {
        Some(argument) if argument.is_octets() => {
            let ty = argument.ty();
            (None, quote!(#krate::__rt::AsOctets<#ty>))
        }
        Some(argument) => (None, argument.ty().to_token_stream()),
        None => {
            let declaration = arguments::declaration(krate, method, Direction::In);
            (Some(declaration), arguments::ident().to_token_stream())
        }
    };
    let incoming = local("incoming");
    let passed = method.all_arguments().into_iter().map(|argument| {
        let name = argument.name;
        match (argument.incoming_item(), method.bare_argument()) {
            (Some(_), _) => quote!(#incoming),
            (None, Some(bare)) if bare.is_octets() => quote!(#arguments.0),
            (None, Some(_)) => quote!(#arguments),
            (None, None) => quote!(#arguments.#name),
        }
    });
    // The last step before the method, because it opens the stream.
    let accepted = method
        .upload()
        .and_then(Argument::incoming_item)
        .map(|item| {
            // With the type's span, so that rustc points there if it cannot be decoded.
            let at_type = Span::call_site().located_at(item.span());
            let accept = quote_spanned!(at_type=> accept_items::<#item>);
            quote! {
                let #incoming = match #krate::__rt::#accept(&#request) {
                    ::core::result::Result::Ok(#incoming) => #incoming,
                    ::core::result::Result::Err(#refused) => return #refused,
                };
            }
        });
    let at_type = method
        .bare_argument()
        .map_or(ident.span(), |argument| argument.ty().span());
    let at_type = Span::call_site().located_at(at_type);
    let decode = match (contract.kind, method.options.bare) {
        (Kind::Service, Some(_)) => quote_spanned!(at_type=> decode::<#ty>),
        (Kind::Service, None) => quote_spanned!(at_type=> decode_named::<#ty>),
        (Kind::Tasks, Some(_)) => quote_spanned!(at_type=> decode_task::<#ty>),
        (Kind::Tasks, None) => quote_spanned!(at_type=> decode_named_task::<#ty>),
    };
    let (declaration, decoded) = if method.arguments.is_empty() {
        let check = match contract.kind {
            Kind::Service => quote!(no_arguments),
            Kind::Tasks => quote!(no_arguments_of_task),
        };
        let decoded = quote! {
            if let ::core::result::Result::Err(#refused) = #request.#check() {
                return #refused;
            }
        };
        (None, decoded)
    } else {
        let decoded = quote! {
            let #arguments = match #request.#decode() {
                ::core::result::Result::Ok(#arguments) => #arguments,
                ::core::result::Result::Err(#refused) => return #refused,
            };
        };
        (declaration, decoded)
    };
    let span = match &method.returns {
        Returns::Nothing => ident.span(),
        Returns::Value(ty) | Returns::MaybeResult(ty) | Returns::Result { whole: ty, .. } => {
            ty.span()
        }
        Returns::Stream { item, .. } => item.ty().span(),
    };
    // With the type's span, so that rustc points there if it cannot be encoded.
    let value_there = Ident::new("value", Span::mixed_site().located_at(span));
    let span = Span::call_site().located_at(span);
    let answer = match (contract.kind, &method.returns) {
        (Kind::Tasks, _) => {
            let into_verdict = quote_spanned!(span=> into_verdict(#value_there));
            quote!(#krate::__rt::IntoVerdict::#into_verdict)
        }
        (Kind::Service, Returns::Result { ok, .. }) if is_octets(ok) => quote! {
            match &#value_there {
                ::core::result::Result::Ok(#value) => #request.value(&#krate::__rt::AsOctets(#value)),
                ::core::result::Result::Err(_) => #request.result(&#value_there),
            }
        },
        (Kind::Service, Returns::Value(ty)) if is_octets(ty) => {
            quote!(#request.value(&#krate::__rt::AsOctets(&#value_there)))
        }
        (Kind::Service, Returns::Result { .. }) => {
            let result = quote_spanned!(span=> result(&#value_there));
            quote!(#request.#result)
        }
        (Kind::Service, Returns::MaybeResult(ty)) => {
            let is_result = returns::is_result(krate, ty);
            let reply = quote_spanned!(span=> reply(&#value_there, &#request));
            quote!(#krate::__rt::IntoReply::<{ #is_result }>::#reply)
        }
        (Kind::Service, Returns::Stream { item, .. }) => {
            let is_result = match item {
                Item::Value(_) => quote!(false),
                Item::Result { .. } => quote!(true),
                Item::MaybeResult(ty) => returns::is_result(krate, ty),
            };
            let items = match item {
                Item::Value(ty) if is_octets(ty) => quote!(#krate::__rt::as_octets(#value)),
                Item::Result { ok, .. } if is_octets(ok) => {
                    quote!(#krate::__rt::ok_as_octets(#value))
                }
                _ => quote!(#value_there),
            };
            let send = quote_spanned!(span=> send_items::<{ #is_result }, _>(#request, #items));
            quote!(#krate::__rt::#send.await)
        }
        (Kind::Service, Returns::Value(_) | Returns::Nothing) => {
            let as_value = quote_spanned!(span=> value(&#value_there));
            quote!(#request.#as_value)
        }
    };
    // A stream is returned at once, and polled by what it is given to.
    let awaited = method.stream_item().is_none().then(|| quote!(.await));
    quote! {
        #(#cfgs)*
        #id => {
            #declaration
            let #service = ::core::clone::Clone::clone(&self.service);
            ::std::boxed::Box::pin(async move {
                #decoded
                #accepted
                let #value = <#parameter as #definition>::#ident(&*#service, #(#passed),*)#awaited;
                #answer
            })
        }
    }
}

/// A hygienic name for a local variable.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// The name of the type parameter of the implementation, which must differ from the user's types.
fn service_parameter() -> Ident {
    format_ident!("__LepusService")
}
