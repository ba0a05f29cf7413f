//! State of each consumer, and the list of the consumers of a connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::link::Connection;
use crate::sync::lock;

/// The state of a consumer: of a server's queue, of a worker pool or of a subscription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerState {
    /// The broker delivers messages of the queue to this consumer.
    Consuming {
        /// When it began to.
        since: Instant,
    },
    /// It is not consuming. It is being set up, again and again until that succeeds.
    Waiting {
        /// When it was started, or when it stopped consuming.
        since: Instant,
        /// The reason: that of the loss, or of the last attempt that failed, such as a queue that exists with
        /// other properties ([`is_mismatch`](Error::is_mismatch)). `None` during the first attempt.
        error: Option<Error>,
    },
    /// It takes no more messages, and handles those that it has: a shutdown has begun.
    Draining {
        /// When the shutdown began.
        since: Instant,
    },
    /// It has ended.
    Stopped {
        /// When it ended.
        since: Instant,
    },
}

impl ConsumerState {
    /// Whether the state is [`Consuming`](Self::Consuming).
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        matches!(self, Self::Consuming { .. })
    }

    /// The reason why it does not consume, if it is [`Waiting`](Self::Waiting) and one is known.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Waiting { error, .. } => error.as_ref(),
            Self::Consuming { .. } | Self::Draining { .. } | Self::Stopped { .. } => None,
        }
    }

    /// The time in this state.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::Consuming { since }
            | Self::Waiting { since, .. }
            | Self::Draining { since }
            | Self::Stopped { since } => since.elapsed(),
        }
    }

    /// The name of the state: `consuming`, `waiting`, `draining` or `stopped`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Consuming { .. } => "consuming",
            Self::Waiting { .. } => "waiting",
            Self::Draining { .. } => "draining",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// The state of a consumer that does not consume, for this reason. It keeps the time at which it stopped
    /// consuming.
    fn waiting(&self, error: Option<Error>) -> Self {
        let since = match self {
            Self::Waiting { since, .. } => *since,
            _ => Instant::now(),
        };
        Self::Waiting { since, error }
    }
}

/// A consumer and its state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The queue that is consumed, without the namespace. A broadcast subscription has a queue of another name
    /// on each connection; it is called `lepus.events.<exchange>.*` here.
    pub queue: String,
    /// The state.
    pub state: ConsumerState,
}

impl fmt::Display for ConsumerStatus {
    /// For instance `` queue `resize` is waiting for 3.2 s: the connection to the broker was lost ``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, state } = self;
        let (name, seconds) = (state.name(), state.elapsed().as_secs_f64());
        write!(f, "queue `{queue}` is {name} for {seconds:.1} s")?;
        let Some(error) = state.error() else {
            return Ok(());
        };
        write!(f, ": {error}")?;
        match std::error::Error::source(error) {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// The consumers of a [`Running`](crate::Running), with their states at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunningState {
    /// One for each queue.
    pub consumers: Vec<ConsumerStatus>,
}

impl RunningState {
    /// Whether all of them are consuming.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut consumers = self.consumers.iter();
        consumers.all(|consumer| consumer.state.is_consuming())
    }
}

/// A view of the states of a [`Running`](crate::Running), which can be waited on. It does not keep it running.
#[derive(Clone, Debug)]
pub struct RunningWatch {
    consumers: Vec<ConsumerView>,
}

impl RunningWatch {
    pub(super) fn new(consumers: &[ConsumerView]) -> Self {
        Self {
            consumers: consumers.to_vec(),
        }
    }

    /// The states now.
    #[must_use]
    pub fn state(&self) -> RunningState {
        RunningState {
            consumers: self.consumers.iter().map(ConsumerView::status).collect(),
        }
    }

    /// Waits for a change since the last call, and returns the states. The first call waits for a change since
    /// the watch was made. `None` when all consumers have stopped, and their last states were returned.
    ///
    /// # Cancel safety
    /// No change is missed if the future is dropped.
    pub async fn changed(&mut self) -> Option<RunningState> {
        loop {
            let live = self.consumers.iter_mut().filter(|view| !view.has_ended);
            let changes: Vec<_> = live.map(|view| Box::pin(view.changed())).collect();
            if changes.is_empty() {
                return None;
            }
            let (is_change, _, _) = select_all(changes).await;
            if is_change {
                return Some(self.state());
            }
        }
    }
}

/// A view of one consumer's state.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerView {
    queue: Arc<str>,
    state: watch::Receiver<ConsumerState>,
    /// Whether the consumer is gone, so that its state does not change any more.
    has_ended: bool,
}

impl ConsumerView {
    pub(crate) fn status(&self) -> ConsumerStatus {
        ConsumerStatus {
            queue: self.queue.to_string(),
            state: self.state.borrow().clone(),
        }
    }

    /// Waits for a change. `false` if there will be none.
    async fn changed(&mut self) -> bool {
        self.has_ended = self.state.changed().await.is_err();
        !self.has_ended
    }
}

/// The consumers of a connection that were started and have not ended.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    next: AtomicU64,
    started: Mutex<BTreeMap<u64, ConsumerView>>,
}

impl Consumers {
    pub(crate) fn of(connection: &Connection) -> Arc<Self> {
        connection.shared(Self::default)
    }

    /// All of them, in the order in which they were started.
    pub(crate) fn statuses(&self) -> Vec<ConsumerStatus> {
        lock(&self.started)
            .values()
            .map(ConsumerView::status)
            .collect()
    }
}

/// The reporter of one consumer's state. Dropping it reports that the consumer has ended.
#[derive(Debug)]
pub(super) struct StateReporter {
    consumers: Arc<Consumers>,
    number: u64,
    queue: Arc<str>,
    state: watch::Sender<ConsumerState>,
}

impl StateReporter {
    /// Adds a consumer to the list. It is waiting.
    pub(super) fn new(connection: &Connection, queue: &str) -> Self {
        Self::add_to(Consumers::of(connection), queue)
    }

    fn add_to(consumers: Arc<Consumers>, queue: &str) -> Self {
        let reporter = Self {
            number: consumers.next.fetch_add(1, Ordering::Relaxed),
            consumers,
            queue: queue.into(),
            state: watch::Sender::new(ConsumerState::Waiting {
                since: Instant::now(),
                error: None,
            }),
        };
        lock(&reporter.consumers.started).insert(reporter.number, reporter.view());
        reporter
    }

    pub(super) fn view(&self) -> ConsumerView {
        ConsumerView {
            queue: Arc::clone(&self.queue),
            state: self.state.subscribe(),
            has_ended: false,
        }
    }

    pub(super) fn consuming(&self) {
        self.state.send_if_modified(|state| {
            let is_new = !state.is_consuming();
            if is_new {
                let since = Instant::now();
                *state = ConsumerState::Consuming { since };
            }
            is_new
        });
    }

    pub(super) fn waiting(&self, error: Error) {
        self.state
            .send_modify(|state| *state = state.waiting(Some(error)));
    }

    pub(super) fn draining(&self) {
        let since = Instant::now();
        self.state.send_replace(ConsumerState::Draining { since });
    }
}

impl Drop for StateReporter {
    fn drop(&mut self) {
        lock(&self.consumers.started).remove(&self.number);
        let since = Instant::now();
        self.state.send_replace(ConsumerState::Stopped { since });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn reporter(consumers: &Arc<Consumers>, queue: &str) -> StateReporter {
        StateReporter::add_to(Arc::clone(consumers), queue)
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_waits_since_it_stopped_consuming() {
        let consumers = Arc::<Consumers>::default();
        let reporter = reporter(&consumers, "resize");
        reporter.consuming();
        tokio::time::advance(Duration::from_secs(5)).await;
        reporter.waiting(Error::new(ErrorKind::Disconnected));
        tokio::time::advance(Duration::from_secs(2)).await;
        reporter.waiting(Error::new(ErrorKind::Timeout));
        let status = consumers.statuses().remove(0);
        assert_eq!(status.state.elapsed(), Duration::from_secs(2));
        let text = "queue `resize` is waiting for 2.0 s: timed out";
        assert_eq!(status.to_string(), text);
        drop(reporter);
        assert!(consumers.statuses().is_empty());
    }

    #[tokio::test]
    async fn a_watch_tells_each_change_and_the_end() {
        let consumers = Arc::<Consumers>::default();
        let (first, second) = (reporter(&consumers, "a"), reporter(&consumers, "b"));
        let mut watch = RunningWatch::new(&[first.view(), second.view()]);
        assert!(!watch.state().is_ready());
        first.consuming();
        assert!(!watch.changed().await.unwrap().is_ready());
        second.consuming();
        assert!(watch.changed().await.unwrap().is_ready());
        first.draining();
        let state = watch.changed().await.unwrap();
        assert_eq!(state.consumers[0].state.name(), "draining");
        drop(first);
        let state = watch.changed().await.unwrap();
        assert_eq!(state.consumers[0].state.name(), "stopped");
        drop(second);
        let state = watch.changed().await.unwrap();
        assert_eq!(state.consumers[1].state.name(), "stopped");
        assert!(watch.changed().await.is_none());
    }
}
