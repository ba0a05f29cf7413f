//! When to stop: the first signal asks for a drain, the second for an end.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;

/// How long a drain may take unless set.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

static SIGNALS: OnceLock<watch::Sender<u32>> = OnceLock::new();

/// Completes at SIGTERM or Ctrl-C (SIGINT): what `run` methods take to stop cleanly.
///
/// Once called, the process is no longer ended by these signals; a second one makes whatever
/// drains stop at once and give back what it has in hand.
///
/// # Panics
/// As tokio does, when it is called outside of a tokio runtime.
pub async fn shutdown_signal() {
    at_least(1).await;
}

/// Completes at the second signal, if anybody asked for the first.
pub(crate) async fn second_signal() {
    match SIGNALS.get() {
        Some(_) => at_least(2).await,
        None => std::future::pending().await,
    }
}

async fn at_least(count: u32) {
    let signals =
        SIGNALS.get_or_init(|| {
            let signals = watch::Sender::new(0);
            let counter = signals.clone();
            // On a thread of its own: a runtime that ends, or whose threads are busy, does not take
            // the signals with it.
            let thread = std::thread::Builder::new().name("lepus-signals".into()).spawn(move || {
            if let Err(error) = count_signals(&counter) {
                tracing::error!(%error, "signals cannot be listened to: stop by other means");
            }
        });
            if let Err(error) = thread {
                tracing::error!(%error, "signals cannot be listened to: stop by other means");
            }
            signals
        });
    let mut seen = signals.subscribe();
    // The sender is static: this cannot fail.
    let _ = seen.wait_for(|seen| *seen >= count).await;
}

fn count_signals(counter: &watch::Sender<u32>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        loop {
            signals.next().await?;
            counter.send_modify(|count| *count += 1);
        }
    })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> std::io::Result<()> {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        Ok(())
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> std::io::Result<()> {
        tokio::signal::ctrl_c().await
    }
}
