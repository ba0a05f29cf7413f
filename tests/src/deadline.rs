//! Nothing hangs: a time limit on a whole test that names the test.

use std::future::Future;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The time a test may take, all in all.
pub const TEST_LIMIT: Duration = Duration::from_secs(120);

/// Runs `test`; panics with its name when it has not finished within `limit`.
///
/// A test that blocks its thread cannot be timed out from inside the runtime, so
/// a watching thread ends the process a little later, with the name as well.
pub async fn within<F: Future>(name: &str, limit: Duration, test: F) -> F::Output {
    let (finished, watched) = channel::<()>();
    let text = name.to_owned();
    std::thread::spawn(move || {
        let patience = limit + Duration::from_secs(15);
        if watched.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{text}: blocked its thread for {patience:?}; ending the process");
            std::process::exit(101);
        }
    });
    let output = tokio::time::timeout(limit, test).await;
    drop(finished);
    output.unwrap_or_else(|_| panic!("{name}: not finished after {limit:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finishes_is_handed_on() {
        assert_eq!(within("quick", TEST_LIMIT, async { 7 }).await, 7);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "slow: not finished after 120s")]
    async fn what_hangs_is_named() {
        within("slow", TEST_LIMIT, std::future::pending::<()>()).await;
    }
}
