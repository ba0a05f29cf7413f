//! The command on the broker of a test, for tests that run it many times.

use lepus_tests::Env;
use lepus_tests::process::Program;
use tokio::process::Command;

use crate::lepus::{Ended, bare, ended, fed};

/// The command, with the broker and the namespace of a test among its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Lepus {
    globals: Vec<String>,
}

impl Lepus {
    pub(crate) fn on(env: &Env) -> Self {
        Self::at(&env.uri, env.namespace())
    }

    pub(crate) fn at(uri: &str, namespace: &str) -> Self {
        let globals = ["--url", uri, "--namespace", namespace];
        Self {
            globals: globals.map(str::to_owned).to_vec(),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare();
        command.args(&self.globals).args(arguments);
        command
    }

    /// Starts it, for a test that reads its lines.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::spawn(&mut self.command(arguments))
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        ended(&mut self.command(arguments)).await
    }

    /// Runs it with this on stdin.
    pub(crate) async fn run_with(&self, arguments: &[&str], stdin: &str) -> Ended {
        fed(&mut self.command(arguments), stdin).await
    }

    /// Runs it to its success, and gives what it wrote to stdout.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.ok()
    }

    /// Runs it to its success, and reads its JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        self.run(&[arguments, &["-o", "json"]].concat())
            .await
            .json()
    }

    /// Runs it to its failure: this code, nothing on stdout, and an error on stderr with this text. One of the
    /// arguments has a hint below its line.
    pub(crate) async fn fails(&self, arguments: &[&str], code: i32, text: &str) {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {ended:?}");
        let lines = ended
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "));
        assert_eq!(lines.count(), 1, "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    }
}
