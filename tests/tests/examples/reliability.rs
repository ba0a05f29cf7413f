//! docs/reliability.md names tests that are there, and every fault of its table.

use lepus_tests::source::{Source, workspace};
use std::collections::BTreeSet;
use std::fs;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(workspace().join(path)).ok()
}

/// The texts between backticks that look like `module::test`: the path of the module, and the test.
fn named(text: &str) -> BTreeSet<(String, String)> {
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let words = text.split('`').skip(1).step_by(2);
    let paths = words.filter(|word| word.split("::").all(is_name));
    paths
        .filter_map(|path| path.rsplit_once("::"))
        .map(|(module, test)| (module.to_owned(), test.to_owned()))
        .collect()
}

/// The rows of the table of faults: their numbers.
fn rows(text: &str) -> BTreeSet<u32> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| "));
    let first = cells.filter_map(|line| line.split(" | ").next());
    first
        .flat_map(|cell| cell.split(", "))
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// The named tests that are not in their module or in one below it. A module is one of the binary
/// `conformance` where no binary is named.
fn missing(text: &str, sources: &[(Vec<String>, String)]) -> Vec<String> {
    let is_there = |(module, test): &(String, String)| {
        let path: Vec<&str> = module.split("::").collect();
        let in_conformance = [&["conformance"], &path[..]].concat();
        let function = format!("fn {test}(");
        sources.iter().any(|(module, text)| {
            let is_in = [&path, &in_conformance].into_iter().any(|path| {
                module.len() >= path.len() && module.iter().zip(path).all(|(a, b)| a == b)
            });
            is_in && text.contains(&function)
        })
    };
    let names = named(text).into_iter().filter(|name| !is_there(name));
    names
        .map(|(module, test)| format!("{module}::{test}"))
        .collect()
}

#[test]
fn every_test_it_names_is_there() {
    let text = read("docs/reliability.md").expect("docs/reliability.md");
    assert!(named(&text).len() > 50, "it names tests");
    let sources = Source::all(&workspace().join("tests/tests"));
    let sources: Vec<_> = sources
        .into_iter()
        .map(|source| (source.module(), source.text))
        .collect();
    assert_eq!(missing(&text, &sources), [""; 0]);
}

#[test]
fn every_fault_has_its_row() {
    let text = read("docs/reliability.md").expect("docs/reliability.md");
    assert_eq!(rows(&text), (1..=63).collect());
}

#[test]
fn a_test_that_is_not_there_is_seen() {
    let text = "| 1, 2 | cut | `rpc::is_there`, `rpc::wire::is_not` and `lepus::Error` |";
    let module = ["conformance", "rpc", "calls"].map(str::to_owned);
    let source = (module.to_vec(), "async fn is_there(env".to_owned());
    assert_eq!(missing(text, &[source]), ["rpc::wire::is_not"]);
    assert_eq!(rows(text), BTreeSet::from([1, 2]));
}
