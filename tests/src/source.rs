//! Rust source as tokens, for rules about the code: comments and strings are not
//! code, and neither are a file's own tests.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeSet;
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
    /// The modules that are compiled for tests alone: `#[cfg(test)] mod tests;`.
    test_modules: Vec<String>,
}

/// A re-export: the name, and the path of the item from the crate's root.
pub type Reexport = (String, Vec<String>);

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let tokens: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut test_modules = Vec::new();
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code: without_tests(tokens, &mut test_modules),
            test_modules,
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

    /// The identifiers with which paths and imports begin, in the file's tests too: the crates that it names
    /// are among them.
    pub fn roots(&self) -> BTreeSet<String> {
        let tokens: TokenStream = self
            .text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", self.path));
        let mut found = BTreeSet::new();
        roots(&trees(tokens), &mut found);
        found
    }

    /// The paths into its own crate that the code names, from the crate's root:
    /// `crate::a::B`, `super::a::B` and each branch of a `use`.
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        paths(&self.code, &self.module(), &mut found);
        found
    }

    /// As [`paths`](Self::paths), with those that begin at a module which the file declares
    /// (`mod a; use a::B;`), and without re-exports of such modules.
    pub fn uses(&self) -> Vec<Vec<String>> {
        let mut found = self.paths();
        let children = self.children();
        let module = self.module();
        let mut rest = &self.code[..];
        while let [token, after @ ..] = rest {
            if let Some((_, after)) = reexport(rest) {
                rest = after;
                continue;
            }
            children_used(token, after, &children, &module, &mut found);
            rest = after;
        }
        found
    }

    /// The items of its child modules that the file re-exports.
    pub fn reexports(&self) -> Vec<Reexport> {
        let children = self.children();
        let module = self.module();
        let mut found = Vec::new();
        let mut rest = &self.code[..];
        while let [_, after @ ..] = rest {
            let Some((tree, after)) = reexport(rest) else {
                rest = after;
                continue;
            };
            if let [TokenTree::Ident(first), tail @ ..] = tree {
                let base = match first.to_string() {
                    name if name == "self" => Some(module.clone()),
                    name if name == "super" => Some(parent(&module)),
                    name if name == "crate" => Some(Vec::new()),
                    name if children.contains(&name) => Some([&module[..], &[name]].concat()),
                    _ => None,
                };
                if let Some(base) = base {
                    let mut targets = Vec::new();
                    branch(base, tail, &mut targets);
                    let named = targets.into_iter().filter_map(|path| {
                        let name = path.last()?.clone();
                        Some((name, path))
                    });
                    found.extend(named);
                }
            }
            rest = after;
        }
        found
    }

    /// The modules of the crate that are compiled for tests alone, as far as the file declares them.
    pub fn test_modules(&self) -> Vec<Vec<String>> {
        let module = self.module();
        let names = self.test_modules.iter();
        names
            .map(|name| [&module[..], std::slice::from_ref(name)].concat())
            .collect()
    }

    /// The types that the code defines: structs, enums, unions, traits and aliases, but no
    /// associated types.
    pub fn types(&self) -> Vec<String> {
        let mut found = Vec::new();
        types(&self.code, false, &mut found);
        found
    }

    /// The first line of each doc comment, with its number from 1.
    pub fn docs(&self) -> Vec<(usize, &str)> {
        let mut found = Vec::new();
        let mut before = None;
        for (index, line) in self.text.lines().enumerate() {
            let line = line.trim_start();
            let doc = ["//!", "///"]
                .into_iter()
                .find_map(|mark| Some((mark, line.strip_prefix(mark)?)));
            if let Some((mark, text)) = doc
                && before != Some(mark)
            {
                found.push((index + 1, text.trim()));
            }
            before = doc.map(|(mark, _)| mark);
        }
        found
    }

    fn children(&self) -> Vec<String> {
        let pairs = self.code.windows(3).filter_map(|tokens| match tokens {
            [keyword, TokenTree::Ident(name), end] if is(keyword, "mod") && is_punct(end, ';') => {
                Some(name.to_string())
            }
            _ => None,
        });
        pairs.collect()
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

/// Leaves out the items under `#[cfg(test)]`: up to their braces or semicolon. Notes the modules
/// among them that have a file of their own.
fn without_tests(tokens: TokenStream, test_modules: &mut Vec<String>) -> Vec<TokenTree> {
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
        let mut declares = None;
        let mut is_module = false;
        for skipped in tokens.by_ref() {
            let is_body = matches!(&skipped, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
            if is_punct(&skipped, ';') {
                test_modules.extend(declares.filter(|_| is_module));
                break;
            }
            if is_body {
                break;
            }
            if let TokenTree::Ident(ident) = &skipped {
                is_module |= declares.as_deref() == Some("mod");
                declares = Some(ident.to_string());
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

fn roots(code: &[TokenTree], found: &mut BTreeSet<String>) {
    for (at, token) in code.iter().enumerate() {
        let after = &code[at + 1..];
        match token {
            TokenTree::Group(group) => roots(&trees(group.stream()), found),
            TokenTree::Ident(name) => {
                let before = at.checked_sub(1).map(|before| &code[before]);
                let is_inside = before.is_some_and(|token| is_punct(token, ':'))
                    && at
                        .checked_sub(2)
                        .is_some_and(|two| is_punct(&code[two], ':'));
                let is_imported =
                    before.is_some_and(|token| is(token, "use") || is(token, "crate"));
                if is_imported || !is_inside && separator(after).is_some() {
                    found.insert(name.to_string());
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
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

/// The tree of a `pub use`, and the code after it. The visibility may be restricted.
fn reexport(code: &[TokenTree]) -> Option<(&[TokenTree], &[TokenTree])> {
    let [keyword, rest @ ..] = code else {
        return None;
    };
    if !is(keyword, "pub") {
        return None;
    }
    let rest = match rest {
        [TokenTree::Group(restriction), rest @ ..]
            if restriction.delimiter() == Delimiter::Parenthesis =>
        {
            rest
        }
        rest => rest,
    };
    let [keyword, rest @ ..] = rest else {
        return None;
    };
    let end = rest.iter().position(|token| is_punct(token, ';'))?;
    is(keyword, "use").then(|| (&rest[..end], &rest[end..]))
}

/// Collects the path that begins at `token`, and those inside it, if they begin at a child module.
fn children_used(
    token: &TokenTree,
    after: &[TokenTree],
    children: &[String],
    module: &[String],
    found: &mut Vec<Vec<String>>,
) {
    match token {
        TokenTree::Ident(name)
            if children.contains(&name.to_string()) && separator(after).is_some() =>
        {
            branch([module, &[name.to_string()]].concat(), after, found);
        }
        TokenTree::Group(group) => {
            let inner = trees(group.stream());
            let mut rest = &inner[..];
            let mut is_inside = false;
            while let [token, after @ ..] = rest {
                if !is_inside {
                    children_used(token, after, children, module, found);
                }
                is_inside = is_punct(token, ':') || is_punct(token, '.');
                rest = after;
            }
        }
        _ => {}
    }
}

fn types(code: &[TokenTree], is_associated: bool, found: &mut Vec<String>) {
    let mut is_body_associated = false;
    let mut before = None;
    let mut rest = code;
    while let [token, after @ ..] = rest {
        rest = after;
        let follows = |mark| before.is_some_and(|token| is_punct(token, mark));
        let (is_argument, is_variable) = (follows('!'), follows('$'));
        before = Some(token);
        match token {
            // `forward! { struct enum }` and `$trait` define nothing.
            TokenTree::Group(_) if is_argument => {}
            TokenTree::Ident(_) if is_variable => {}
            TokenTree::Ident(keyword) => {
                let keyword = keyword.to_string();
                is_body_associated |= keyword == "impl" || keyword == "trait";
                let defines = match keyword.as_str() {
                    "struct" | "enum" | "union" | "trait" => true,
                    "type" => !is_associated,
                    _ => false,
                };
                if let (true, [TokenTree::Ident(name), ..]) = (defines, after) {
                    found.push(name.to_string());
                }
            }
            TokenTree::Group(group) => {
                types(&trees(group.stream()), is_body_associated, found);
                if group.delimiter() == Delimiter::Brace {
                    is_body_associated = false;
                }
            }
            TokenTree::Punct(end) if end.as_char() == ';' => is_body_associated = false,
            _ => {}
        }
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// The text after `::`, if that comes next.
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
    fn children_are_used_or_re_exported() {
        let text = "
            mod a; pub(crate) mod b; mod c;
            #[cfg(test)] mod tests;
            #[cfg(test)] mod inner { mod deeper; }
            use a::{X, Y};
            pub use b::{Z, deep::W};
            pub(super) use super::other::V;
            fn f() { c::g(x.c::<u8>(), other::c::h) }
        ";
        let source = Source::new("room/mod.rs", text);
        let joined = |paths: Vec<Vec<String>>| -> Vec<String> {
            paths.iter().map(|path| path.join("::")).collect()
        };
        assert_eq!(
            joined(source.uses()),
            ["other::V", "room::a::X", "room::a::Y", "room::c::g"]
        );
        let (names, paths): (Vec<_>, Vec<_>) = source.reexports().into_iter().unzip();
        assert_eq!(names, ["Z", "W", "V"]);
        assert_eq!(
            joined(paths),
            ["room::b::Z", "room::b::deep::W", "other::V"]
        );
        assert_eq!(joined(source.test_modules()), ["room::tests"]);
    }

    #[test]
    fn types_are_found_and_associated_ones_are_not() {
        let text = "
            struct A<T>(T); pub enum B {} type C = u8; trait D { type E; fn f(); }
            impl D for A<u8> { type E = u8; fn f() { struct F; } }
            macro_rules! m { ($t:ident) => { struct $t; impl $trait for u8 {} } }
            m! { struct enum K }
            #[cfg(test)] mod tests { struct G; }
            const fn g(x: impl Fn()) -> u8 { 1 }
            type H = u8;
        ";
        assert_eq!(
            Source::new("a.rs", text).types(),
            ["A", "B", "C", "D", "F", "H"]
        );
    }

    #[test]
    fn crates_are_the_roots_of_paths() {
        let text = "
            use a::{b::C, d}; use e; use f as g; extern crate h; use {i::J, k::L};
            #[m::main] fn n(o: p::Q) -> R { let s = t; u::<V>(w); x::y!() }
            /// z::Z
            #[cfg(test)] mod tests { use aa::B; }
        ";
        let found = Source::new("a.rs", text).roots();
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(
            found,
            ["a", "aa", "b", "e", "f", "h", "i", "k", "m", "p", "u", "x"]
        );
    }

    #[test]
    fn docs_are_found_by_their_first_lines() {
        let text = "//! Head\n//! more\n\n/// Item\n/// more\nfn f() {}\n// comment\n";
        let source = Source::new("a.rs", text);
        assert_eq!(source.docs(), [(1, "Head"), (4, "Item")]);
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
