//! The command as a child, and its ends.

use std::process::Stdio;

use lepus_tests::Env;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The command without anything of the machine that it is run on.
pub(crate) fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lepus"));
    for variable in ["AMQP_URL", "LEPUS_URL", "LEPUS_NAMESPACE", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
        .env("XDG_CONFIG_HOME", "/no/such/folder")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The command for the broker and the namespace of a test.
pub(crate) fn at(env: &Env) -> Command {
    let mut command = bare();
    command
        .env("LEPUS_URL", &env.uri)
        .env("LEPUS_NAMESPACE", env.namespace());
    command
}

/// Runs the command with these arguments.
pub(crate) async fn run(env: &Env, arguments: &[&str]) -> Ended {
    ended(at(env).args(arguments)).await
}

/// Runs the command with a text on stdin.
pub(crate) async fn run_with(env: &Env, arguments: &[&str], stdin: &str) -> Ended {
    fed(at(env).args(arguments), stdin).await
}

/// Waits for the end of a command that reads this.
pub(crate) async fn fed(command: &mut Command, stdin: &str) -> Ended {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut input = child.stdin.take().expect("a piped stdin");
    input
        .write_all(stdin.as_bytes())
        .await
        .expect("stdin is read");
    drop(input);
    Ended::of(child.wait_with_output().await.expect("the command ends"))
}

/// Waits for the end of a command.
pub(crate) async fn ended(command: &mut Command) -> Ended {
    Ended::of(command.output().await.expect("the command runs"))
}

impl Ended {
    fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
        }
    }

    /// Its stdout, if it has succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its stdout as JSON, if it has succeeded.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// It failed with this code, and with one clear line that has all of these texts.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, texts: &[&str]) {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "{stdout}\n{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
        for text in texts {
            assert!(stderr.contains(text), "no `{text}` in {stderr}");
        }
        assert_eq!(stdout, "");
    }
}
