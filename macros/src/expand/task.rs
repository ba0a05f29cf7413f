//! The enum of the tasks, `…Task`: a variant for each with its arguments, as which dead letters are
//! decoded.

use super::arguments::{self, Direction};
use super::{dispatcher_ident, item_attributes, link, task_ident};
use crate::ast::{Contract, Method, docs};
use crate::names::{pascal_case, wire_name};
use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};

pub(super) fn expand(contract: &Contract<'_>) -> TokenStream {
    let krate = &contract.options.krate;
    let vis = &contract.original.vis;
    let attributes = item_attributes(contract);
    let task = task_ident(contract);
    let dispatcher = dispatcher_ident(contract);
    let name = link(contract);
    let doc = format!(
        "A job of {name}: a variant for each task, with its arguments.\n\n[`{dispatcher}`] has the \
         dead letters as such values."
    );
    let variants = variants(contract);
    let definitions = variants.iter().map(|variant| variant.definition());
    let names = variants.iter().map(|variant| variant.debug_arm());
    let deserialize = deserialize(contract, &variants);
    quote! {
        #attributes
        #[doc = #doc]
        #vis enum #task {
            #(#definitions,)*
        }

        #attributes
        impl ::core::fmt::Debug for #task {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match *self {
                    #(#names)*
                }
            }
        }

        #deserialize

        #attributes
        impl #dispatcher<()> {
            /// The jobs that failed for good, to be listed, replayed and purged.
            #[must_use]
            #vis fn dead_letters(
                connection: &#krate::__rt::Connection,
            ) -> #krate::__rt::DeadLetters<#task> {
                #krate::__rt::DeadLetters::of_tasks(connection, Self::DESCRIPTOR)
            }

            /// The jobs that failed for good, of a queue with properties of its own.
            #[must_use]
            #vis fn dead_letters_on<__LepusPayload>(
                connection: &#krate::__rt::Connection,
                queue: &#krate::__rt::WorkQueue<__LepusPayload>,
            ) -> #krate::__rt::DeadLetters<#task> {
                #krate::__rt::DeadLetters::of_tasks_on(connection, Self::DESCRIPTOR, queue)
            }
        }
    }
}

/// A method as a variant.
struct Variant<'a> {
    ident: Ident,
    method: &'a Method<'a>,
}

fn variants<'a>(contract: &'a Contract<'_>) -> Vec<Variant<'a>> {
    let mut variants = Vec::<Variant<'_>>::new();
    for method in &contract.methods {
        let mut name = pascal_case(method.ident());
        // Two methods may differ in underscores only. Those of the same name are under `#[cfg]`s.
        let is_taken = |name: &str| {
            variants
                .iter()
                .any(|other| other.ident == name && other.method.ident() != method.ident())
        };
        while is_taken(&name) {
            name.push('_');
        }
        let ident = Ident::new(&name, method.ident().span());
        variants.push(Variant { ident, method });
    }
    variants
}

impl Variant<'_> {
    fn definition(&self) -> TokenStream {
        let Self { ident, method } = self;
        let cfgs = method.cfgs();
        let documented = docs(&method.original.attrs);
        let doc = if documented.is_empty() {
            format!("`{}`.", method.name())
        } else {
            documented
        };
        let content = if let Some(argument) = method.bare_argument() {
            let ty = argument.ty();
            Some(quote!((#ty)))
        } else if method.arguments.is_empty() {
            None
        } else {
            let fields = method.arguments.iter().map(|argument| {
                let (name, ty) = (argument.name, argument.ty());
                let doc = format!("The argument `{}`.", wire_name(name));
                quote!(#[doc = #doc] #name: #ty)
            });
            Some(quote!({ #(#fields,)* }))
        };
        quote!(#(#cfgs)* #[doc = #doc] #ident #content)
    }

    /// The variant for serde.
    fn mirror(&self) -> TokenStream {
        let Self { ident, method } = self;
        let cfgs = method.cfgs();
        let wire = method.name();
        let content = if let Some(argument) = method.bare_argument() {
            let (as_octets, ty) = (arguments::as_octets(argument), argument.ty());
            Some(quote!((#as_octets #ty)))
        } else if method.arguments.is_empty() {
            None
        } else {
            let fields = arguments::fields(method, Direction::In);
            Some(quote!({ #(#fields,)* }))
        };
        quote!(#(#cfgs)* #[serde(rename = #wire)] #ident #content)
    }

    /// The arguments may have types without `Debug`.
    fn debug_arm(&self) -> TokenStream {
        let Self { ident, method } = self;
        let cfgs = method.cfgs();
        let shown = ident.to_string();
        let shown_as = if method.arguments.is_empty() {
            quote!(f.write_str(#shown))
        } else {
            quote!(f.debug_struct(#shown).finish_non_exhaustive())
        };
        quote! {
            #(#cfgs)*
            Self::#ident { .. } => #shown_as,
        }
    }
}

/// The implementation of `Deserialize`, by serde's name of each variant.
fn deserialize(contract: &Contract<'_>, variants: &[Variant<'_>]) -> TokenStream {
    let krate = &contract.options.krate;
    let attributes = item_attributes(contract);
    let task = task_ident(contract);
    let shown = task.to_string();
    let mirrors = variants.iter().map(|variant| variant.mirror());
    let span = proc_macro2::Span::call_site().located_at(contract.original.ident.span());
    let derive = quote_spanned!(span=> #[derive(__lepus_serde::Deserialize)]);
    let has_octets =
        |variant: &Variant<'_>| variant.method.arguments.iter().any(|it| it.is_octets());
    // The aliases have to stay inside the block, and the enum outside: so serde derives for a copy of the enum.
    let aliases = arguments::aliases(krate, variants.iter().any(has_octets));
    quote! {
        #attributes
        const _: () = {
            #aliases

            #derive
            #[serde(crate = "__lepus_serde", remote = #shown)]
            enum __LepusTask {
                #(#mirrors,)*
            }

            impl<'de> __lepus_serde::Deserialize<'de> for #task {
                fn deserialize<__D: __lepus_serde::Deserializer<'de>>(
                    deserializer: __D,
                ) -> ::core::result::Result<Self, __D::Error> {
                    __LepusTask::deserialize(deserializer)
                }
            }
        };
    }
}
