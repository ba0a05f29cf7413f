//! Shutdown signals (SIGTERM, SIGINT): the first one requests a drain, the second one an immediate stop, and
//! the third one ends the process.

use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tokio::sync::watch;

/// The default of the longest time that a drain may take.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// The number of the signal that ends the process.
const END_AT: u32 = 3;

static SIGNALS: OnceLock<watch::Sender<u32>> = OnceLock::new();

/// Completes at SIGTERM or Ctrl-C (SIGINT). Pass it to a `run` method, which then drains.
///
/// From this call on, even before the future is awaited, these signals no longer end the process. A second
/// signal stops a drain at once; unfinished deliveries go back to their queues. [`second_signal`] tells the
/// rest of the program of it. A third signal ends the process where it is, with the exit code that a shell
/// shows for a process that the signal ended: 143 for SIGTERM, 130 for SIGINT.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    let signals = signals();
    at_least(1, signals)
}

/// Completes at the second SIGTERM or Ctrl-C (SIGINT), for a program that has other work to finish than that of
/// Lepus, which stops at this signal by itself.
///
/// Signals are counted from the first call of this function or of [`shutdown_signal`], and no longer end the
/// process from then on, except the third one.
///
/// ```no_run
/// # async fn finish_uploads() {}
/// # async fn example() {
/// lepus::shutdown_signal().await;
/// tokio::select! {
///     () = finish_uploads() => {}
///     () = lepus::second_signal() => println!("the uploads are not finished"),
/// }
/// # }
/// ```
pub fn second_signal() -> impl Future<Output = ()> + Send + 'static {
    let signals = signals();
    at_least(2, signals)
}

/// Completes at the second signal, if the program has Lepus receive signals.
pub(crate) async fn stop_at_once() {
    match SIGNALS.get() {
        Some(signals) => at_least(2, signals).await,
        None => std::future::pending().await,
    }
}

async fn at_least(count: u32, signals: &'static watch::Sender<u32>) {
    let mut seen = signals.subscribe();
    // This fails only if the sender is dropped, and it is static.
    let _ = seen.wait_for(|seen| *seen >= count).await;
}

/// The number of signals so far. When this returns, signals are received.
fn signals() -> &'static watch::Sender<u32> {
    SIGNALS.get_or_init(|| {
        let signals = watch::Sender::new(0);
        let counter = signals.clone();
        let (listening, listens) = mpsc::channel();
        // A thread of its own receives the signals, because a runtime of the program may end, or its
        // threads may be busy.
        let count = move || {
            if let Err(error) = count_signals(&counter, &listening) {
                tracing::error!(%error, "cannot receive SIGTERM and SIGINT, stop the program in another way");
            }
        };
        let thread = std::thread::Builder::new()
            .name("lepus-signals".into())
            .spawn(count);
        match thread {
            // A thread that failed has logged its error.
            Ok(_) => {
                let _ = listens.recv();
            }
            Err(error) => {
                tracing::error!(%error, "cannot receive SIGTERM and SIGINT, stop the program in another way");
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
        // The thread that asked waits for this.
        let _ = listening.send(());
        loop {
            let exit_code = signals.next().await?;
            counter.send_modify(|count| *count += 1);
            if *counter.borrow() >= END_AT {
                tracing::warn!("third signal, ending the process");
                std::process::exit(exit_code);
            }
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

    /// Waits for a signal, and returns the exit code that a shell shows for a process that it ended.
    async fn next(&mut self) -> std::io::Result<i32> {
        const SIGTERM: i32 = 15;
        const SIGINT: i32 = 2;
        let signal = tokio::select! {
            _ = self.terminate.recv() => SIGTERM,
            _ = self.interrupt.recv() => SIGINT,
        };
        Ok(128 + signal)
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Waits for Ctrl-C, and returns the exit code of a process that it ended.
    async fn next(&mut self) -> std::io::Result<i32> {
        tokio::signal::ctrl_c().await?;
        Ok(130)
    }
}
