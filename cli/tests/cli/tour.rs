//! The tour of the terminal in the book: each command is run, and its output compared.
//!
//! The commands of the page run in their order, against one broker. One that ends with `&` goes on until the page ends,
//! and prints what is shown below it. Ids, times and rates differ each time; see [`comparable`].

use std::path::{Path, PathBuf};

use lepus_tests::process::{Program, Signal, example};
use lepus_tests::source::workspace;
use tokio::process::Command;

/// A command of the page, and the lines below it.
struct Step {
    command: String,
    shown: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if is_inside {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command: command.to_owned(),
                    shown: Vec::new(),
                }),
                (None, Some(step)) => step.shown.push(line.to_owned()),
                (None, None) => panic!("output without a command: {line}"),
            }
        }
    }
    steps
}

/// A line without what differs each time: an id of 22 letters and digits, a time of day, a number with a unit of time, a
/// rate, the bar of a histogram, and the widths of columns.
fn comparable(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let is_id = bare.len() == 22 && bare.chars().all(|c| c.is_ascii_alphanumeric());
        let is_date = bare.len() == 20 && bare.ends_with('Z') && bare.contains('T');
        let units = ["ns", "us", "ms", "s", "min"];
        let is_unit = units.contains(&bare);
        let number = |word: &str| word.parse::<f64>().is_ok();
        if is_id {
            words.push(word.replace(bare, "<id>"));
        } else if is_date {
            words.push("<time>".to_owned());
        } else if is_unit && words.last().is_some_and(|last| number(last)) {
            words.pop();
            words.push(word.replace(bare, "<duration>"));
        } else if let Some((name, value)) = word.split_once("time=") {
            let digits = value.trim_end_matches(|c: char| c.is_alphabetic());
            assert!(name.is_empty() && number(digits), "{line}");
            words.push("time=<duration>".to_owned());
        } else {
            words.push(word.to_owned());
        }
    }
    words.join(" ")
}

/// The folders of the command and of the examples, which `cargo test --workspace` has built.
fn path_with_programs() -> std::ffi::OsString {
    let folder = |program: &Path| program.parent().map(PathBuf::from).expect("a folder");
    let lepus = folder(Path::new(env!("CARGO_BIN_EXE_lepus")));
    let examples = folder(Path::new(example("fib_server").as_std().get_program()));
    let others = std::env::var_os("PATH").unwrap_or_default();
    let folders = [lepus, examples]
        .into_iter()
        .chain(std::env::split_paths(&others));
    std::env::join_paths(folders).expect("a PATH")
}

#[tokio::test]
async fn the_page_shows_what_is_printed() {
    let page = workspace().join("book/src/tour.md");
    let page = std::fs::read_to_string(&page).expect("the page");
    let path = path_with_programs();
    let (mut background, mut url) = (Vec::new(), None);
    for Step { command, shown } in steps(&page) {
        let mut shell = Command::new("bash");
        let background_command = command.strip_suffix(" &");
        // Another port than the page's, which may be in use here.
        let run = match background_command {
            Some("lepus broker") => "exec lepus broker 127.0.0.1:0".to_owned(),
            Some(other) => format!("exec {other}"),
            None => format!("exec 2>&1; {command}"),
        };
        shell
            .args(["-c", &run])
            .env("PATH", &path)
            .env("XDG_CONFIG_HOME", "/no/such/folder");
        shell
            .env_remove("LEPUS_URL")
            .env_remove("LEPUS_NAMESPACE")
            .env("NO_COLOR", "1");
        if let Some(url) = &url {
            shell.env("AMQP_URL", url);
        }
        let mut program = Program::spawn(&mut shell);
        let mut printed = Vec::new();
        if background_command.is_some() {
            for _ in &shown {
                printed.push(program.line().await);
            }
            if url.is_none() {
                let served = printed[0].rsplit(' ').next().expect("a URL").to_owned();
                let port = served.rsplit(':').next().expect("a port").to_owned();
                printed[0] = printed[0].replace(&port, "5672");
                url = Some(served);
            }
            background.push(program);
        } else {
            printed = program.ended().await.lines;
        }
        let comparable =
            |lines: &[String]| -> Vec<String> { lines.iter().map(|it| comparable(it)).collect() };
        assert_eq!(
            comparable(&printed),
            comparable(&shown),
            "{command}\n{}",
            printed.join("\n")
        );
    }
    assert!(url.is_some(), "the page has no broker");
    // The last that was started ends first, so that no server loses its broker.
    for program in background.into_iter().rev() {
        program.signal(Signal::TERM);
        program.succeeded().await;
    }
}
