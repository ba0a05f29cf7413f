//! When to stop: the first signal asks for a drain, the second for an end.

use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tokio::sync::watch;

/// How long a drain may take unless set.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

static SIGNALS: OnceLock<watch::Sender<u32>> = OnceLock::new();

/// Completes at SIGTERM or Ctrl-C (SIGINT): what `run` methods take to stop cleanly.
///
/// From the call on, and not only once it is awaited, the process is no longer ended by these
/// signals; a second one makes whatever drains stop at once and give back what it has in hand.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    let signals = signals();
    at_least(1, signals)
}

/// Completes at the second signal, if anybody asked for the first.
pub(crate) async fn second_signal() {
    match SIGNALS.get() {
        Some(signals) => at_least(2, signals).await,
        None => std::future::pending().await,
    }
}

async fn at_least(count: u32, signals: &'static watch::Sender<u32>) {
    let mut seen = signals.subscribe();
    // The sender is static: this cannot fail.
    let _ = seen.wait_for(|seen| *seen >= count).await;
}

/// The count of signals, which are listened to when this returns.
fn signals() -> &'static watch::Sender<u32> {
    SIGNALS.get_or_init(|| {
        let signals = watch::Sender::new(0);
        let counter = signals.clone();
        let (listening, listens) = mpsc::channel();
        // On a thread of its own: a runtime that ends, or whose threads are busy, does not take
        // the signals with it.
        let count = move || {
            if let Err(error) = count_signals(&counter, &listening) {
                tracing::error!(%error, "signals cannot be listened to: stop by other means");
            }
        };
        let thread = std::thread::Builder::new()
            .name("lepus-signals".into())
            .spawn(count);
        match thread {
            // A thread that failed has said so.
            Ok(_) => {
                let _ = listens.recv();
            }
            Err(error) => {
                tracing::error!(%error, "signals cannot be listened to: stop by other means");
            }
        }
        signals
    })
}

fn count_signals(
    counter: &watch::Sender<u32>,
    listening: &mpsc::Sender<()>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        // Whoever asked is waiting.
        let _ = listening.send(());
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
