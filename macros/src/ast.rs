//! Syntax tree of a contract, for the checks and the expansion. Each node keeps its original syntax for
//! its spans.

use crate::attr::{MethodOptions, ServiceOptions};
use crate::ctxt::Ctxt;
use crate::names::{Kind, kebab_case, wire_name};
use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, ExprLit, FnArg, GenericArgument, ItemTrait, Lit, Meta, Pat, PatType,
    PathArguments, ReturnType, TraitItem, TraitItemFn, Type, TypeImplTrait, TypeParamBound,
};

/// An annotated trait.
#[derive(Debug)]
pub(crate) struct Contract<'a> {
    pub(crate) kind: Kind,
    pub(crate) original: &'a ItemTrait,
    pub(crate) options: ServiceOptions,
    pub(crate) methods: Vec<Method<'a>>,
}

/// One method of the trait.
#[derive(Debug)]
pub(crate) struct Method<'a> {
    pub(crate) original: &'a TraitItemFn,
    pub(crate) options: MethodOptions,
    /// The position among all methods of the trait, including those that a `#[cfg]` removes.
    pub(crate) id: usize,
    /// Those that are sent in the request.
    pub(crate) arguments: Vec<Argument<'a>>,
    /// The streams that it takes, each with its position among all arguments. A correct method has one at most.
    pub(crate) incoming: Vec<(usize, Argument<'a>)>,
    pub(crate) returns: Returns<'a>,
}

/// One argument other than `self`.
#[derive(Debug)]
pub(crate) struct Argument<'a> {
    pub(crate) original: &'a PatType,
    pub(crate) name: &'a Ident,
}

/// The return type of a method.
#[derive(Debug)]
pub(crate) enum Returns<'a> {
    /// Nothing written, or `()`.
    Nothing,
    Value(&'a Type),
    Result {
        whole: &'a Type,
        ok: &'a Type,
        err: &'a Type,
    },
    /// A type whose name ends in `Result`, and which may therefore be an alias of one.
    MaybeResult(&'a Type),
    /// `impl Stream<Item = …>`, with the type of its items.
    Stream {
        whole: &'a Type,
        item: Item<'a>,
    },
}

/// The type of a stream's items.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    Value(&'a Type),
    Result {
        whole: &'a Type,
        ok: &'a Type,
        err: &'a Type,
    },
    /// As [`Returns::MaybeResult`].
    MaybeResult(&'a Type),
}

impl<'a> Item<'a> {
    /// The type as it is written.
    pub(crate) fn ty(&self) -> &'a Type {
        match self {
            Self::Value(ty) | Self::MaybeResult(ty) | Self::Result { whole: ty, .. } => ty,
        }
    }
}

impl<'a> Contract<'a> {
    /// Builds the tree, and reports items that cannot be part of a contract.
    pub(crate) fn parse(
        ctxt: &Ctxt,
        kind: Kind,
        arguments: TokenStream,
        original: &'a ItemTrait,
    ) -> Self {
        let options = ServiceOptions::parse(ctxt, kind, arguments);
        let mut methods = Vec::new();
        for item in &original.items {
            match item {
                TraitItem::Fn(method) => {
                    methods.push(Method::parse(ctxt, kind, methods.len(), method));
                }
                TraitItem::Type(item) => ctxt.error_on(
                    item,
                    "a contract has no associated types: write the type in the methods themselves",
                ),
                TraitItem::Const(item) => ctxt.error_on(
                    item,
                    "a contract has no associated constants: move it out of the trait",
                ),
                item => ctxt.error_on(
                    item,
                    "a contract contains only methods: move it out of the trait",
                ),
            }
        }
        Self {
            kind,
            original,
            options,
            methods,
        }
    }

    /// The name on the wire.
    pub(crate) fn name(&self) -> String {
        let chosen = self.options.name.as_ref().map(|name| name.value());
        chosen.unwrap_or_else(|| kebab_case(&self.original.ident))
    }
}

impl<'a> Method<'a> {
    fn parse(ctxt: &Ctxt, kind: Kind, id: usize, original: &'a TraitItemFn) -> Self {
        let options = MethodOptions::parse(ctxt, kind, &original.attrs);
        let mut arguments = Vec::new();
        let mut incoming = Vec::new();
        for input in &original.sig.inputs {
            let FnArg::Typed(input) = input else {
                continue;
            };
            match Argument::parse(ctxt, input) {
                Some(argument) if argument.incoming_item().is_some() => {
                    incoming.push((arguments.len() + incoming.len(), argument));
                }
                argument => arguments.extend(argument),
            }
        }
        let returns = Returns::parse(&original.sig.output);
        Self {
            original,
            options,
            id,
            arguments,
            incoming,
            returns,
        }
    }

    pub(crate) fn ident(&self) -> &'a Ident {
        &self.original.sig.ident
    }

    /// The name on the wire.
    pub(crate) fn name(&self) -> String {
        let chosen = self.options.name.as_ref().map(|name| name.value());
        chosen.unwrap_or_else(|| wire_name(self.ident()))
    }

    /// The argument that is sent by itself because of `params = "bare"`.
    pub(crate) fn bare_argument(&self) -> Option<&Argument<'a>> {
        self.options.bare.and_then(|_| self.arguments.first())
    }

    /// All arguments, in their order.
    pub(crate) fn all_arguments(&self) -> Vec<&Argument<'a>> {
        let mut all: Vec<_> = self.arguments.iter().collect();
        for (at, argument) in &self.incoming {
            all.insert(*at, argument);
        }
        all
    }

    /// The stream that it takes.
    pub(crate) fn upload(&self) -> Option<&Argument<'a>> {
        self.incoming.first().map(|(_, argument)| argument)
    }

    /// The type of the items, if it returns a stream.
    pub(crate) fn stream_item(&self) -> Option<&Item<'a>> {
        match &self.returns {
            Returns::Stream { item, .. } => Some(item),
            _ => None,
        }
    }

    pub(crate) fn cfgs(&self) -> impl Iterator<Item = &'a Attribute> {
        cfgs(&self.original.attrs)
    }
}

impl<'a> Argument<'a> {
    fn parse(ctxt: &Ctxt, original: &'a PatType) -> Option<Self> {
        if let Some(attribute) = original.attrs.first() {
            ctxt.error_on(attribute, "an argument carries no attributes: remove it");
        }
        match &*original.pat {
            Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
                if pat.mutability.is_some() {
                    let name = &pat.ident;
                    ctxt.error_on(
                        pat,
                        format!("an argument cannot be a pattern: write `{name}: …`"),
                    );
                }
                Some(Self {
                    original,
                    name: &pat.ident,
                })
            }
            Pat::Wild(pat) => {
                ctxt.error_on(pat, "an argument is sent by its name: give it one");
                None
            }
            pat => {
                ctxt.error_on(pat, "an argument cannot be a pattern: give it one name");
                None
            }
        }
    }

    pub(crate) fn ty(&self) -> &'a Type {
        &self.original.ty
    }

    /// The type of its items, if it is written as `Incoming<…>`: a stream. Aliases are not recognised.
    pub(crate) fn incoming_item(&self) -> Option<&'a Type> {
        incoming_item(self.ty())
    }

    /// Whether it is sent as bytes.
    pub(crate) fn is_octets(&self) -> bool {
        is_octets(self.ty())
    }

    /// Whether its type is written as `Option<…>`. Aliases are not recognised.
    pub(crate) fn is_option(&self) -> bool {
        option_of(self.ty()).is_some()
    }
}

impl<'a> Returns<'a> {
    fn parse(output: &'a ReturnType) -> Self {
        let ReturnType::Type(_, whole) = output else {
            return Self::Nothing;
        };
        let whole = &**whole;
        let plain = match without_groups(whole) {
            Type::Tuple(tuple) if tuple.elems.is_empty() => return Self::Nothing,
            Type::ImplTrait(opaque) => {
                return match item_of(opaque) {
                    Some(item) => {
                        let item = Item::parse(item);
                        Self::Stream { whole, item }
                    }
                    None => Self::Value(whole),
                };
            }
            _ => whole,
        };
        match Item::parse(plain) {
            Item::Value(whole) => Self::Value(whole),
            Item::MaybeResult(whole) => Self::MaybeResult(whole),
            Item::Result { whole, ok, err } => Self::Result { whole, ok, err },
        }
    }
}

impl<'a> Item<'a> {
    fn parse(whole: &'a Type) -> Self {
        let Type::Path(path) = without_groups(whole) else {
            return Self::Value(whole);
        };
        let Some(last) = path.path.segments.last() else {
            return Self::Value(whole);
        };
        if !last.ident.to_string().ends_with("Result") {
            return Self::Value(whole);
        }
        match type_arguments(&last.arguments)[..] {
            [ok, err] if last.ident == "Result" => Self::Result { whole, ok, err },
            _ => Self::MaybeResult(whole),
        }
    }
}

/// The `T` of `impl Stream<Item = T>`, whatever other bounds it has.
pub(crate) fn item_of(opaque: &TypeImplTrait) -> Option<&Type> {
    opaque.bounds.iter().find_map(|bound| {
        let TypeParamBound::Trait(bound) = bound else {
            return None;
        };
        let last = bound.path.segments.last()?;
        let PathArguments::AngleBracketed(arguments) = &last.arguments else {
            return None;
        };
        if last.ident != "Stream" {
            return None;
        }
        arguments.args.iter().find_map(|argument| match argument {
            GenericArgument::AssocType(item) if item.ident == "Item" => Some(&item.ty),
            _ => None,
        })
    })
}

fn type_arguments(arguments: &PathArguments) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else {
        return Vec::new();
    };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// `ty` without parentheses and the invisible groups that `macro_rules` puts around it.
pub(crate) fn without_groups(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            ty => return ty,
        };
    }
}

/// The names of a path's segments.
pub(crate) fn segments(path: &syn::Path) -> Vec<String> {
    path.segments
        .iter()
        .map(|segment| segment.ident.to_string())
        .collect()
}

/// The type arguments of a path's last segment, if that is `name`.
fn arguments_of<'a>(ty: &'a Type, name: &str) -> Option<(&'a syn::Path, Vec<&'a Type>)> {
    let Type::Path(syn::TypePath { qself: None, path }) = without_groups(ty) else {
        return None;
    };
    let last = path.segments.last().filter(|last| last.ident == name)?;
    Some((path, type_arguments(&last.arguments)))
}

/// The `T` of a type that is written as `Option<T>`.
fn option_of(ty: &Type) -> Option<&Type> {
    let (_, arguments) = arguments_of(ty, "Option")?;
    arguments.first().copied()
}

/// The `T` of a type that is written as `Incoming<T>`.
pub(crate) fn incoming_item(ty: &Type) -> Option<&Type> {
    let (_, arguments) = arguments_of(ty, "Incoming")?;
    match arguments[..] {
        [item] => Some(item),
        _ => None,
    }
}

/// Whether a type is written as `Vec<u8>` or `Option<Vec<u8>>`. Aliases are not recognised, and neither is a
/// `Vec` of another crate.
pub(crate) fn is_octets(ty: &Type) -> bool {
    let Some((path, arguments)) = arguments_of(option_of(ty).unwrap_or(ty), "Vec") else {
        return false;
    };
    let words = segments(path);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let is_byte =
        |ty: &Type| matches!(without_groups(ty), Type::Path(path) if path.path.is_ident("u8"));
    matches!(*words, ["Vec"] | ["std" | "alloc", "vec", "Vec"])
        && matches!(*arguments, [ty] if is_byte(ty))
}

/// Whether `attribute` is `#[async_trait]`, by any path.
pub(crate) fn is_async_trait(attribute: &Attribute) -> bool {
    attribute
        .path()
        .segments
        .last()
        .is_some_and(|last| last.ident == "async_trait")
}

/// Whether `attribute` is a `#[cfg_attr(…, ours)]`.
pub(crate) fn is_conditional(attribute: &Attribute, ours: &str) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    let is_comma =
        |token: &TokenTree| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',');
    list.path.is_ident("cfg_attr")
        && list
            .tokens
            .clone()
            .into_iter()
            .skip_while(|token| !is_comma(token))
            .any(|token| matches!(token, TokenTree::Ident(word) if word == ours))
}

/// The `#[cfg]`s among `attributes`.
pub(crate) fn cfgs(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
}

/// The text of the doc comments among `attributes`, one line a comment.
pub(crate) fn docs(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
    {
        if let Meta::NameValue(doc) = &attribute.meta
            && let Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            }) = &doc.value
        {
            let text = text.value();
            lines.push(
                text.strip_prefix(' ')
                    .unwrap_or(&text)
                    .trim_end()
                    .to_owned(),
            );
        }
    }
    lines.join("\n").trim().to_owned()
}
