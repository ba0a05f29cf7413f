//! The house keeps its order by itself: rules about the source, as tests.
//!
//! Each rule is a function from sources to complaints, and is tried on a mistake
//! too, so that it is known to see one.

use lepus_tests::source::{Source, workspace};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// The rooms of `runtime/src`, from the ground up. A room is a file or a folder; in the folders of
/// [`SPLIT`], each file and each folder.
/// It may use the rooms of lower floors, and those named before it on its own.
const FLOORS: &[&[&str]] = &[
    &[
        "escape",
        "extensions",
        "drain",
        "sync",
        "cancel_table",
        "wire/name",
        "wire/value",
        "wire/reply_code",
        "wire/trace_headers",
        "wire/status",
        "clock",
        "policy/retry",
        "policy/backoff",
        "random",
        "deadline",
        "handler_guard",
        "stats",
    ],
    &[
        "error",
        "wire/message",
        "observe",
        "meter",
        "span",
        "context",
        "cancellable",
        "policy/verdict",
    ],
    &[
        "wire/codec",
        "descriptor",
        "wire/envelope",
        "wire/batch",
        "wire/topology",
        "policy/in_flight",
        "policy/settle",
        "policy/acks",
        "policy/refusal",
        "policy/stream",
        "wire/mod",
        "policy/mod",
    ],
    &["link", "returns", "cancellation"],
    &[
        "stream",
        "service",
        "streamed",
        "incoming",
        "arguments",
        "middleware",
    ],
    &["shutdown", "publish", "worker", "control"],
    &["client", "server", "queue", "pubsub"],
    &["amqp", "rpc", "jobs", "events", "__rt", "__bench", "lib"],
];

/// Folders whose files stand on floors of their own.
const SPLIT: &[&str] = &["wire", "policy"];

/// The only room that may name lapin.
const LINK: &str = "link";

/// The members of the workspace, by their folders.
const MEMBERS: &[&str] = &[
    "macros",
    "runtime",
    "broker",
    "otel",
    "cli",
    "examples",
    "examples/gateway",
    "tests",
];

/// Dependencies that no source file of their crate names: the crate's folder, the dependency, and the
/// reason to have it.
const UNNAMED: &[(&str, &str, &str)] = &[
    ("examples", "lepus-otel", "snippets of the book"),
    ("examples", "opentelemetry", "snippets of the book"),
    ("examples", "opentelemetry-stdout", "snippets of the book"),
    ("examples", "opentelemetry_sdk", "snippets of the book"),
    ("examples", "tracing-opentelemetry", "snippets of the book"),
];

const LIBRARIES: &[&str] = &["macros", "runtime", "broker", "otel"];

/// Words with which no doc comment begins: a sentence that begins so describes something without
/// naming it.
const VAGUE: &[&str] = &["What", "Who", "Whose", "How", "Where"];

#[test]
fn every_file_begins_with_what_it_is_for() {
    for member in MEMBERS {
        let sources = Source::all(&workspace().join(member).join("src"));
        clean(heads(&sources));
    }
}

#[test]
fn only_the_link_names_lapin() {
    clean(lapins(&runtime()));
}

#[test]
fn no_floor_uses_a_higher_one() {
    clean(floors(&runtime()));
}

#[test]
fn a_type_name_is_defined_once() {
    clean(twice_defined(&runtime()));
}

#[test]
fn a_doc_comment_begins_with_a_name() {
    for member in MEMBERS {
        let sources = Source::all(&workspace().join(member));
        clean(vague(member, &sources));
    }
}

#[test]
fn the_files_of_a_folder_have_an_order() {
    clean(circles(&runtime()));
}

#[test]
fn the_changelog_speaks_of_this_version() {
    clean(changelog(&read("CHANGELOG.md"), env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_dependency_is_used() {
    let mut complaints = Vec::new();
    let mut manifests = Vec::new();
    for member in MEMBERS {
        let path = format!("{member}/Cargo.toml");
        let manifest = read(&path);
        let sources = Source::all(&workspace().join(member));
        let roots = sources.iter().flat_map(Source::roots).collect();
        let allowed: Vec<&str> = UNNAMED
            .iter()
            .filter(|(folder, _, _)| folder == member)
            .map(|(_, dependency, _)| *dependency)
            .collect();
        complaints.extend(unused(&path, &manifest, &roots, &allowed));
        manifests.push(manifest);
    }
    complaints.extend(unused_in_workspace(&read("Cargo.toml"), &manifests));
    clean(complaints);
}

#[test]
fn no_text_names_a_package_registry() {
    for path in project_files() {
        let bytes = fs::read(workspace().join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        clean(registries(&path, &String::from_utf8_lossy(&bytes)));
    }
}

#[test]
fn libraries_do_not_print() {
    for library in LIBRARIES {
        clean(prints(&Source::all(&workspace().join(library).join("src"))));
    }
}

#[test]
fn the_pages_name_every_example() {
    let examples: Vec<String> = project_files()
        .iter()
        .filter_map(|path| path.strip_prefix("examples/examples/")?.strip_suffix(".rs"))
        .map(str::to_owned)
        .collect();
    if !examples.is_empty() {
        let mut pages = read("README.md");
        for path in project_files() {
            if path.starts_with("book/src/") && path.ends_with(".md") {
                pages.push_str(&read(&path));
            }
        }
        clean(unmentioned(&examples, &pages));
    }
}

fn heads(sources: &[Source]) -> Vec<String> {
    let headless = sources
        .iter()
        .filter(|source| !source.text.starts_with("//! "));
    headless
        .map(|source| format!("{}: begin it with `//!`, what it is for", source.path))
        .collect()
}

fn lapins(sources: &[Source]) -> Vec<String> {
    let outside = sources
        .iter()
        .filter(|source| room(&source.path) != LINK && source.names("lapin"));
    outside
        .map(|source| format!("{}: only {LINK}/ names lapin", source.path))
        .collect()
}

fn floors(sources: &[Source]) -> Vec<String> {
    let rooms: Vec<&str> = FLOORS.concat();
    let height = |name: &str| rooms.iter().position(|room| *room == name);
    let mut complaints = Vec::new();
    for source in sources {
        let Some(own) = height(&room(&source.path)) else {
            complaints.push(format!(
                "{}: no such room: give it a place in FLOORS of tests/tests/tidy.rs, and in ARCHITECTURE.md",
                source.path
            ));
            continue;
        };
        for path in source.paths() {
            if path.is_empty() {
                continue;
            }
            match height(&room(&path.join("/"))) {
                Some(other) if other <= own => {}
                Some(_) => complaints.push(format!(
                    "{}: crate::{} is above it: see FLOORS in tests/tests/tidy.rs",
                    source.path,
                    path.join("::")
                )),
                // The crate's root may re-export; nobody below may lean on that.
                None if own == rooms.len() - 1 => {}
                None => complaints.push(format!(
                    "{}: crate::{}: name the file it comes from",
                    source.path,
                    path.join("::")
                )),
            }
        }
    }
    complaints
}

/// `Inner` is the usual name for the shared state behind a handle, and private to its file.
fn twice_defined(sources: &[Source]) -> Vec<String> {
    let mut defined: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for source in without_test_files(sources) {
        for name in source.types() {
            defined.entry(name).or_default().insert(&source.path);
        }
    }
    let twice = defined
        .iter()
        .filter(|(name, paths)| paths.len() > 1 && *name != "Inner");
    twice
        .map(|(name, paths)| {
            let paths: Vec<&str> = paths.iter().copied().collect();
            format!("{name} is defined in {}", paths.join(" and in "))
        })
        .collect()
}

fn vague(member: &str, sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let path = format!("{member}/{}", source.path);
        for (line, text) in source.docs() {
            let word = text.split(|c: char| !c.is_alphabetic()).next();
            if word.is_some_and(|word| VAGUE.contains(&word)) {
                complaints.push(format!("{path}:{line}: begin it with a name: {text}"));
            }
        }
    }
    complaints
}

/// The order is not written down: there is one as long as the files do not use each other in a
/// circle. Of a folder inside a folder, all files count as one here. `mod.rs` counts as a file, but
/// for what it re-exports.
fn circles(sources: &[Source]) -> Vec<String> {
    let sources = without_test_files(sources);
    let modules: BTreeSet<Vec<String>> = sources
        .iter()
        .flat_map(|source| {
            let module = source.module();
            (0..=module.len()).map(move |length| module[..length].to_vec())
        })
        .collect();
    let mut reexports = BTreeMap::new();
    for source in &sources {
        let module = source.module();
        for (name, path) in source.reexports() {
            reexports.insert([&module[..], &[name]].concat(), path);
        }
    }
    let mut folders: BTreeMap<String, Uses> = BTreeMap::new();
    for source in &sources {
        let module = source.module();
        for path in source.uses() {
            let path = resolved(path, &modules, &reexports);
            let shared = module.iter().zip(&path).take_while(|(a, b)| a == b).count();
            let folder = &module[..shared];
            let file = |path: &[String]| -> String {
                let is_module = path.len() > shared && modules.contains(&path[..=shared]);
                if is_module {
                    path[shared].clone()
                } else {
                    "mod".to_owned()
                }
            };
            let (user, used) = (file(&module), file(&path));
            if !folder.is_empty() && user != used {
                let uses = folders.entry(folder.join("/")).or_default();
                uses.entry(user).or_default().insert(used);
            }
        }
    }
    let mut complaints = Vec::new();
    for (folder, uses) in &folders {
        for circle in circles_of(uses) {
            complaints.push(format!("{folder}/: a circle of {}", circle.join(" -> ")));
        }
    }
    complaints
}

/// The files of a folder, each with those that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The path of the item itself, if it is named by a re-export.
fn resolved(
    mut path: Vec<String>,
    modules: &BTreeSet<Vec<String>>,
    reexports: &BTreeMap<Vec<String>, Vec<String>>,
) -> Vec<String> {
    // A re-export of a re-export, but no circle of them.
    for _ in 0..8 {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| modules.contains(&path[..*depth]));
        let item = depth.and_then(|depth| path.get(..=depth));
        let Some(target) = item.and_then(|item| reexports.get(item)) else {
            break;
        };
        let rest = path.split_off(depth.map_or(0, |depth| depth + 1));
        path = [&target[..], &rest].concat();
    }
    path
}

/// The shortest circle through each file that is in one, each circle once.
fn circles_of(uses: &Uses) -> Vec<Vec<&str>> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut circles = Vec::new();
    for start in uses.keys() {
        if seen.contains(start.as_str()) {
            continue;
        }
        let mut ways = vec![vec![start.as_str()]];
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        while !ways.is_empty() {
            let way = ways.remove(0);
            let used = way.last().and_then(|last| uses.get(*last));
            for next in used.into_iter().flatten() {
                let longer = [&way[..], &[next.as_str()]].concat();
                if next == start {
                    seen.extend(&longer);
                    circles.push(longer);
                    ways.clear();
                    break;
                }
                if reached.insert(next.as_str()) {
                    ways.push(longer);
                }
            }
        }
    }
    circles
}

fn without_test_files(sources: &[Source]) -> Vec<&Source> {
    let test_modules: Vec<Vec<String>> = sources.iter().flat_map(Source::test_modules).collect();
    let code = sources.iter().filter(|source| {
        let module = source.module();
        !test_modules.iter().any(|tests| module.starts_with(tests))
    });
    code.collect()
}

/// The room that a path names, be it of a file or of an item.
fn room(path: &str) -> String {
    let mut parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
    let first = parts.next().unwrap_or_default();
    match parts.next() {
        Some(second) if SPLIT.contains(&first) => format!("{first}/{second}"),
        _ => first.to_owned(),
    }
}

fn changelog(text: &str, version: &str) -> Vec<String> {
    let heading = format!("## {version}");
    let is_there = text.lines().any(|line| {
        line.strip_prefix(&heading)
            .is_some_and(|rest| !rest.starts_with(['.', '-']))
    });
    if is_there {
        vec![]
    } else {
        vec![format!("CHANGELOG.md: no section {heading:?}")]
    }
}

/// The names of the dependencies in the tables of a manifest whose heads end with `dependencies]`.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut is_inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_inside = line.trim_end().ends_with("dependencies]");
            // A table of its own, as in `[dependencies.serde]`.
            let named = line.rsplit_once("dependencies.");
            names.extend(named.map(|(_, name)| name.trim_end().trim_end_matches(']')));
        } else if is_inside {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && line.contains('=') {
                names.insert(name);
            }
        }
    }
    names
}

fn unused(path: &str, manifest: &str, roots: &BTreeSet<String>, allowed: &[&str]) -> Vec<String> {
    let dependencies = dependencies(manifest);
    let is_named = |dependency: &str| roots.contains(&dependency.replace('-', "_"));
    let unused = dependencies
        .iter()
        .filter(|dependency| !is_named(dependency) && !allowed.contains(dependency))
        .map(|dependency| format!("{path}: no source file of the crate names {dependency}"));
    let needless = allowed
        .iter()
        .filter(|dependency| is_named(dependency) || !dependencies.contains(*dependency))
        .map(|dependency| format!("{path}: {dependency} need not be in UNNAMED of tidy.rs"));
    unused.chain(needless).collect()
}

fn unused_in_workspace(workspace: &str, manifests: &[String]) -> Vec<String> {
    let used: BTreeSet<&str> = manifests
        .iter()
        .flat_map(|manifest| dependencies(manifest))
        .collect();
    dependencies(workspace)
        .difference(&used)
        .map(|dependency| format!("Cargo.toml: no member depends on {dependency}"))
        .collect()
}

fn registries(path: &str, text: &str) -> Vec<String> {
    // In two parts, so that this file does not name them either.
    let hosts = [
        ("crates", "io"),
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("rubygems", "org"),
        ("proxy.golang", "org"),
        ("docker", "io"),
    ];
    let named = hosts.map(|(name, domain)| format!("{name}.{domain}"));
    let named = named.iter().filter(|host| text.contains(host.as_str()));
    named.map(|host| format!("{path}: names {host}")).collect()
}

fn prints(sources: &[Source]) -> Vec<String> {
    let macros = ["print", "println", "eprint", "eprintln", "dbg"];
    let calls = sources.iter().flat_map(|source| {
        let called = macros.iter().filter(|name| source.calls(name));
        called.map(|name| format!("{}: a library does not {name}!", source.path))
    });
    calls.collect()
}

fn unmentioned(examples: &[String], pages: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let missing = examples
        .iter()
        .filter(|example| !pages.split(|c| !is_word(c)).any(|word| word == **example));
    missing
        .map(|example| format!("neither README.md nor the book mentions the example {example}"))
        .collect()
}

fn runtime() -> Vec<Source> {
    Source::all(&workspace().join("runtime/src"))
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files that are in the repository, or would be with the next commit.
fn project_files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace())
        .output()
        .expect("git lists the files");
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let files: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|path| workspace().join(path).is_file())
        .map(str::to_owned)
        .collect();
    assert!(
        files.iter().any(|file| file == "Cargo.toml"),
        "git lists the workspace"
    );
    files
}

#[track_caller]
fn clean(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

mod each_rule_sees_a_mistake {
    use super::*;

    fn complaints(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str) -> usize {
        rule(&[Source::new(path, text)]).len()
    }

    #[test]
    fn a_missing_head() {
        assert_eq!(complaints(heads, "a.rs", "// a comment\nfn f() {}"), 1);
        assert_eq!(complaints(heads, "a.rs", "//! A head.\nfn f() {}"), 0);
    }

    #[test]
    fn lapin_upstairs() {
        assert_eq!(complaints(lapins, "worker.rs", "use lapin::Channel;"), 1);
        assert_eq!(
            complaints(lapins, "link/publish.rs", "use lapin::Channel;"),
            0
        );
        assert_eq!(
            complaints(lapins, "worker.rs", "// lapin\n/// lapin\nfn f() {}"),
            0
        );
    }

    #[test]
    fn a_floor_that_leans_on_a_higher_one() {
        assert_eq!(
            complaints(floors, "wire/codec.rs", "use crate::worker::Worker;"),
            1
        );
        assert_eq!(
            complaints(
                floors,
                "wire/codec.rs",
                "use crate::{wire::status::Status, policy::in_flight};"
            ),
            1
        );
        assert_eq!(
            complaints(
                floors,
                "link/consume.rs",
                "use super::super::client::Client;"
            ),
            1
        );
        assert_eq!(
            complaints(floors, "worker.rs", "use crate::wire::codec::Codec;"),
            0
        );
        assert_eq!(
            complaints(floors, "client/call.rs", "use super::reply::Reply;"),
            0
        );
        assert_eq!(
            complaints(floors, "client/call.rs", "use crate::Status;"),
            1,
            "by the root"
        );
        assert_eq!(
            complaints(floors, "lib.rs", "pub use crate::pubsub::Topic;"),
            0
        );
        assert_eq!(
            complaints(floors, "attic.rs", ""),
            1,
            "a room that is not in the table"
        );
    }

    #[test]
    fn a_type_name_that_is_defined_twice() {
        let two = |a: &str, b: &str| {
            let sources = [Source::new("a.rs", a), Source::new("b.rs", b)];
            twice_defined(&sources)
        };
        assert_eq!(
            two("struct State;", "pub(crate) enum State {}"),
            ["State is defined in a.rs and in b.rs"]
        );
        assert_eq!(two("struct Inner;", "struct Inner;"), [""; 0]);
        assert_eq!(
            two("struct State;", "#[cfg(test)] mod tests { struct State; }"),
            [""; 0]
        );
        assert_eq!(
            two("impl A for B { type Output = u8; }", "type Output = u8;"),
            [""; 0]
        );
        let sources = [
            Source::new("a.rs", "struct State; #[cfg(test)] mod tests;"),
            Source::new("a/tests.rs", "struct State;"),
        ];
        assert_eq!(twice_defined(&sources), [""; 0]);
    }

    #[test]
    fn a_doc_comment_without_a_name() {
        let complaints = |text: &str| vague("runtime", &[Source::new("a.rs", text)]).len();
        assert_eq!(complaints("//! What a client holds.\nfn f() {}"), 1);
        assert_eq!(complaints("/// How it ends.\nfn f() {}"), 1);
        assert_eq!(
            complaints("struct S {\n    /// Whose it is.\n    a: u8,\n}"),
            1
        );
        assert_eq!(
            complaints("/// A client.\n/// What it holds.\nfn f() {}"),
            0
        );
        assert_eq!(complaints("/// However it ends.\n// What\nfn f() {}"), 0);
    }

    #[test]
    fn files_that_use_each_other_in_a_circle() {
        let circles = |files: &[(&str, &str)]| {
            let sources: Vec<Source> = files
                .iter()
                .map(|(path, text)| Source::new(path, text))
                .collect();
            circles(&sources)
        };
        let room = "mod a; mod b; pub use a::A; pub use b::B;";
        assert_eq!(
            circles(&[
                ("room/mod.rs", room),
                ("room/a.rs", "use super::b::B;"),
                ("room/b.rs", "use crate::room::A;"),
            ]),
            ["room/: a circle of a -> b -> a"],
            "one of them by a re-export"
        );
        assert_eq!(
            circles(&[
                ("room/mod.rs", room),
                ("room/a.rs", "use super::b::B;"),
                (
                    "room/b.rs",
                    "#[cfg(test)] mod tests { use super::super::a::A; }"
                ),
            ]),
            [""; 0]
        );
        assert_eq!(
            circles(&[
                ("room/mod.rs", "mod a; struct S(a::A);"),
                ("room/a.rs", "use super::S;"),
            ]),
            ["room/: a circle of a -> mod -> a"]
        );
        assert_eq!(
            circles(&[
                ("room/mod.rs", "mod a; mod b;"),
                ("room/a/mod.rs", "mod c;"),
                ("room/a/c.rs", "use super::super::b::B;"),
                ("room/b.rs", "use super::a::c::C;"),
            ]),
            ["room/: a circle of a -> b -> a"],
            "a folder counts as one"
        );
        assert_eq!(
            circles(&[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")]),
            [""; 0],
            "the rooms are in FLOORS"
        );
    }

    #[test]
    fn a_changelog_that_is_behind() {
        assert_eq!(
            changelog("# Changelog\n\n## 0.1.0 (unreleased)\n", "0.1.0"),
            [""; 0]
        );
        assert_eq!(changelog("## 0.1.0\n", "0.2.0").len(), 1);
        assert_eq!(changelog("## 0.1.0-rc.1\n", "0.1.0").len(), 1);
    }

    #[test]
    fn a_dependency_that_nothing_uses() {
        let manifest = "[package]\nname = \"x\"\n[features]\ntls = [\"dep:a-b\"]\n\
            [dependencies]\n# a comment = 1\na-b = { workspace = true, optional = true }\n\
            serde.workspace = true\n[dev-dependencies]\ntokio = { version = \"1\", features = [\n\
            \"rt\",\n] }\n[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n\
            [dependencies.bytes]\nversion = \"1\"\n[[bench]]\nname = \"y\"\n";
        let all = ["a-b", "bytes", "libc", "serde", "tokio"];
        assert_eq!(dependencies(manifest), BTreeSet::from(all));
        let roots = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let named = ["a_b", "bytes", "libc", "serde", "tokio", "std"];
        let unused = |roots, allowed: &[&str]| unused("Cargo.toml", manifest, &roots, allowed);
        assert_eq!(unused(roots(&named), &[]), [""; 0]);
        assert_eq!(
            unused(roots(&named[1..]), &[]),
            ["Cargo.toml: no source file of the crate names a-b"]
        );
        assert_eq!(unused(roots(&named[1..]), &["a-b"]), [""; 0]);
        assert_eq!(unused(roots(&named), &["serde", "rand"]).len(), 2);
        let workspace = "[workspace.dependencies]\nserde = \"1\"\nrand = \"1\"\n";
        let complaints = unused_in_workspace(workspace, &[manifest.to_owned()]);
        assert_eq!(complaints, ["Cargo.toml: no member depends on rand"]);
    }

    #[test]
    fn a_registry_by_name() {
        let host = ["crates", "io"].join(".");
        assert_eq!(
            registries("README.md", &format!("see https://{host}/x")).len(),
            1
        );
        assert_eq!(registries("README.md", "see the registry").len(), 0);
    }

    #[test]
    fn a_library_that_prints() {
        assert_eq!(complaints(prints, "a.rs", "fn f() { println!(\"x\") }"), 1);
        assert_eq!(complaints(prints, "a.rs", "/// println!()\nfn f() {}"), 0);
    }

    #[test]
    fn an_example_the_pages_forgot() {
        let examples = ["fib".to_owned(), "fib_server".to_owned()];
        assert_eq!(unmentioned(&examples, "`--example fib_server`").len(), 1);
        assert_eq!(unmentioned(&examples, "`fib`, `fib_server`").len(), 0);
    }
}
