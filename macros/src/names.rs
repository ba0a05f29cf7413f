//! Names: those of the attributes, arguments and generated types of each kind of contract, and the
//! conversion of Rust's names to names on the wire.

use proc_macro2::Ident;
use syn::ext::IdentExt as _;

/// The maximum length of an AMQP short string, in bytes.
const SHORT_STRING_MAX: usize = 255;

/// The two kinds of contract. They share the parser, the checks and most of the expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `#[lepus::service]`: calls with replies.
    Service,
    /// `#[lepus::tasks]`: jobs on a work queue.
    Tasks,
}

impl Kind {
    /// The attribute above the trait.
    pub(crate) fn attribute(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Tasks => "tasks",
        }
    }

    /// The attribute above a method.
    pub(crate) fn method_attribute(self) -> &'static str {
        match self {
            Self::Service => "rpc",
            Self::Tasks => "task",
        }
    }

    /// The other kind, whose attributes may be used by mistake.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Service => Self::Tasks,
            Self::Tasks => Self::Service,
        }
    }

    /// The argument that restricts the generated code to the sending half.
    pub(crate) fn stub(self) -> &'static str {
        match self {
            Self::Service => "client",
            Self::Tasks => "producer",
        }
    }

    /// The suffix of the sending half's type name.
    pub(crate) fn stub_suffix(self) -> &'static str {
        match self {
            Self::Service => "Client",
            Self::Tasks => "Producer",
        }
    }

    /// The suffix of the receiving half's type name.
    pub(crate) fn dispatcher_suffix(self) -> &'static str {
        match self {
            Self::Service => "Server",
            Self::Tasks => "Worker",
        }
    }

    /// The arguments known to the attribute above the trait.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Service => &[
                "name", "version", "queue", "codec", "durable", "quorum", "dyn", "crate", "client",
                "server",
            ],
            Self::Tasks => &[
                "name", "version", "queue", "codec", "dyn", "crate", "producer", "worker",
            ],
        }
    }

    /// The arguments known to the attribute above a method.
    pub(crate) fn method_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Service => &[
                "name",
                "timeout",
                "idempotent",
                "oneway",
                "at_most_once",
                "require_consumer",
                "cancel",
                "queue",
                "default",
                "params",
                "strict",
            ],
            Self::Tasks => &["name", "timeout", "params", "strict"],
        }
    }

    /// The associated items of the sending half's type. No method may have such a name.
    pub(crate) fn reserved(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["new", "builder", "local", "clone", "DESCRIPTOR"],
            Self::Tasks => &["new", "with_producer", "push_all", "clone", "DESCRIPTOR"],
        }
    }
}

/// A method's or an argument's name on the wire: the identifier without its `r#`.
pub(crate) fn wire_name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// The name of a variant for a method: `make_smaller` becomes `MakeSmaller`.
pub(crate) fn pascal_case(ident: &Ident) -> String {
    let name = wire_name(ident);
    let words = name.split('_').map(|word| {
        let mut rest = word.chars();
        let first = rest.next().map(char::to_uppercase);
        first.into_iter().flatten().chain(rest).collect::<String>()
    });
    let name: String = words.collect();
    let is_identifier = name.starts_with(|c: char| !c.is_numeric());
    match &*name {
        // Neither is an identifier that could be raw.
        "Self" => "Self_".to_owned(),
        _ if is_identifier => name,
        _ => format!("_{name}"),
    }
}

/// A service's name on the wire: `ImageStore` becomes `image-store`, `HTTPServer` `http-server`.
pub(crate) fn kebab_case(ident: &Ident) -> String {
    let name = wire_name(ident);
    let mut kebab = String::with_capacity(name.len() + 4);
    let mut before: Option<char> = None;
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let starts_word = c.is_uppercase()
            && before.is_some_and(|b| {
                b.is_lowercase()
                    || b.is_numeric()
                    || (b.is_uppercase() && rest.peek().is_some_and(|next| next.is_lowercase()))
            });
        if c == '_' {
            if !kebab.is_empty() && !kebab.ends_with('-') {
                kebab.push('-');
            }
        } else {
            if starts_word {
                kebab.push('-');
            }
            kebab.extend(c.to_lowercase());
        }
        before = Some(c);
    }
    kebab
}

/// The reason why `name` cannot be an AMQP name, if there is one.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("a name cannot be empty".to_owned())
    } else if name.len() > SHORT_STRING_MAX {
        let length = name.len();
        Some(format!(
            "a name can be {SHORT_STRING_MAX} bytes long at most, this one has {length}"
        ))
    } else if name.chars().any(char::is_control) {
        Some("a name cannot hold a control character".to_owned())
    } else {
        None
    }
}

/// The reason why `name` cannot be the name of a queue, if there is one.
pub(crate) fn queue_problem(name: &str) -> Option<String> {
    name_problem(name).or_else(|| {
        name.starts_with("amq.").then(|| {
            "names that start with `amq.` belong to the broker: choose another for the queue"
                .to_owned()
        })
    })
}

/// Whether `version` has the form `major.minor.patch`, optionally with a `-suffix`.
pub(crate) fn is_version(version: &str) -> bool {
    let (numbers, suffix) = match version.split_once('-') {
        Some((numbers, suffix)) => (numbers, Some(suffix)),
        None => (version, None),
    };
    let number = |part: &str| {
        part.parse::<u64>().is_ok()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    numbers.split('.').count() == 3
        && numbers.split('.').all(number)
        && suffix.is_none_or(|suffix| suffix.split('.').all(word))
}

/// Formats words as "`a`, `b`" for messages.
pub(crate) fn listed(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proc_macro2::Span;

    fn kebab(name: &str) -> String {
        kebab_case(&Ident::new(name, Span::call_site()))
    }

    #[test]
    fn trait_names_become_kebab_case() {
        assert_eq!(kebab("Calculator"), "calculator");
        assert_eq!(kebab("ImageStore"), "image-store");
        assert_eq!(kebab("HTTPServer"), "http-server");
        assert_eq!(kebab("Base64Api"), "base64-api");
        assert_eq!(kebab("V2"), "v2");
        assert_eq!(kebab("A"), "a");
        assert_eq!(kebab("My_Service"), "my-service");
        assert_eq!(kebab("_Hidden"), "hidden");
        assert_eq!(kebab("ÄrgerNis"), "ärger-nis");
        assert_eq!(
            kebab_case(&Ident::new_raw("Type", Span::call_site())),
            "type"
        );
    }

    #[test]
    fn names_are_amqp_short_strings() {
        assert_eq!(name_problem("calculator"), None);
        assert_eq!(name_problem(&"x".repeat(255)), None);
        assert!(name_problem(&"x".repeat(256)).is_some_and(|why| why.contains("256")));
        assert!(name_problem("").is_some());
        assert!(name_problem("a\nb").is_some());
        assert!(queue_problem("amq.mine").is_some());
        assert_eq!(queue_problem("amqp"), None);
    }

    #[test]
    fn versions_have_three_numbers() {
        for good in ["0.0.0", "1.0.0", "10.20.30", "1.0.0-rc.1", "1.0.0-a-b"] {
            assert!(is_version(good), "{good}");
        }
        for bad in [
            "", "1", "1.0", "1.0.0.0", "1.0.x", "+1.0.0", "01.0.0", "1.0.0-", "v1.0.0",
        ] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
