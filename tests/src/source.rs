//! Rust source as tokens, for rules about the code: comments and strings are not
//! code, and neither are a file's own tests.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests/ is in the workspace")
        .to_owned()
}

/// One file of a crate.
#[derive(Debug)]
pub struct Source {
    /// Below the crate's `src`, with `/`: `link/publish.rs`.
    pub path: String,
    pub text: String,
    code: Vec<TokenTree>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let tokens: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code: without_tests(tokens),
        }
    }

    /// Every `.rs` below `dir`, in order; none is a mistake in the caller.
    pub fn all(dir: &Path) -> Vec<Source> {
        let mut files = Vec::new();
        collect(dir, &mut files);
        files.sort();
        assert!(!files.is_empty(), "no source in {}", dir.display());
        let sources = files.iter().map(|file| {
            let path = file.strip_prefix(dir).expect("a file below its directory");
            let text = fs::read_to_string(file).expect("a source is UTF-8");
            Source::new(&path.display().to_string(), &text)
        });
        sources.collect()
    }

    /// The modules of the crate that the file is: `link/publish.rs` is
    /// `["link", "publish"]`, the crate's root is empty.
    pub fn module(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let parts = stem
            .split('/')
            .filter(|part| !["mod", "lib", "main"].contains(part));
        parts.map(str::to_owned).collect()
    }

    /// Does the code use this identifier anywhere?
    pub fn names(&self, identifier: &str) -> bool {
        let mut found = false;
        each(&self.code, &mut |token| {
            found |= matches!(token, TokenTree::Ident(ident) if *ident == identifier);
        });
        found
    }

    /// Does the code call this macro?
    pub fn calls(&self, name: &str) -> bool {
        fn calls(code: &[TokenTree], name: &str) -> bool {
            let pair = code
                .windows(2)
                .any(|pair| is(&pair[0], name) && is_punct(&pair[1], '!'));
            pair || code.iter().any(|token| match token {
                TokenTree::Group(group) => calls(&trees(group.stream()), name),
                _ => false,
            })
        }
        calls(&self.code, name)
    }

    /// The paths into its own crate that the code names, from the crate's root:
    /// `crate::a::B`, `super::a::B` and each branch of a `use`.
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        paths(&self.code, &self.module(), &mut found);
        found
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn trees(tokens: TokenStream) -> Vec<TokenTree> {
    tokens.into_iter().collect()
}

fn is(token: &TokenTree, identifier: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if *ident == identifier)
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Leaves out what `#[cfg(test)]` stands before: up to its braces or semicolon.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_test = is_punct(&token, '#')
            && matches!(tokens.peek(), Some(TokenTree::Group(attribute))
                if attribute.stream().to_string().replace(' ', "") == "cfg(test)");
        if !is_test {
            kept.push(token);
            continue;
        }
        tokens.next();
        for skipped in tokens.by_ref() {
            let is_body = matches!(&skipped, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
            if is_body || is_punct(&skipped, ';') {
                break;
            }
        }
    }
    kept
}

fn each(code: &[TokenTree], visit: &mut impl FnMut(&TokenTree)) {
    for token in code {
        visit(token);
        if let TokenTree::Group(group) = token {
            each(&trees(group.stream()), visit);
        }
    }
}

fn paths(code: &[TokenTree], module: &[String], found: &mut Vec<Vec<String>>) {
    let mut rest = code;
    let mut before = [None, None];
    while let [token, after @ ..] = rest {
        rest = after;
        // The second of `super::super` belongs to the path that the first began.
        let is_inside = before
            .iter()
            .all(|token| token.is_some_and(|t| is_punct(t, ':')));
        before = [before[1], Some(token)];
        if let (true, [TokenTree::Ident(name), TokenTree::Group(body), ..]) =
            (is(token, "mod"), after)
        {
            let inner = [module, &[name.to_string()]].concat();
            paths(&trees(body.stream()), &inner, found);
            rest = &after[2..];
            continue;
        }
        let base = if is_inside {
            None
        } else if is(token, "crate") {
            Some(Vec::new())
        } else if is(token, "self") {
            Some(module.to_vec())
        } else if is(token, "super") {
            Some(parent(module))
        } else {
            None
        };
        match (base, token) {
            (Some(base), _) if separator(rest).is_some() => branch(base, rest, found),
            (None, TokenTree::Group(group)) => paths(&trees(group.stream()), module, found),
            _ => {}
        }
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// What follows `::`, if that comes next.
fn separator(code: &[TokenTree]) -> Option<&[TokenTree]> {
    match code {
        [a, b, rest @ ..] if is_punct(a, ':') && is_punct(b, ':') => Some(rest),
        _ => None,
    }
}

/// Follows one path, and every branch of a braced `use`.
fn branch(mut base: Vec<String>, mut code: &[TokenTree], found: &mut Vec<Vec<String>>) {
    while let Some(next) = separator(code) {
        match next {
            [TokenTree::Ident(ident), rest @ ..] => {
                if *ident == "super" {
                    base = parent(&base);
                } else {
                    base.push(ident.to_string());
                }
                code = rest;
            }
            [TokenTree::Group(group), ..] => {
                let inner = trees(group.stream());
                for tree in inner.split(|token| is_punct(token, ',')) {
                    if let [TokenTree::Ident(ident), rest @ ..] = tree {
                        let mut base = base.clone();
                        if *ident != "self" {
                            base.push(ident.to_string());
                        }
                        branch(base, rest, found);
                    }
                }
                return;
            }
            _ => break,
        }
    }
    found.push(base);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let paths = Source::new(path, text).paths();
        paths.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn every_way_to_write_a_path_is_found() {
        let text = "
            use crate::{name::Queue, codec::{self, Codec as C}};
            pub(crate) use super::retry::Policy;
            fn f() -> crate::error::Error { crate::link::open::<u8>(self.x); log!(crate::status) }
            mod inner { use super::super::context; use self::own; }
            // crate::comment
            #[doc = \"crate::text\"] struct S;
            #[cfg(test)] mod tests { use crate::tested; }
            use crate::last::*;
        ";
        assert_eq!(
            found("pending.rs", text),
            [
                "name::Queue",
                "codec",
                "codec::Codec",
                "retry::Policy",
                "error::Error",
                "link::open",
                "status",
                "context",
                "pending::inner::own",
                "last",
            ]
        );
        assert_eq!(found("link/mod.rs", "use super::error;"), ["error"]);
        assert_eq!(
            found("link/publish.rs", "use super::state;"),
            ["link::state"]
        );
    }

    #[test]
    fn names_and_macros_are_found_in_code_alone() {
        let source = Source::new(
            "a.rs",
            "/// lapin\nfn f() { g(|| { lapin::x; dbg!(1) }) } // println!()",
        );
        assert!(source.names("lapin"));
        assert!(source.calls("dbg"));
        assert!(!source.calls("println"));
        let source = Source::new("a.rs", "//! lapin, `println!`\nconst X: &str = \"lapin\";");
        assert!(!source.names("lapin"));
        assert!(!source.calls("println"));
    }
}
