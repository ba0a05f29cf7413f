//! The log of this process, for tests that look into it.

use crate::eventually::eventually;
use std::io::{Result, Write};
use std::sync::{Arc, Mutex, OnceLock};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Everything that is logged in this process, in memory. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
}

/// Replaces the filter of the process's one subscriber.
type Reload = Box<dyn Fn(EnvFilter) + Send + Sync>;

impl Log {
    /// Logs what `filter` lets through from now on, in the syntax of `RUST_LOG`. A process has one
    /// log and one filter, the last one: tests that ask for different ones, or that take lines out,
    /// must run in turn.
    pub fn capture(filter: &str) -> Log {
        static LOG: OnceLock<(Log, Reload)> = OnceLock::new();
        let (log, reload) = LOG.get_or_init(|| {
            let log = Log::default();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(log.clone())
                .with_env_filter(filter)
                .with_filter_reloading();
            let handle = subscriber.reload_handle();
            subscriber.init();
            let reload = move |filter| handle.reload(filter).expect("the subscriber lives");
            (log, Box::new(reload))
        });
        reload(EnvFilter::new(filter));
        log.clone()
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("no panic under a lock");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes out all of it so far.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.bytes.lock().expect("no panic under a lock"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line with all of these texts.
    pub async fn line_with(&self, texts: &[&str]) {
        eventually(&format!("a line with {texts:?} in the log"), || async {
            let log = self.text();
            let mut lines = log.lines();
            let found = lines.any(|line| texts.iter().all(|text| line.contains(text)));
            if found { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.bytes
            .lock()
            .expect("no panic under a lock")
            .extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}
