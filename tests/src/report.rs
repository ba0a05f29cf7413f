//! The tests that ran and those that did not, for the last lines of `tests/run`.
//!
//! Tests are many processes, so each appends whole lines to the file that
//! `LEPUS_REPORT` names; without one there is nobody to tell.

use std::fs::OpenOptions;
use std::io::Write;

/// A test ran against this broker, which calls itself `server`.
pub fn covered(broker: &str, server: &str, test: &str) {
    append(&format!("covered\t{broker}\t{server}\t{test}\n"));
}

/// A test did not run at all, and why. It is not counted as passed.
pub fn skipped(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
    append(&format!("skipped\t{why}\t{test}\n"));
}

/// A part of a test did not apply, and why.
pub fn left_out(test: &str, why: &str) {
    eprintln!("left out: {test}: {why}");
    append(&format!("left out\t{test}: {why}\n"));
}

/// Is this a run that must cover everything?
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

fn append(line: &str) {
    let Some(path) = std::env::var_os("LEPUS_REPORT") else {
        return;
    };
    // One write of one line in append mode: lines of many processes do not mix.
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("LEPUS_REPORT {}: {error}", path.display()));
}
