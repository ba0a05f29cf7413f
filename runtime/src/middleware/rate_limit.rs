//! A limit of the operations in a time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::from_fn::{Middleware, layers};
use super::operation::{Next, Operation};
use crate::clock;
use crate::service::BoxFuture;
use crate::sync::lock;
use crate::wire::status::{Code, Status};

/// A layer that lets at most so many operations through in a time: requests, jobs, events, pushes and publishes.
/// Others wait for their turn; those whose turn comes after their deadline, and with [`reject`](Self::reject) all
/// others, are answered `resource_exhausted` immediately, with the time until the next free turn as
/// [`Status::retry_after`](crate::Status::retry_after). A job or an event is tried again then, which counts as an
/// attempt.
///
/// After a pause, as many operations as in the whole time may pass at once; then the turns are evenly spaced. Clones,
/// and everything that one layer is put around, share the limit. Jobs that wait for their turn take up the concurrency
/// of their pool.
///
/// ```
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn fib(&self, n: u64) -> u64 {
/// #         n
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// use std::time::Duration;
///
/// use lepus::middleware::RateLimit;
/// use lepus::{Code, rpc::Client};
///
/// let limit = RateLimit::new(2, Duration::from_secs(3600)).reject();
/// let service = CalculatorServer::new(CalculatorService).layer(limit);
/// let calculator = CalculatorClient::from(Client::local(service));
/// calculator.fib(1).await?;
/// calculator.fib(2).await?;
/// let error = calculator.fib(3).await.unwrap_err();
/// assert_eq!(error.code(), Some(Code::ResourceExhausted));
/// assert!(error.status().and_then(|status| status.retry_after()).is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit {
    turns: Arc<Turns>,
    rejects: bool,
}

/// The generic cell rate algorithm (GCRA): one instant is all of its state.
#[derive(Debug)]
struct Turns {
    /// The time between two turns.
    interval: Duration,
    /// The time in which the limit holds.
    period: Duration,
    /// The instant at which no turn is used any more.
    idle_at: Mutex<Instant>,
}

impl RateLimit {
    /// At most `operations` in the time `per`; 0 count as 1.
    #[must_use]
    pub fn new(operations: u32, per: Duration) -> Self {
        let turns = Turns {
            interval: per / operations.max(1),
            period: per,
            idle_at: Mutex::new(Instant::now()),
        };
        Self {
            turns: Arc::new(turns),
            rejects: false,
        }
    }

    /// Lets nothing wait.
    #[must_use]
    pub fn reject(self) -> Self {
        Self {
            rejects: true,
            ..self
        }
    }
}

impl Turns {
    /// Takes the next turn, and returns its time.
    ///
    /// # Errors
    /// The turn is later than `latest`. No turn is taken then; the error is the time until this one.
    fn take(&self, now: Instant, latest: Option<Instant>) -> Result<Instant, Duration> {
        let mut idle_at = lock(&self.idle_at);
        let next_idle_at = clock::deadline((*idle_at).max(now), self.interval);
        let turn = next_idle_at.checked_sub(self.period);
        let turn = turn.map_or(now, |turn| turn.max(now));
        if latest.is_some_and(|latest| turn > latest) {
            return Err(turn - now);
        }
        *idle_at = next_idle_at;
        Ok(turn)
    }
}

layers!(RateLimit);

impl<I: Operation> Middleware<I> for RateLimit {
    fn handle(&self, operation: I, next: Next<I>) -> BoxFuture<I::Output> {
        let now = Instant::now();
        let latest = if self.rejects {
            Some(now)
        } else {
            operation.latest()
        };
        let turn = self.turns.take(now, latest);
        Box::pin(async move {
            match turn {
                Ok(turn) => {
                    if turn > now {
                        sleep_until(turn).await;
                    }
                    next.run(operation).await
                }
                Err(delay) => {
                    let target = next.target(&operation);
                    let text = format!("the rate limit of `{target}` is reached");
                    let status = Status::new(Code::ResourceExhausted, text);
                    I::refused(status.with_retry_after(delay))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn turns(limit: &RateLimit, now: Instant, count: u32) -> Vec<Duration> {
        let turns = (0..count).filter_map(|_| limit.turns.take(now, None).ok());
        turns.map(|turn| turn - now).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_turns_are_spaced() {
        let limit = RateLimit::new(4, SECOND);
        let (none, quarter) = (Duration::ZERO, SECOND / 4);
        let now = Instant::now();
        let expected = [none, none, none, none, quarter, quarter * 2];
        assert_eq!(turns(&limit, now, 6), expected);
        // A clone shares the limit, and half a second later, two turns were given out ahead.
        let later = now + SECOND / 2;
        assert_eq!(turns(&limit.clone(), later, 2), [quarter, quarter * 2]);
        // After a long pause, no more than four pass at once.
        let later = now + SECOND * 60;
        assert_eq!(turns(&limit, later, 5), [none, none, none, none, quarter]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_comes_too_late_is_not_taken() {
        let limit = RateLimit::new(1, SECOND);
        let now = Instant::now();
        assert_eq!(limit.turns.take(now, Some(now)), Ok(now));
        assert_eq!(limit.turns.take(now, Some(now)), Err(SECOND));
        let half = now + SECOND / 2;
        assert_eq!(limit.turns.take(half, Some(half)), Err(SECOND / 2));
        let latest = now + SECOND;
        assert_eq!(limit.turns.take(now, Some(latest)), Ok(latest));
    }
}
