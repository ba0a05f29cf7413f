//! Waiting for a condition: polled, with a deadline, and with words for what was
//! awaited and what was seen instead. The only place where a test waits for time.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The time for which [`eventually`] polls.
pub const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// Polls `probe` until it holds, for at most [`PATIENCE`]; panics with `what` and
/// the last observation otherwise. A probe gives a `bool`, an `Option` or a
/// `Result` whose error says what is there instead.
pub async fn eventually<V, F>(what: &str, probe: impl FnMut() -> F) -> V::Value
where
    F: Future<Output = V>,
    V: Verdict,
{
    within(what, PATIENCE, probe).await
}

/// [`eventually`] with a limit of its own.
pub async fn within<V, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> V::Value
where
    F: Future<Output = V>,
    V: Verdict,
{
    let deadline = Instant::now() + limit;
    let mut seen = String::new();
    loop {
        // A probe that hangs is no better than one that says no.
        match tokio::time::timeout_at(deadline, probe())
            .await
            .map(V::verdict)
        {
            Ok(Ok(value)) => return value,
            Ok(Err(other)) => seen = other,
            Err(_) => seen = format!("{seen} (the last look did not end)"),
        }
        assert!(
            Instant::now() + PAUSE < deadline,
            "not within {limit:?}: {what}; last seen: {seen}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Polls `probe` until it holds, for as long as what is seen instead changes now and then: panics
/// with `what` and the last observation when that has been the same for `limit`.
pub async fn while_it_moves<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let mut seen = String::new();
    let mut since = Instant::now();
    loop {
        // A probe that hangs is no better than one that says no.
        match tokio::time::timeout_at(since + limit, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(other)) if other != seen => (seen, since) = (other, Instant::now()),
            Ok(Err(_)) => {}
            Err(_) => seen = format!("{seen} (the last look did not end)"),
        }
        assert!(
            Instant::now() + PAUSE < since + limit,
            "nothing has changed for {limit:?}: {what}; last seen: {seen}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`eventually`] for a test that holds its thread on purpose, so that nothing else runs on it.
pub fn on_this_thread<V: Verdict>(what: &str, mut probe: impl FnMut() -> V) -> V::Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match probe().verdict() {
            Ok(value) => return value,
            Err(seen) => assert!(
                std::time::Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}; last seen: {seen}"
            ),
        }
        std::thread::sleep(PAUSE);
    }
}

/// The answer of a probe.
pub trait Verdict {
    /// The value that is handed on once the condition holds.
    type Value;
    /// The value, or what was seen instead.
    fn verdict(self) -> Result<Self::Value, String>;
}

impl Verdict for bool {
    type Value = ();
    fn verdict(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "no".to_owned())
    }
}

impl<T> Verdict for Option<T> {
    type Value = T;
    fn verdict(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Verdict for Result<T, E> {
    type Value = T;
    fn verdict(self) -> Result<T, String> {
        self.map_err(|other| other.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_polls_until_the_condition_holds() {
        let mut looks = 0;
        let value = eventually("three looks", || {
            looks += 1;
            std::future::ready((looks == 3).then_some(looks))
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 20s: an empty queue; last seen: 2 messages")]
    async fn it_says_what_it_saw_instead() {
        eventually("an empty queue", || async { Err::<(), _>("2 messages") }).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "nothing has changed for 1s: an empty queue; last seen: 1")]
    async fn it_waits_while_something_changes() {
        let began = Instant::now();
        while_it_moves("an empty queue", Duration::from_secs(1), || {
            let halves = began.elapsed().as_millis() / 500;
            let left = 20_u128.saturating_sub(halves).max(1);
            std::future::ready(Err::<(), _>(left.to_string()))
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the last look did not end")]
    async fn a_probe_that_hangs_is_cut_off() {
        eventually("an answer", std::future::pending::<bool>).await;
    }
}
