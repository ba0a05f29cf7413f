//! Child processes: examples and Python peers, read line by line, signalled by
//! pid, and gone when the test is.

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The longest wait for a line or an exit.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running child.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    printed: Arc<Mutex<String>>,
    /// The reader of stderr.
    errors: JoinHandle<()>,
}

/// The status and the output of a child that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// The lines of stdout nobody had read.
    pub lines: Vec<String>,
    /// Everything on stdout and stderr.
    pub printed: String,
}

/// An example of `lepus-examples`, which `cargo test --workspace` has built.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    // target/debug/deps/this-test → target/debug/examples/name
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("a target directory");
    let path = profile.join("examples").join(name);
    assert!(
        path.exists(),
        "no {}: build it with `cargo build -p lepus-examples --examples`",
        path.display()
    );
    Command::new(path)
}

/// Are there Python peers? Where they are left out by choice, with
/// `LEPUS_PYTHON=none`, which CI refuses, it says so and `test` is to end.
pub fn python_is_available(test: &str) -> bool {
    is_available(test, "LEPUS_PYTHON")
}

/// Is there Node with `amqplib`? `LEPUS_NODE=none` leaves it out, as above.
pub fn node_is_available(test: &str) -> bool {
    is_available(test, "LEPUS_NODE")
}

/// Is there tmux, a terminal for programs? `LEPUS_TMUX=none` leaves it out, as above.
pub fn tmux_is_available(test: &str) -> bool {
    is_available(test, "LEPUS_TMUX")
}

fn is_available(test: &str, variable: &str) -> bool {
    let is_out = std::env::var(variable).is_ok_and(|set| set == "none");
    if is_out && !crate::report::is_ci() {
        crate::report::skipped(test, &format!("{variable}=none"));
        return false;
    }
    true
}

/// A script of `tests/interop`.
pub fn python(script: &str) -> Command {
    python_at(&script_path("interop", script))
}

/// A script of `tests/clients`: other people's clients.
pub fn client(script: &str) -> Command {
    let path = script_path("clients", script);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("py") => python_at(&path),
        Some("cjs") => {
            let modules = provided("LEPUS_NODE", "the folder of node_modules with amqplib");
            let mut command = Command::new("node");
            command.arg(path).env("NODE_PATH", modules);
            command
        }
        _ => Command::new(path),
    }
}

fn python_at(path: &Path) -> Command {
    let mut command = Command::new(provided("LEPUS_PYTHON", "an interpreter that has pika"));
    command.arg("-u").arg(path);
    command
}

fn provided(variable: &str, what: &str) -> String {
    let value = std::env::var(variable).unwrap_or_default();
    assert!(
        !["", "none"].contains(&value.as_str()),
        "{variable} is not set: run tests/run, set it to {what}, or to `none` (not in CI) to leave \
         it out"
    );
    value
}

fn script_path(folder: &str, script: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(script);
    assert!(path.exists(), "no {}", path.display());
    path
}

impl Program {
    /// Starts it, with no stdin and both outputs read.
    pub fn spawn(command: &mut Command) -> Program {
        let name = format!("{:?}", command.as_std());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let printed = Arc::default();
        let (sender, lines) = mpsc::unbounded_channel();
        read(child.stdout.take(), Arc::clone(&printed), Some(sender));
        let errors = read(child.stderr.take(), Arc::clone(&printed), None);
        Program {
            name,
            child,
            lines,
            printed,
            errors,
        }
    }

    /// The next line of stdout.
    pub async fn line(&mut self) -> String {
        match tokio::time::timeout(PATIENCE, self.lines.recv()).await {
            Ok(Some(line)) => line,
            Ok(None) => panic!("{}: its output has ended\n{}", self.name, self.printed()),
            Err(_) => panic!(
                "{}: no line within {PATIENCE:?}\n{}",
                self.name,
                self.printed()
            ),
        }
    }

    /// The next line of stdout, however late; `None` when its output has ended.
    pub async fn any_line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// Reads on until a line contains `text`; gives that line.
    pub async fn line_with(&mut self, text: &str) -> String {
        let found = async {
            loop {
                let line = self.lines.recv().await?;
                if line.contains(text) {
                    return Some(line);
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("{}: no line with {text:?}\n{}", self.name, self.printed()))
    }

    /// Everything on stdout and stderr up to now.
    pub fn printed(&self) -> String {
        self.printed.lock().expect("no panic under a lock").clone()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal: `TERM`, `INT`, `STOP`, `CONT`, `KILL`.
    pub fn signal(&self, signal: Signal) {
        // Not waited for yet, so the pid is still this child's.
        let id = self
            .child
            .id()
            .unwrap_or_else(|| panic!("{} has ended", self.name));
        let pid = i32::try_from(id)
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            panic!(
                "{}: still running after {PATIENCE:?}\n{}",
                self.name,
                self.printed()
            );
        };
        let status = status.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let mut lines = Vec::new();
        while let Some(line) = self.lines.recv().await {
            lines.push(line);
        }
        // What a child prints last may be read after its exit is seen.
        if tokio::time::timeout(PATIENCE, &mut self.errors)
            .await
            .is_err()
        {
            panic!("{}: its stderr outlives it\n{}", self.name, self.printed());
        }
        Ended {
            status,
            lines,
            printed: self.printed(),
        }
    }

    /// Waits for its end, which must be a success; gives the lines left.
    pub async fn succeeded(self) -> Vec<String> {
        let name = self.name.clone();
        let ended = self.ended().await;
        assert!(
            ended.status.success(),
            "{name}: {}\n{}",
            ended.status,
            ended.printed
        );
        ended.lines
    }
}

fn read(
    stream: Option<impl AsyncRead + Unpin + Send + 'static>,
    printed: Arc<Mutex<String>>,
    lines: Option<mpsc::UnboundedSender<String>>,
) -> JoinHandle<()> {
    let mut reader = BufReader::new(stream.expect("a piped stream")).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = reader.next_line().await {
            let mut text = printed.lock().expect("no panic under a lock");
            text.push_str(&line);
            text.push('\n');
            drop(text);
            if let Some(lines) = &lines {
                // The program may be gone before its last words are read.
                let _ = lines.send(line);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually::eventually;
    use std::os::unix::process::ExitStatusExt;

    fn shell(script: &str) -> Program {
        Program::spawn(Command::new("sh").args(["-c", script]))
    }

    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[tokio::test]
    async fn lines_and_the_exit_are_seen() {
        let mut program = shell("echo one; echo two; echo three; echo oops >&2; exit 3");
        assert_eq!(program.line().await, "one");
        assert_eq!(program.line_with("w").await, "two");
        let ended = program.ended().await;
        assert_eq!(
            (ended.status.code(), ended.lines),
            (Some(3), vec!["three".into()])
        );
        assert!(ended.printed.contains("oops"), "{}", ended.printed);
    }

    #[tokio::test]
    #[should_panic(expected = "its output has ended")]
    async fn a_line_that_never_comes_is_a_failure() {
        shell("echo oops >&2").line().await;
    }

    #[tokio::test]
    async fn it_is_stopped_continued_and_ended_by_signals() {
        let mut program =
            shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        program.line_with("up").await;
        let pid = program.pid().unwrap();
        program.signal(Signal::STOP);
        eventually("stopped", || async { state(pid) == Some('T') }).await;
        program.signal(Signal::CONT);
        program.signal(Signal::TERM);
        assert_eq!(program.succeeded().await, ["bye"]);

        let program = shell("exec sleep 60");
        program.signal(Signal::KILL);
        assert_eq!(program.ended().await.status.signal(), Some(9));
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let mut program = shell("echo up; exec sleep 60");
        program.line().await;
        let pid = program.pid().unwrap();
        drop(program);
        eventually("gone", || async { !matches!(state(pid), Some('R' | 'S')) }).await;
    }
}
