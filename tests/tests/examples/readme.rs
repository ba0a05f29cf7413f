//! The README, the book and ARCHITECTURE.md say what is there. (Their snippets are compiled and run
//! as doctests of the examples' crate.)

use lepus_tests::process::{Program, Signal, example};
use lepus_tests::source::workspace;
use std::collections::BTreeMap;
use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of the entries of a folder.
fn entries(path: &str) -> Vec<String> {
    let entries = fs::read_dir(workspace().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect()
}

/// The texts between backticks in a line.
fn code(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/internals/performance.md",
        "docs/protocol.md",
    ] {
        let text = read(page);
        let folder = workspace().join(page);
        let folder = folder.parent().expect("a folder");
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().expect("the end of a link");
            if !target.starts_with("https://") {
                let path = target.split('#').next().expect("a path");
                assert!(folder.join(path).exists(), "{page}: {target}");
            }
        }
    }
}

#[test]
fn every_tutorial_has_its_examples_and_their_lines() {
    let page = read("book/src/start.md");
    let shared: String = entries("examples/src")
        .iter()
        .map(|name| read(&format!("examples/src/{name}")))
        .collect();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<Vec<&str>> = rows
        .map(|line| line.trim_matches('|').split('|').collect())
        .filter(|cells: &Vec<&str>| cells.len() == 3 && cells[1].contains('`'))
        .filter(|cells| {
            let first = cells[0].trim();
            first.starts_with(|c: char| c.is_ascii_digit()) || first.starts_with('(')
        })
        .collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
    for cells in rows {
        let sources: String = code(cells[1])
            .iter()
            .map(|name| read(&format!("examples/examples/{name}.rs")))
            .collect();
        for line in code(cells[2]) {
            let is_there = sources.contains(line) || shared.contains(line);
            assert!(is_there, "{}: no `{line}`", cells[0]);
        }
    }
}

/// The two terminals of the book: command to output.
fn terminals() -> BTreeMap<String, Vec<String>> {
    let page = read("book/src/start.md");
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("Two terminals"));
    let section = section.expect("a section of two terminals");
    let blocks = section.split("```").skip(1).step_by(2);
    let terminals = blocks.map(|block| {
        let mut lines = block.lines().skip(1).map(str::to_owned);
        let command = lines.next().expect("a command");
        let command = command.strip_prefix("$ cargo run --example ");
        (command.expect("an example").to_owned(), lines.collect())
    });
    terminals.collect()
}

#[tokio::test]
async fn two_terminals_show_what_is_printed() {
    let terminals = terminals();
    let shown = |command: &str| terminals[command].clone();
    assert_eq!(terminals.len(), 3);
    let mut broker = Program::spawn(example("broker").arg("127.0.0.1:0"));
    let listening = broker.line().await;
    let uri = listening.rsplit(' ').next().expect("a URI").to_owned();
    let port = uri.rsplit([':', '/']).nth(1).expect("a port").to_owned();
    let printed = [listening, broker.line().await].map(|line| line.replace(&port, "5672"));
    assert_eq!(shown("broker"), printed);
    let mut server = Program::spawn(example("fib_server").env("AMQP_URL", &uri));
    assert_eq!(shown("fib_server"), [server.line().await]);
    let client = Program::spawn(example("fib_client").arg("30").env("AMQP_URL", &uri));
    assert_eq!(shown("fib_client 30"), client.succeeded().await);
    for program in [server, broker] {
        program.signal(Signal::TERM);
        program.succeeded().await;
    }
}

#[tokio::test]
async fn the_readme_shows_what_the_main_example_prints() {
    let readme = read("README.md");
    let (_, shown) = readme
        .split_once("$ cargo run --example fib\n")
        .expect("the command");
    let shown = shown.split("```").next().expect("the end of the block");
    let program = Program::spawn(example("fib").env_remove("AMQP_URL"));
    let mut printed = program.succeeded().await;
    let mut shown: Vec<_> = shown.lines().map(str::to_owned).collect();
    // Four calls run at once, so their lines have no order.
    printed.sort();
    shown.sort();
    assert_eq!(shown, printed);
}

#[test]
fn every_chapter_is_compiled() {
    let harness = read("examples/src/lib.rs");
    for name in entries("book/src") {
        if name.ends_with(".md") && read(&format!("book/src/{name}")).contains("```rust") {
            assert!(
                harness.contains(&format!("book/src/{name}")),
                "examples/src/lib.rs does not include {name}"
            );
        }
    }
}

#[test]
fn the_architecture_names_every_room() {
    let page = read("ARCHITECTURE.md");
    for folder in ["", "wire/", "policy/", "link/"] {
        let prefix = if folder == "link/" { "" } else { folder };
        let folder = format!("runtime/src/{folder}");
        for entry in entries(&folder).iter().filter(|entry| *entry != "mod.rs") {
            let is_file = entry.ends_with(".rs");
            let room = if is_file {
                format!("`{prefix}{entry}`")
            } else {
                format!("`{prefix}{entry}/`")
            };
            assert!(
                page.contains(&room),
                "ARCHITECTURE.md does not name {room} of {folder}"
            );
        }
    }
}

#[test]
fn the_versions_are_those_of_the_workspace() {
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .expect("a version of Rust")
        .trim_matches('"');
    assert!(read("README.md").contains(&format!("{version} or later")));
}
