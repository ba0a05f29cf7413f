//! A private RabbitMQ node, for the faults that a shared one must not suffer:
//! restarts, kill -9, alarms, permissions, TLS. It wraps `tests/rabbitmq-node`.
//!
//! With `LEPUS_RABBITMQ_ROOT` the node runs in that tree, so that one test covers
//! every version that `tests/rabbitmq-versions` has made.

use crate::eventually::eventually;
use crate::report;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::net::TcpStream;
use tokio::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rabbitmq-node");

/// A node that ends with the test, also when the test is killed.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    uri: String,
    tls: Option<u16>,
}

/// The settings of a node.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    config: String,
    plugins: Vec<String>,
    tls: Option<Tls>,
    peer: Option<PathBuf>,
}

/// A server's certificate, as PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// Are there private nodes? Where they are left out by choice, with
/// `LEPUS_BROKERS=embedded` or `LEPUS_NODES=none`, which CI refuses, it says so
/// and `test` is to end. Without a choice it is yes, and a missing server fails.
pub fn are_available(test: &str) -> bool {
    let choice = [("LEPUS_BROKERS", "embedded"), ("LEPUS_NODES", "none")]
        .into_iter()
        .find(|(name, value)| std::env::var(name).is_ok_and(|set| set == *value));
    match choice {
        Some((name, value)) if !report::is_ci() => {
            report::skipped(test, &format!("{name}={value}"));
            false
        }
        _ => true,
    }
}

impl Setup {
    /// One line of `rabbitmq.conf`, such as `vm_memory_high_watermark.absolute = 100MB`.
    pub fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Enables a plugin that comes with RabbitMQ.
    pub fn plugin(mut self, name: &str) -> Self {
        self.plugins.push(name.to_owned());
        self
    }

    /// A second listener, for `amqps`; see [`Node::tls_uri`].
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Shares the other's epmd and cookie, so that the two can cluster
    /// (`stop_app`, `join_cluster`, `start_app`). End this one first.
    pub fn beside(mut self, other: &Node) -> Self {
        self.peer = Some(other.dir.clone());
        self
    }

    /// Starts it; returns when it answers.
    pub async fn start(self) -> Node {
        let dir = PathBuf::from(run(&["new".as_ref()]).await);
        let mut node = Node {
            dir,
            uri: String::new(),
            tls: None,
        };
        let mut config = self.config;
        if let Some(peer) = self.peer {
            write(&node.dir.join("peer"), &peer.display().to_string());
        }
        if let Some(tls) = self.tls {
            let port = free_port();
            let inside = node.inside();
            node.tls = Some(port);
            config.push_str(&format!("listeners.ssl.1 = 127.0.0.1:{port}\n"));
            for (option, file, pem) in [
                ("cacertfile", "ca.pem", tls.authority),
                ("certfile", "certificate.pem", tls.certificate),
                ("keyfile", "key.pem", tls.key),
            ] {
                write(&node.dir.join(file), &pem);
                config.push_str(&format!(
                    "ssl_options.{option} = {}/{file}\n",
                    inside.display()
                ));
            }
        }
        if !self.plugins.is_empty() {
            let plugins = format!("[{}].\n", self.plugins.join(","));
            write(&node.dir.join("plugins"), &plugins);
        }
        write(&node.dir.join("extra.conf"), &config);
        node.uri = run(&["start".as_ref(), node.dir.as_ref()]).await;
        if let Some(port) = node.tls {
            // Its listeners come one after the other.
            eventually("the listener for TLS", || {
                TcpStream::connect(("127.0.0.1", port))
            })
            .await;
        }
        node
    }
}

impl Node {
    pub fn setup() -> Setup {
        Setup::default()
    }

    pub async fn start() -> Node {
        Setup::default().start().await
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// `amqps` by the name `localhost`.
    pub fn tls_uri(&self) -> String {
        let port = self.tls.expect("a node set up with TLS");
        format!("amqps://guest:guest@localhost:{port}")
    }

    /// The node's name, as `rabbitmqctl` knows it.
    pub fn name(&self) -> String {
        let settings = fs::read_to_string(self.dir.join("settings")).expect("the node's settings");
        let name = settings.lines().find_map(|line| line.strip_prefix("name="));
        name.expect("a name among the settings").to_owned()
    }

    /// Its pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.dir.join("server.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Ends it in order, as `systemctl stop` does.
    pub async fn stop(&self) {
        self.script("stop").await;
    }

    /// Ends it with SIGKILL, as a power cut does.
    pub async fn kill(&self) {
        self.script("kill").await;
    }

    /// Starts it again after [`Node::stop`] or [`Node::kill`]: same port, same data.
    pub async fn start_again(&self) {
        assert_eq!(self.script("start").await, self.uri);
    }

    /// Stop and start.
    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// `rabbitmqctl` against it; panics when that fails.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut all: Vec<&Path> = vec!["ctl".as_ref(), self.dir.as_ref()];
        all.extend(arguments.iter().map(Path::new));
        run(&all).await
    }

    /// The log, for a test that looks for a complaint.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log/node.log")).expect("the node's log")
    }

    async fn script(&self, command: &str) -> String {
        run(&[command.as_ref(), self.dir.as_ref()]).await
    }

    /// The directory as the node sees it.
    fn inside(&self) -> PathBuf {
        match std::env::var("LEPUS_RABBITMQ_ROOT") {
            Ok(root) if !root.is_empty() => Path::new("/").join(
                self.dir
                    .strip_prefix(root)
                    .expect("a directory in the tree"),
            ),
            _ => self.dir.clone(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let ended = std::process::Command::new(SCRIPT)
            .arg("destroy")
            .arg(&self.dir)
            .status();
        if !ended.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            panic!("{}: the node did not end", self.dir.display());
        }
    }
}

async fn run(arguments: &[&Path]) -> String {
    let mut command = Command::new(SCRIPT);
    command
        .args(arguments)
        .env("LEPUS_NODE_OWNER", std::process::id().to_string());
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .await
        .unwrap_or_else(|error| panic!("{SCRIPT}: {error}"));
    let text = String::from_utf8_lossy(&stdout).trim().to_owned();
    let complaint = String::from_utf8_lossy(&stderr);
    assert!(
        status.success(),
        "rabbitmq-node {arguments:?}: {status}\n{text}\n{complaint}"
    );
    text
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound listener").port()
}
