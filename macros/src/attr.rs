//! The arguments of the attributes: `#[service(…)]`, `#[tasks(…)]`, `#[rpc(…)]`, `#[task(…)]`.

use crate::ctxt::Ctxt;
use crate::names::{Kind, listed};
use crate::timeout::parse_millis;
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Expr, ExprLit, Lit, LitBool, LitStr, Meta, Path, parse_quote};

/// What the attribute above the trait says.
#[derive(Debug)]
pub(crate) struct ServiceOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) codec: Option<Codec>,
    /// Where `durable = false` stands.
    pub(crate) transient: Option<Span>,
    pub(crate) quorum: Option<Span>,
    /// The path of the crate `lepus`.
    pub(crate) krate: Path,
    pub(crate) halves: Halves,
}

/// What the attribute above a method says.
#[derive(Debug, Default)]
pub(crate) struct MethodOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) idempotent: Option<Span>,
    pub(crate) oneway: Option<Span>,
    pub(crate) at_most_once: Option<Span>,
    pub(crate) default: Option<Span>,
    /// Where `params = "bare"` stands.
    pub(crate) bare: Option<Span>,
}

/// How values are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    MsgPack,
    Json,
    Text,
    Bytes,
}

/// Which of the two types are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halves {
    Both,
    Stub,
    Dispatcher,
}

impl Codec {
    /// The name of a codec that carries one value without a structure around it.
    pub(crate) fn unstructured(self) -> Option<&'static str> {
        match self {
            Self::Text => Some("text"),
            Self::Bytes => Some("bytes"),
            Self::MsgPack | Self::Json => None,
        }
    }
}

impl ServiceOptions {
    /// The codec's name, if it carries one value without a structure around it.
    pub(crate) fn unstructured_codec(&self) -> Option<&'static str> {
        self.codec.and_then(Codec::unstructured)
    }

    pub(crate) fn parse(ctxt: &Ctxt, kind: Kind, tokens: TokenStream) -> Self {
        let mut options = Self {
            name: None,
            version: None,
            queue: None,
            codec: None,
            transient: None,
            quorum: None,
            krate: parse_quote!(::lepus),
            halves: Halves::Both,
        };
        let (mut stub, mut dispatcher) = (false, false);
        let mut seen = Seen::default();
        for argument in arguments(ctxt, tokens) {
            let key = argument.key.unraw().to_string();
            let known = kind.arguments();
            if !known.contains(&key.as_str()) {
                let hint = if kind.method_arguments().contains(&key.as_str()) {
                    let attribute = kind.method_attribute();
                    format!("; it belongs to a method: write `#[{attribute}({key})]` above it")
                } else {
                    String::new()
                };
                ctxt.error_at(
                    argument.key.span(),
                    format!(
                        "unknown argument `{key}`, expected one of {}{hint}",
                        listed(known)
                    ),
                );
                continue;
            }
            if !seen.first_time(ctxt, &argument) {
                continue;
            }
            match key.as_str() {
                "name" => options.name = argument.string(ctxt),
                "version" => options.version = argument.string(ctxt),
                "queue" => options.queue = argument.string(ctxt),
                "codec" => options.codec = argument.codec(ctxt),
                "durable" => {
                    options.transient = argument
                        .bool(ctxt)
                        .filter(|durable| !durable.value)
                        .map(|no| no.span);
                }
                "quorum" => options.quorum = argument.flag(ctxt),
                "crate" => {
                    if let Some(path) = argument.path(ctxt) {
                        options.krate = path;
                    }
                }
                half if half == kind.stub() => stub = argument.flag(ctxt).is_some(),
                _ => dispatcher = argument.flag(ctxt).is_some(),
            }
        }
        options.halves = match (stub, dispatcher) {
            (true, false) => Halves::Stub,
            (false, true) => Halves::Dispatcher,
            _ => Halves::Both,
        };
        options
    }
}

impl MethodOptions {
    /// Reads every `#[rpc]` or `#[task]` among a method's attributes.
    pub(crate) fn parse(ctxt: &Ctxt, kind: Kind, attributes: &[Attribute]) -> Self {
        let mut options = Self::default();
        let mut seen = Seen::default();
        let ours = kind.method_attribute();
        for attribute in attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident(ours))
        {
            let tokens = match &attribute.meta {
                Meta::Path(_) => continue,
                Meta::List(list) => list.tokens.clone(),
                Meta::NameValue(_) => {
                    let instead = format!("write the arguments in parentheses: `#[{ours}(…)]`");
                    ctxt.error_on(attribute, instead);
                    continue;
                }
            };
            for argument in arguments(ctxt, tokens) {
                options.read(ctxt, kind, &mut seen, &argument);
            }
        }
        options
    }

    fn read(&mut self, ctxt: &Ctxt, kind: Kind, seen: &mut Seen, argument: &Argument) {
        let key = argument.key.unraw().to_string();
        let known = kind.method_arguments();
        if !known.contains(&key.as_str()) {
            let hint = if kind.arguments().contains(&key.as_str()) {
                let attribute = kind.attribute();
                format!("; it belongs to the trait: write `#[{attribute}({key})]` above it")
            } else {
                String::new()
            };
            ctxt.error_at(
                argument.key.span(),
                format!(
                    "unknown argument `{key}`, expected one of {}{hint}",
                    listed(known)
                ),
            );
            return;
        }
        if !seen.first_time(ctxt, argument) {
            return;
        }
        match key.as_str() {
            "name" => self.name = argument.string(ctxt),
            "queue" => self.queue = argument.string(ctxt),
            "timeout" => self.timeout_millis = argument.duration(ctxt),
            "idempotent" => self.idempotent = argument.flag(ctxt),
            "oneway" => self.oneway = argument.flag(ctxt),
            "at_most_once" => self.at_most_once = argument.flag(ctxt),
            "default" => self.default = argument.flag(ctxt),
            _ => self.bare = argument.bare(ctxt),
        }
    }
}

/// `key` or `key = value`.
struct Argument {
    key: Ident,
    value: Option<Expr>,
}

/// Splits at the commas first, so that a mistake in one argument leaves the others readable.
fn arguments(ctxt: &Ctxt, tokens: TokenStream) -> Vec<Argument> {
    let mut arguments = Vec::new();
    let mut piece = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => {
                if piece.is_empty() {
                    ctxt.error_at(comma.span(), "expected an argument before this comma");
                }
                arguments.extend(Argument::parse(ctxt, std::mem::take(&mut piece)));
            }
            token => piece.push(token),
        }
    }
    arguments.extend(Argument::parse(ctxt, piece));
    arguments
}

impl Argument {
    fn parse(ctxt: &Ctxt, piece: Vec<TokenTree>) -> Option<Self> {
        let mut piece = piece.into_iter();
        let key = match piece.next()? {
            TokenTree::Ident(key) => key,
            other => {
                let instead = "expected an argument: write `key` or `key = value`";
                ctxt.error_at(other.span(), instead);
                return None;
            }
        };
        let equals = match piece.next() {
            None => return Some(Self { key, value: None }),
            Some(TokenTree::Punct(equals)) if equals.as_char() == '=' => equals.span(),
            Some(other) => {
                let instead = format!("expected `,` or `=`: write `{key}` or `{key} = value`");
                ctxt.error_at(other.span(), instead);
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

    fn string(&self, ctxt: &Ctxt) -> Option<LitStr> {
        match self.literal() {
            Some(Lit::Str(text)) => Some(text.clone()),
            _ if self.key == "version" => self.wrong(ctxt, "a string", "\"1.0.0\""),
            _ => self.wrong(ctxt, "a string", "\"…\""),
        }
    }

    fn bool(&self, ctxt: &Ctxt) -> Option<LitBool> {
        match self.literal() {
            Some(Lit::Bool(value)) => Some(value.clone()),
            _ => self.wrong(ctxt, "`true` or `false`", "false"),
        }
    }

    fn flag(&self, ctxt: &Ctxt) -> Option<Span> {
        if self.value.is_some() {
            let key = &self.key;
            ctxt.error_at(
                self.span(),
                format!("`{key}` takes no value: write it alone"),
            );
        }
        Some(self.key.span())
    }

    fn path(&self, ctxt: &Ctxt) -> Option<Path> {
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

    fn duration(&self, ctxt: &Ctxt) -> Option<u64> {
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

    fn codec(&self, ctxt: &Ctxt) -> Option<Codec> {
        let codec = match self.literal() {
            Some(Lit::Str(text)) => match text.value().as_str() {
                "msgpack" => Codec::MsgPack,
                "json" => Codec::Json,
                "text" => Codec::Text,
                "bytes" => Codec::Bytes,
                other => {
                    let instead = listed(&["msgpack", "json", "text", "bytes"]);
                    let message = format!("unknown codec `{other}`, expected one of {instead}");
                    ctxt.error_at(text.span(), message);
                    return None;
                }
            },
            _ => return self.wrong(ctxt, "a string", "\"json\""),
        };
        Some(codec)
    }

    fn bare(&self, ctxt: &Ctxt) -> Option<Span> {
        match self.literal() {
            Some(Lit::Str(text)) => match text.value().as_str() {
                "bare" => Some(text.span()),
                "named" => None,
                other => {
                    let message = format!("unknown params `{other}`, expected `bare` or `named`");
                    ctxt.error_at(text.span(), message);
                    None
                }
            },
            _ => self.wrong(ctxt, "a string", "\"bare\""),
        }
    }
}

/// The arguments met so far, to find those given twice.
#[derive(Default)]
struct Seen(Vec<Ident>);

impl Seen {
    fn first_time(&mut self, ctxt: &Ctxt, argument: &Argument) -> bool {
        let key = &argument.key;
        if self.0.contains(key) {
            ctxt.error_at(
                key.span(),
                format!("`{key}` is given twice: remove one of them"),
            );
            return false;
        }
        self.0.push(key.clone());
        true
    }
}
