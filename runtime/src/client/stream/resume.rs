//! Streams that are opened again behind their last item after the connection or the server was lost.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::call::Opening;
use super::{StreamCall, Streaming};
use crate::clock;
use crate::error::{CallError, Error, Never};
use crate::policy::backoff::Backoff;
use crate::policy::retry::RetryPolicy;
use crate::random;
use crate::wire::status::Code;

/// The delays between attempts to open the stream again, unless [`ResumedStream::retry`] sets others.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Reads a stream that goes on after a loss: when it is interrupted, the method is called again with the token of the
/// last item.
///
/// The method has to take an argument that tells where to go on, and to send the items behind it. `call` makes the
/// call, with `start` at first and with the token of the last item after an interruption; `token` gives the token of
/// an item. If the method honours the token, each item comes once and in order.
///
/// ```
/// use futures_util::StreamExt;
/// use lepus::rpc::{Stream, resume};
///
/// #[lepus::service]
/// trait Ledger {
///     /// The numbers of the entries behind this one.
///     fn entries(&self, behind: u64) -> impl Stream<Item = u64>;
/// }
///
/// struct LedgerService;
///
/// impl Ledger for LedgerService {
///     fn entries(&self, behind: u64) -> impl Stream<Item = u64> {
///         futures_util::stream::iter(behind + 1..=5)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// let ledger = LedgerClient::local(LedgerService);
/// let mut entries = resume(0, |behind| ledger.entries(behind).window(64), |entry| *entry);
/// let mut sum = 0;
/// while let Some(entry) = entries.next().await {
///     sum += entry?;
/// }
/// assert_eq!(sum, 15);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The stream is opened again, after a delay, when it ends or its opening fails with
///
/// - [`is_disconnected`](Error::is_disconnected): this side or the server has lost its connection, or the server has
///   died;
/// - the status `unavailable`: the server shuts down;
///
/// and, once it was open, while its server is away: if a further opening fails with
/// [`is_unroutable`](Error::is_unroutable), [`is_unserved`](Error::is_unserved) or [`is_timeout`](Error::is_timeout),
/// or with the status `aborted`, because the request was delivered to a server that died.
///
/// Any other error is the last item: the method's own error, another status, a limit such as
/// [`idle`](StreamCall::idle), or an item that does not decode. So is the last error when the attempts of
/// [`retry`](ResumedStream::retry) are used up.
///
/// # Cancel safety
/// Dropping the future of [`next`](ResumedStream::next) loses no item. Dropping the stream cancels the stream that is
/// open, and gives up a call that is under way.
pub fn resume<K, T, E, C, N>(start: K, call: C, token: N) -> ResumedStream<K, T, E, C, N>
where
    K: Clone,
    C: FnMut(K) -> StreamCall<T, E>,
    N: FnMut(&T) -> K,
{
    let policy = RetryPolicy::default()
        .attempts(u32::MAX)
        .backoff(FIRST_DELAY, LONGEST_DELAY);
    ResumedStream {
        last: start,
        call,
        token,
        backoff: Backoff::new(&policy),
        state: ResumedState::Due,
        openings: 0,
    }
}

/// A stream of items that is opened again after a loss: a [`Stream`] of `Result<T, CallError<E>>`. [`resume`] makes it.
#[must_use = "a stream is opened when it is read"]
pub struct ResumedStream<K, T, E, C, N> {
    /// The token of the last item.
    last: K,
    call: C,
    token: N,
    /// The failures since the last item.
    backoff: Backoff,
    state: ResumedState<T, E>,
    /// The number of times that the stream was opened.
    openings: u64,
}

enum ResumedState<T, E = Never> {
    /// The method is to be called.
    Due,
    Opening(Opening<T, E>),
    Open(Streaming<T, E>),
    Waiting(clock::Timer),
    Ended,
}

impl<K, T, E, C, N> ResumedStream<K, T, E, C, N> {
    /// Sets the number of attempts in a row, without an item in between, and the delays before them: the attempts
    /// count each call of the method. Default: attempts without a limit, after 100 ms, doubling up to 5 s, with a
    /// jitter of 20 %. A status that tells [when to try again](crate::rpc::Status::retry_after) is heeded if that is
    /// later.
    pub fn retry(mut self, policy: &RetryPolicy) -> Self {
        self.backoff = Backoff::new(policy);
        self
    }

    /// The number of times that the stream was opened. The second and each further one was after a loss.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.openings
    }

    /// Goes on after an error: waits before the next attempt, or returns the error as the last item.
    fn interrupted(&mut self, error: CallError<E>, is_opening: bool) -> Option<CallError<E>> {
        let is_reopening = is_opening && self.openings > 0;
        let lost = error
            .rpc()
            .filter(|error| is_lost(error) || (is_reopening && is_away(error)));
        let Some(lost) = lost else {
            self.state = ResumedState::Ended;
            return Some(error);
        };
        let delay = self.backoff.next(random::fraction());
        if self.backoff.failures() >= self.backoff.policy().max_attempts() {
            self.state = ResumedState::Ended;
            return Some(error);
        }
        let asked = lost.status().and_then(|status| status.retry_after());
        let delay = delay.max(asked.unwrap_or_default());
        tracing::debug!(error = %lost, ?delay, "a stream is interrupted, opening it again");
        let at = clock::deadline(Instant::now(), delay);
        self.state = ResumedState::Waiting(clock::timer(at));
        None
    }
}

/// Whether the connection or the server was lost.
fn is_lost(error: &Error) -> bool {
    error.is_disconnected() || error.code() == Some(Code::Unavailable)
}

/// Whether nobody serves the method at the moment, if somebody has served it before.
fn is_away(error: &Error) -> bool {
    error.is_unroutable()
        || error.is_unserved()
        || error.is_timeout()
        || error.code() == Some(Code::Aborted)
}

impl<K, T, E, C, N> ResumedStream<K, T, E, C, N> {
    /// The next item; `None` when the stream has ended. After an error, the next one is `None`.
    ///
    /// # Cancel safety
    /// No item is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<T, CallError<E>>>
    where
        Self: Stream<Item = Result<T, CallError<E>>>,
    {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<K, T, E, C, N> Stream for ResumedStream<K, T, E, C, N>
where
    K: Clone,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + 'static,
    C: FnMut(K) -> StreamCall<T, E>,
    N: FnMut(&T) -> K,
{
    type Item = Result<T, CallError<E>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let (error, is_opening) = match &mut this.state {
                ResumedState::Due => {
                    let call = (this.call)(this.last.clone());
                    this.state = ResumedState::Opening(call.into_future());
                    continue;
                }
                ResumedState::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(stream) => {
                        this.openings += 1;
                        this.state = ResumedState::Open(stream);
                        continue;
                    }
                    Err(error) => (error, true),
                },
                ResumedState::Open(stream) => match ready!(Pin::new(stream).poll_next(cx)) {
                    Some(Ok(item)) => {
                        this.last = (this.token)(&item);
                        this.backoff.reset();
                        return Poll::Ready(Some(Ok(item)));
                    }
                    Some(Err(error)) => (error, false),
                    None => {
                        this.state = ResumedState::Ended;
                        return Poll::Ready(None);
                    }
                },
                ResumedState::Waiting(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    this.state = ResumedState::Due;
                    continue;
                }
                ResumedState::Ended => return Poll::Ready(None),
            };
            if let Some(error) = this.interrupted(error, is_opening) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

// Nothing of it is pinned in place: the opening and the timer are in boxes.
impl<K, T, E, C, N> Unpin for ResumedStream<K, T, E, C, N> {}

impl<K: fmt::Debug, T, E, C, N> fmt::Debug for ResumedStream<K, T, E, C, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumedStream")
            .field("last", &self.last)
            .field("openings", &self.openings)
            .finish_non_exhaustive()
    }
}
