//! Processes of our own: this program again, with a task.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child as Process, ChildStdout, Command};

use crate::task::Task;

/// The first argument of such a process.
pub const WORD: &str = "--task";

/// A process that goes when this does, or when its owner dies.
pub struct Child {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
    pub pid: u32,
}

impl Child {
    /// Starts this program or another build of it.
    pub fn start(task: &Task, program: Option<&Path>) -> Result<Self, String> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe().map_err(|error| error.to_string())?,
        };
        let task = serde_json::to_string(task).map_err(|error| error.to_string())?;
        Self::spawn(Command::new(program).args([WORD, &task]))
    }

    pub fn spawn(command: &mut Command) -> Result<Self, String> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let lines = process.stdout.take().map(|out| BufReader::new(out).lines());
        match (lines, process.id()) {
            (Some(lines), Some(pid)) => Ok(Self {
                process,
                lines,
                pid,
            }),
            _ => Err(format!("{command:?} has ended at once")),
        }
    }

    /// Its next line.
    pub async fn line(&mut self, limit: Duration) -> Result<String, String> {
        match tokio::time::timeout(limit, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err("a process ended without an answer".into()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    pub async fn stop(mut self) {
        // It may have ended by itself.
        let _ = self.process.kill().await;
    }
}

/// Ends this process when whoever started it has died, and its end of the pipe with it.
pub fn end_with_the_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        abandoned()
    });
}

/// Nobody reads what this process says.
pub fn abandoned() -> ! {
    std::process::exit(1)
}
