//! docs/reliability.md names tests that are there, and every fault of its table.

use lepus_tests::source::workspace;
use std::collections::BTreeSet;
use std::fs;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(workspace().join(path)).ok()
}

/// What is between backticks and looks like `file::test`.
fn named(text: &str) -> BTreeSet<(String, String)> {
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let words = text.split('`').skip(1).step_by(2);
    let pairs = words.filter_map(|word| word.split_once("::"));
    pairs
        .filter(|(file, test)| is_name(file) && is_name(test))
        .map(|(file, test)| (file.to_owned(), test.to_owned()))
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

fn missing(text: &str, file: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let is_there = |(name, test): &(String, String)| {
        let sources = [
            format!("{name}.rs"),
            format!("{name}/main.rs"),
            format!("{name}/book.rs"),
            format!("{name}/recovery.rs"),
            format!("{name}/variants.rs"),
        ];
        sources
            .iter()
            .filter_map(|path| file(&format!("tests/tests/{path}")))
            .any(|source| source.contains(&format!("fn {test}(")))
    };
    let names = named(text).into_iter().filter(|name| !is_there(name));
    names
        .map(|(file, test)| format!("{file}::{test}"))
        .collect()
}

#[test]
fn every_test_it_names_is_there() {
    let text = read("docs/reliability.md").expect("docs/reliability.md");
    assert!(named(&text).len() > 50, "it names tests");
    assert_eq!(missing(&text, read), [""; 0]);
}

#[test]
fn every_fault_has_its_row() {
    let text = read("docs/reliability.md").expect("docs/reliability.md");
    assert_eq!(rows(&text), (1..=63).collect());
}

#[test]
fn a_test_that_is_not_there_is_seen() {
    let text = "| 1, 2 | cut | `wire::is_there`, `wire::is_not` and `lepus::Error` |";
    let file = |path: &str| (path == "tests/tests/wire.rs").then(|| "async fn is_there(env".into());
    assert_eq!(missing(text, file), ["wire::is_not"]);
    assert_eq!(rows(text), BTreeSet::from([1, 2]));
}
