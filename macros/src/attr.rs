//! Options of the attributes `#[service(…)]`, `#[tasks(…)]`, `#[rpc(…)]` and `#[task(…)]`.

use crate::argument::{ArgumentReader, AttributeArgument};
use crate::ctxt::Ctxt;
use crate::names::Kind;
use proc_macro2::{Span, TokenStream};
use syn::{Attribute, LitBool, LitStr, Meta, Path, parse_quote};

/// Options of the attribute above the trait.
#[derive(Debug)]
pub(crate) struct ServiceOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) codec: Option<Codec>,
    /// The span of `durable = false`.
    pub(crate) transient: Option<Span>,
    pub(crate) quorum: Option<Span>,
    /// Whether the trait can be used as `dyn Trait`.
    pub(crate) is_dyn: bool,
    /// The path of the crate `lepus`.
    pub(crate) krate: Path,
    pub(crate) halves: Halves,
}

/// Options of the attribute above a method.
#[derive(Debug, Default)]
pub(crate) struct MethodOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) timeout_millis: Option<u64>,
    pub(crate) idempotent: Option<Span>,
    pub(crate) oneway: Option<Span>,
    pub(crate) at_most_once: Option<Span>,
    pub(crate) require_consumer: Option<Span>,
    /// `cancel = false`: the handler runs on when its caller has given the call up.
    pub(crate) cancel: Option<LitBool>,
    pub(crate) default: Option<Span>,
    /// The span of `params = "bare"`.
    pub(crate) bare: Option<Span>,
    pub(crate) strict: Option<Span>,
}

/// The encoding of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    MsgPack,
    Json,
    Text,
    Bytes,
}

/// The generated types: both, or one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halves {
    Both,
    Stub,
    Dispatcher,
}

impl Codec {
    fn read(ctxt: &Ctxt, argument: &AttributeArgument) -> Option<Self> {
        const NAMED: [(&str, Codec); 4] = [
            ("msgpack", Codec::MsgPack),
            ("json", Codec::Json),
            ("text", Codec::Text),
            ("bytes", Codec::Bytes),
        ];
        let (word, _) = argument.word(ctxt, &NAMED.map(|(name, _)| name))?;
        NAMED
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, codec)| *codec)
    }

    /// The codec's name, if it encodes a single value without a structure around it.
    pub(crate) fn unstructured(self) -> Option<&'static str> {
        match self {
            Self::Text => Some("text"),
            Self::Bytes => Some("bytes"),
            Self::MsgPack | Self::Json => None,
        }
    }
}

impl ServiceOptions {
    /// The codec's name, if it encodes a single value without a structure around it.
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
            is_dyn: false,
            krate: parse_quote!(::lepus),
            halves: Halves::Both,
        };
        let (mut stub, mut dispatcher) = (false, false);
        for argument in ArgumentReader::of_trait(kind).read(ctxt, tokens) {
            match argument.key().as_str() {
                "name" => options.name = argument.string(ctxt),
                "version" => options.version = argument.string(ctxt),
                "queue" => options.queue = argument.string(ctxt),
                "codec" => options.codec = Codec::read(ctxt, &argument),
                "durable" => {
                    options.transient = argument
                        .bool(ctxt)
                        .filter(|durable| !durable.value)
                        .map(|no| no.span);
                }
                "quorum" => options.quorum = argument.flag(ctxt),
                "dyn" => options.is_dyn = argument.flag(ctxt).is_some(),
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
        let mut reader = ArgumentReader::of_method(kind);
        let ours = kind.method_attribute();
        for attribute in attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident(ours))
        {
            let tokens = match &attribute.meta {
                Meta::Path(_) => continue,
                Meta::List(list) => list.tokens.clone(),
                Meta::NameValue(_) => {
                    let message = format!("write the arguments in parentheses: `#[{ours}(…)]`");
                    ctxt.error_on(attribute, message);
                    continue;
                }
            };
            for argument in reader.read(ctxt, tokens) {
                options.read(ctxt, &argument);
            }
        }
        options
    }

    fn read(&mut self, ctxt: &Ctxt, argument: &AttributeArgument) {
        match argument.key().as_str() {
            "name" => self.name = argument.string(ctxt),
            "queue" => self.queue = argument.string(ctxt),
            "timeout" => self.timeout_millis = argument.duration(ctxt),
            "idempotent" => self.idempotent = argument.flag(ctxt),
            "oneway" => self.oneway = argument.flag(ctxt),
            "at_most_once" => self.at_most_once = argument.flag(ctxt),
            "require_consumer" => self.require_consumer = argument.flag(ctxt),
            "cancel" => self.cancel = argument.bool(ctxt),
            "default" => self.default = argument.flag(ctxt),
            "strict" => self.strict = argument.flag(ctxt),
            _ => {
                let params = argument.word(ctxt, &["bare", "named"]);
                self.bare = params
                    .filter(|(word, _)| *word == "bare")
                    .map(|(_, span)| span);
            }
        }
    }
}
