//! The log of lapin at level TRACE, which Lepus cannot keep free of secrets, and the filter that
//! README.md tells to use.

use lepus::Connection;
use lepus_broker::Broker;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const PASSWORD: &str = "s3cret-carrot";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was logged since it was asked last.
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

/// As Rust prints bytes, which is how lapin shows a SASL response.
fn as_bytes(text: &str) -> String {
    let bytes: Vec<_> = text.bytes().map(|byte| byte.to_string()).collect();
    bytes.join(", ")
}

fn shows_the_password(log: &str) -> bool {
    log.contains(PASSWORD) || log.contains(&as_bytes(PASSWORD))
}

/// One test in this file: a subscriber is for the whole process.
#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_the_readme_keeps_the_password_out() {
    let log = Log::default();
    let builder = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone())
        .with_env_filter("trace,lapin=info")
        .with_filter_reloading();
    let filter = builder.reload_handle();
    builder.init();
    let broker = Broker::builder().user("hare", PASSWORD).start();
    let broker = broker.await.unwrap();

    let connection = Connection::open(&broker.uri()).await.unwrap();
    connection.close().await;
    let filtered = log.take();
    assert!(filtered.contains("TRACE"), "the log is on:\n{filtered}");
    assert!(!shows_the_password(&filtered), "{filtered}");

    // Without it lapin shows it: when it no longer does, README.md and docs/reliability.md need
    // not warn.
    filter.reload(EnvFilter::new("trace")).unwrap();
    let connection = Connection::open(&broker.uri()).await.unwrap();
    connection.close().await;
    let everything = log.take();
    let others: Vec<_> = everything
        .lines()
        .filter(|line| !line.contains("lapin"))
        .collect();
    assert!(shows_the_password(&everything), "lapin is silent now");
    assert!(!shows_the_password(&others.join("\n")), "{others:?}");
}
