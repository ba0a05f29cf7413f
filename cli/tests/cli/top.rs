//! `top`, in a terminal of tmux.

use std::process::Stdio;

use lepus::amqp::QueueKind;
use lepus::{Connection, Job, Server, WorkQueue};
use lepus_tests::jobs::queue;
use lepus_tests::process::tmux_is_available;
use lepus_tests::{Env, conformance, eventually};
use tokio::process::Command;

use crate::on::Lepus;

conformance!(
    services_and_queues_are_on_the_screen,
    every_end_restores_the_terminal,
    a_lost_broker_is_told,
);

#[tokio::test]
async fn a_pipe_is_no_terminal() {
    let lepus = Lepus::at("amqp://127.0.0.1:1", "none");
    lepus.fails(&["top"], 1, "needs a terminal").await;
    lepus
        .fails(&["top", "--interval", "1ms"], 1, "the shortest interval")
        .await;
}

#[lepus::service(name = "greeter")]
trait Greeter {
    async fn greet(&self, name: String) -> String;
}

struct English;

impl Greeter for English {
    async fn greet(&self, name: String) -> String {
        format!("Hello {name}")
    }
}

/// A shell in a terminal of tmux. It is ended when this is dropped.
struct Terminal {
    socket: String,
}

impl Terminal {
    async fn open(env: &Env, width: u16, height: u16) -> Self {
        let terminal = Self {
            socket: env.namespace().to_owned(),
        };
        let (width, height) = (width.to_string(), height.to_string());
        let size = ["-x", &width, "-y", &height];
        // A shell without the user's own settings, and with a prompt that nothing else prints.
        let shell = ["env", "PS1=ready> ", "ENV=", "sh"];
        terminal
            .tmux(&[&["-f", "/dev/null", "new-session", "-d"], &size[..], &shell].concat())
            .await;
        terminal.shows(&["ready>"]).await;
        terminal
    }

    async fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.socket])
            .args(arguments)
            .env_remove("TMUX")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types a line.
    async fn enter(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]).await;
        self.key("Enter").await;
    }

    async fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]).await;
    }

    async fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).await
    }

    /// Waits until the screen shows all of these.
    async fn shows(&self, texts: &[&str]) {
        eventually(&format!("the screen shows {texts:?}"), || async {
            let screen = self.screen().await;
            let has_all = texts.iter().all(|text| screen.contains(text));
            has_all.then_some(()).ok_or(screen)
        })
        .await;
    }

    /// Starts the command.
    async fn start(&self, lepus: &Lepus, arguments: &[&str]) {
        let command = lepus.command(arguments);
        let command = command.as_std();
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        self.enter(&format!("clear; {}; echo ended $?", words.join(" ")))
            .await;
    }

    /// The command has ended with this code, and the terminal is as it was before.
    async fn is_restored(&self, code: i32) {
        self.shows(&[&format!("ended {code}"), "ready>"]).await;
        self.enter("clear; stty -a | grep -q 'isig icanon iexten echo ' && echo coo''ked")
            .await;
        self.shows(&["cooked"]).await;
        self.enter("echo $((20+22))").await;
        self.shows(&["echo $((20+22))", "42"]).await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = std::process::Command::new("tmux");
        let command = command.args(["-L", &self.socket, "kill-server"]);
        // It may have ended by itself.
        let _ = command.stderr(Stdio::null()).status();
    }
}

/// A service and two queues, one of which nobody serves.
async fn serve(connection: &Connection) -> (lepus::Running, lepus::Running) {
    let server = Server::new(connection).serve(GreeterServer::new(English));
    let server = server.start().await.unwrap();
    let mails = queue::<u32>("mails", QueueKind::Classic);
    let pool = mails
        .worker(connection)
        .start(async |_: Job<u32>| {})
        .await
        .unwrap();
    let plain = WorkQueue::bytes("plain");
    plain.declare(connection).await.unwrap();
    plain.producer(connection).push(&vec![7]).await.unwrap();
    (server, pool)
}

async fn services_and_queues_are_on_the_screen(env: Env) {
    if !tmux_is_available(env.test) {
        return;
    }
    let (connection, lepus) = (env.connect().await, Lepus::on(&env));
    let (server, pool) = serve(&connection).await;
    let terminal = Terminal::open(&env, 100, 20).await;
    terminal
        .start(&lepus, &["top", "plain", "--interval", "500ms"])
        .await;
    terminal
        .shows(&["greeter", "service", "mails", "queue", "plain", "q quit"])
        .await;
    let greeter = GreeterClient::new(&connection);
    for _ in 0..20 {
        greeter.greet("hare".to_owned()).await.unwrap();
    }
    eventually("a rate is shown", || async {
        let screen = terminal.screen().await;
        let line = screen
            .lines()
            .find(|line| line.starts_with("greeter"))
            .unwrap_or_default();
        // Name, kind, instances, rate.
        let rate = line
            .split_whitespace()
            .nth(3)
            .and_then(|rate| rate.parse::<f64>().ok());
        rate.is_some().then_some(()).ok_or(screen)
    })
    .await;
    terminal.key("s").await;
    terminal.shows(&["sort (rate)"]).await;
    // Less is shown, and what matters most.
    terminal
        .tmux(&["resize-window", "-x", "30", "-y", "12"])
        .await;
    eventually("it is narrow", || async {
        let screen = terminal.screen().await;
        let is_it = screen.contains("RATE") && !screen.contains("INST");
        is_it.then_some(()).ok_or(screen)
    })
    .await;
    terminal.key("q").await;
    terminal.is_restored(0).await;
    drop(terminal);
    server.stop().await.unwrap();
    pool.stop().await.unwrap();
    connection.delete_namespace().await.unwrap();
    connection.close().await;
}

async fn every_end_restores_the_terminal(env: Env) {
    if !tmux_is_available(env.test) {
        return;
    }
    let lepus = Lepus::on(&env);
    let terminal = Terminal::open(&env, 80, 24).await;
    for (key, code) in [("q", 0), ("C-c", 0), ("TERM", 130)] {
        terminal.start(&lepus, &["top"]).await;
        terminal.shows(&["0 served by 0 instances", "q quit"]).await;
        match key {
            "TERM" => {
                let shell = terminal
                    .tmux(&["display-message", "-p", "#{pane_pid}"])
                    .await;
                let shell = shell.trim();
                let children = format!("/proc/{shell}/task/{shell}/children");
                let child = std::fs::read_to_string(children).unwrap();
                let killed = Command::new("kill")
                    .args(["-TERM", child.trim()])
                    .status()
                    .await;
                assert!(killed.unwrap().success(), "{child}");
            }
            key => terminal.key(key).await,
        }
        terminal.is_restored(code).await;
    }
}

async fn a_lost_broker_is_told(env: Env) {
    if !tmux_is_available(env.test) {
        return;
    }
    let proxy = lepus_tests::proxy::Proxy::start(&env.uri).await;
    let lepus = Lepus::at(proxy.uri(), env.namespace());
    let terminal = Terminal::open(&env, 80, 24).await;
    terminal
        .start(&lepus, &["top", "--interval", "500ms", "--timeout", "1s"])
        .await;
    terminal.shows(&["0 served by 0 instances"]).await;
    proxy.down().await;
    proxy.cut(lepus_tests::proxy::Cut::Rst);
    terminal
        .shows(&["0 served by 0 instances", "connect"])
        .await;
    proxy.up().await;
    eventually("it is back", || async {
        let screen = terminal.screen().await;
        (!screen.contains("connect")).then_some(()).ok_or(screen)
    })
    .await;
    terminal.key("q").await;
    terminal.is_restored(0).await;
}
