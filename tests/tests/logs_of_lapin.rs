//! The log at level TRACE, lapin's with it, in which each frame that lapin sends is shown.

use lepus::Connection;
use lepus_broker::Broker;
use std::io::Write;
use std::sync::{Arc, Mutex};
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

/// One test in this file: a subscriber is for the whole process.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_log() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_env_filter("trace")
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    let broker = Broker::builder().user("hare", PASSWORD).start();
    let broker = broker.await.unwrap();
    for mechanism in ["plain", "amqplain", "rabbit-cr-demo"] {
        let uri = format!("{}?auth_mechanism={mechanism}", broker.uri());
        let opened = Connection::open(&uri).await;
        match opened {
            Ok(connection) => connection.close().await,
            // It is a demonstration, which brokers have switched off.
            Err(error) => assert_eq!(mechanism, "rabbit-cr-demo", "{error}"),
        }
        let everything = log.take();
        assert!(
            everything.contains("StartOk"),
            "lapin is silent:\n{everything}"
        );
        let bytes = as_bytes(PASSWORD);
        for secret in [PASSWORD, &bytes] {
            let line = everything.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{mechanism}");
        }
    }
}
