//! Arguments of an attribute, `key` or `key = value`, and the types of their values.

use crate::ctxt::Ctxt;
use crate::names::{Kind, listed};
use crate::timeout::parse_millis;
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Expr, ExprLit, Lit, LitBool, LitStr, Path};

/// One argument: `key` or `key = value`.
pub(crate) struct AttributeArgument {
    key: Ident,
    value: Option<Expr>,
}

/// Reads the arguments of one attribute, or of several of the same name.
pub(crate) struct ArgumentReader {
    /// The arguments that are allowed here.
    known: &'static [&'static str],
    /// The arguments of the other attribute, its name, and its place.
    elsewhere: &'static [&'static str],
    attribute: &'static str,
    place: &'static str,
    seen: Vec<Ident>,
}

impl ArgumentReader {
    /// A reader for the attribute above a trait.
    pub(crate) fn of_trait(kind: Kind) -> Self {
        Self {
            known: kind.arguments(),
            elsewhere: kind.method_arguments(),
            attribute: kind.method_attribute(),
            place: "a method",
            seen: Vec::new(),
        }
    }

    /// A reader for the attribute above a method.
    pub(crate) fn of_method(kind: Kind) -> Self {
        Self {
            known: kind.method_arguments(),
            elsewhere: kind.arguments(),
            attribute: kind.attribute(),
            place: "the trait",
            seen: Vec::new(),
        }
    }

    /// Returns the known arguments, each the first time it is given, and reports the others.
    pub(crate) fn read(&mut self, ctxt: &Ctxt, tokens: TokenStream) -> Vec<AttributeArgument> {
        let mut arguments = split(ctxt, tokens);
        arguments.retain(|argument| self.accepts(ctxt, argument));
        arguments
    }

    fn accepts(&mut self, ctxt: &Ctxt, argument: &AttributeArgument) -> bool {
        let key = argument.key();
        let span = argument.key.span();
        if !self.known.contains(&key.as_str()) {
            let hint = if self.elsewhere.contains(&key.as_str()) {
                let (place, attribute) = (self.place, self.attribute);
                format!("; it belongs to {place}: write `#[{attribute}({key})]` above it")
            } else {
                String::new()
            };
            let known = listed(self.known);
            ctxt.error_at(
                span,
                format!("unknown argument `{key}`, expected one of {known}{hint}"),
            );
            return false;
        }
        if self.seen.contains(&argument.key) {
            ctxt.error_at(span, format!("`{key}` is given twice: remove one of them"));
            return false;
        }
        self.seen.push(argument.key.clone());
        true
    }
}

/// Splits at the commas first, so that a mistake in one argument leaves the others readable.
fn split(ctxt: &Ctxt, tokens: TokenStream) -> Vec<AttributeArgument> {
    let mut arguments = Vec::new();
    let mut piece = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if piece.is_empty() {
                    ctxt.error_at(comma.span(), "expected an argument before this comma");
                }
                arguments.extend(AttributeArgument::parse(ctxt, std::mem::take(&mut piece)));
            }
            token => piece.push(token),
        }
    }
    arguments.extend(AttributeArgument::parse(ctxt, piece));
    arguments
}

impl AttributeArgument {
    pub(crate) fn key(&self) -> String {
        self.key.unraw().to_string()
    }

    fn parse(ctxt: &Ctxt, piece: Vec<TokenTree>) -> Option<Self> {
        let mut piece = piece.into_iter();
        let key = match piece.next()? {
            TokenTree::Ident(key) => key,
            other => {
                let message = "expected an argument: write `key` or `key = value`";
                ctxt.error_at(other.span(), message);
                return None;
            }
        };
        let equals = match piece.next() {
            None => return Some(Self { key, value: None }),
            Some(TokenTree::Punct(equals)) if equals.as_char() == '=' => equals.span(),
            Some(other) => {
                let message = format!("expected `,` or `=`: write `{key}` or `{key} = value`");
                ctxt.error_at(other.span(), message);
                return None;
            }
        };
        let value: TokenStream = piece.collect();
        if value.is_empty() {
            ctxt.error_at(equals, format!("expected a value: write `{key} = value`"));
            return None;
        }
        match syn::parse2(value) {
            Ok(value) => Some(Self {
                key,
                value: Some(value),
            }),
            Err(error) => {
                ctxt.push(error);
                None
            }
        }
    }

    /// The value without the invisible groups that `macro_rules` puts around it.
    fn value(&self) -> Option<&Expr> {
        let mut value = self.value.as_ref()?;
        while let Expr::Group(group) = value {
            value = &group.expr;
        }
        Some(value)
    }

    fn literal(&self) -> Option<&Lit> {
        match self.value()? {
            Expr::Lit(ExprLit { lit, .. }) => Some(lit),
            _ => None,
        }
    }

    /// The span of the value, or of the key where there is none.
    fn span(&self) -> Span {
        self.value
            .as_ref()
            .map_or_else(|| self.key.span(), |value| value.span())
    }

    fn wrong<T>(&self, ctxt: &Ctxt, expected: &str, example: &str) -> Option<T> {
        let key = &self.key;
        ctxt.error_at(
            self.span(),
            format!("expected {expected}: write `{key} = {example}`"),
        );
        None
    }

    pub(crate) fn string(&self, ctxt: &Ctxt) -> Option<LitStr> {
        match self.literal() {
            Some(Lit::Str(text)) => Some(text.clone()),
            _ if self.key == "version" => self.wrong(ctxt, "a string", "\"1.0.0\""),
            _ => self.wrong(ctxt, "a string", "\"…\""),
        }
    }

    pub(crate) fn bool(&self, ctxt: &Ctxt) -> Option<LitBool> {
        match self.literal() {
            Some(Lit::Bool(value)) => Some(value.clone()),
            _ => self.wrong(ctxt, "`true` or `false`", "false"),
        }
    }

    pub(crate) fn flag(&self, ctxt: &Ctxt) -> Option<Span> {
        if self.value.is_some() {
            let key = &self.key;
            ctxt.error_at(
                self.span(),
                format!("`{key}` takes no value: write it alone"),
            );
        }
        Some(self.key.span())
    }

    pub(crate) fn path(&self, ctxt: &Ctxt) -> Option<Path> {
        match self.value() {
            Some(Expr::Path(path)) if path.qself.is_none() => Some(path.path.clone()),
            Some(Expr::Lit(ExprLit {
                lit: Lit::Str(text),
                ..
            })) => match text.parse() {
                Ok(path) => Some(path),
                Err(_) => self.wrong(ctxt, "a path", "\"::lepus\""),
            },
            _ => self.wrong(ctxt, "a path", "::lepus"),
        }
    }

    pub(crate) fn duration(&self, ctxt: &Ctxt) -> Option<u64> {
        let Some(Lit::Str(text)) = self.literal() else {
            return self.wrong(ctxt, "a duration", "\"2s\"");
        };
        match parse_millis(&text.value()) {
            Ok(millis) => Some(millis),
            Err(why) => {
                ctxt.error_at(text.span(), why);
                None
            }
        }
    }

    /// One of a few words, written as a string.
    pub(crate) fn word(&self, ctxt: &Ctxt, words: &[&'static str]) -> Option<(&'static str, Span)> {
        let Some(Lit::Str(text)) = self.literal() else {
            let example = words
                .first()
                .map_or_else(String::new, |word| format!("{word:?}"));
            return self.wrong(ctxt, "a string", &example);
        };
        let found = text.value();
        let word = words.iter().find(|word| **word == found);
        if word.is_none() {
            let (key, words) = (&self.key, listed(words));
            let message = format!("unknown {key} `{found}`, expected one of {words}");
            ctxt.error_at(text.span(), message);
        }
        word.map(|word| (*word, text.span()))
    }
}
