//! The one consumer loop: consume, handle, settle, and drain. Server, work queue and subscription
//! share it.

mod hands;
mod pace;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::declaring::OnceMore;
use crate::error::{Error, Kind};
use crate::link::{
    self, Channel, Connection, ConsumeMode, Consumer, ConsumerEnd, Delivery, Link, Namespace,
    Session,
};
use crate::policy::refusal;
use crate::policy::retry::RetryPolicy;
use crate::random;
use crate::service::BoxFuture;
use crate::wire::topology::Topology;
use hands::Hands;
#[cfg(test)]
pub(crate) use hands::work;
pub(crate) use pace::HEAVY;

/// A consumer that worked this long starts its backoff anew when it ends.
const STABLE: Duration = Duration::from_secs(5);

/// How often it is said that a queue still cannot be consumed.
const AGAIN: Duration = Duration::from_secs(60);

/// What to consume, and how.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topology: Topology,
    /// As the user knows it; the namespace is added here. Where a consumer has a queue of another
    /// name on each connection, this is for the log while there is none.
    pub(crate) queue: String,
    /// How many deliveries are handled at once: the prefetch.
    pub(crate) concurrency: u16,
    pub(crate) grace: Duration,
    /// Messages with a longer body come without it, in bytes: what is refused for its size is not
    /// gathered first.
    pub(crate) max_body: usize,
    /// Whether a handler is dropped when the channel it would settle on is gone. Its message is
    /// delivered again either way.
    pub(crate) on_loss: OnLoss,
}

/// What becomes of a running handler whose delivery can no longer be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// It is dropped at its next await.
    Drop,
    /// It goes on, and holds its place: no more handlers run than the concurrency says.
    Finish,
}

/// What becomes of a delivery once it is handled.
pub(crate) enum Settlement {
    Ack,
    /// The same, and what was published on its channel meets others on its way out: it is left to
    /// lapin's thread.
    AckSoon,
    Requeue,
    Reject,
    /// The handler has settled it itself, or nobody can any more.
    Settled,
}

/// What handles deliveries.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether each handler is polled once before the next delivery is looked at: what it does
    /// before it first waits is done in the order of the deliveries.
    const IN_ORDER: bool = false;

    /// Handles one delivery. The channel is the channel it came from: what is published there is
    /// written before the settlement. What may panic is in the future, not in making it.
    fn handle(
        self: Arc<Self>,
        channel: Arc<Channel>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send;

    /// The broker delivers on this channel from now on.
    fn began(&self, _: &Arc<Channel>) {}

    /// A channel is gone, for this reason: what was not settled on it comes again.
    fn lost(&self, queue: &str, _lane: &Arc<Channel>, reason: &Error) {
        report_loss(queue, reason);
    }

    /// No further delivery will come: those in hand had better come to an end.
    fn drain(&self) {}

    /// Runs beside the handlers while deliveries come, and does not end.
    fn oversee(&self) -> impl Future<Output = Infallible> + Send {
        std::future::pending()
    }
}

/// How a consumer is set up on each connection, where declaring its source is not all.
pub(crate) trait Setup: Send + Sync + 'static {
    /// Makes what it needs be there, and says which queue to consume, by its name on the broker.
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>>;

    /// How that queue is consumed.
    fn mode(&self) -> ConsumeMode;

    /// Messages with a longer body come without it, in bytes.
    fn max_body(&self) -> usize {
        usize::MAX
    }

    /// The broker delivers.
    fn started(&self);

    /// It delivers no more.
    fn ended(&self, ended: &ConsumerEnd);

    /// It could not be set up; that is tried again. Called for every try.
    fn failed(&self, error: &Error);
}

/// A consumer that is set up: its queue is there and the broker delivers.
pub(crate) struct Worker {
    source: Source,
    /// Held until the work ends: nothing else may hold it.
    connection: Connection,
    setup: Arc<dyn Setup>,
    ready: Ready,
}

#[derive(Debug)]
struct Ready {
    /// By its name on the broker.
    queue: String,
    channel: Arc<Channel>,
    deliveries: Consumer,
}

/// Why a consumer stopped being one.
enum Stopped {
    Shutdown,
    Ended(ConsumerEnd),
}

impl Worker {
    /// Declares what the source needs and starts consuming.
    ///
    /// # Errors
    /// The connection was closed, or the broker refuses: a mismatch, a missing permission.
    pub(crate) async fn start(connection: &Connection, source: Source) -> Result<Self, Error> {
        let setup = Plain {
            source: source.clone(),
            namespace: connection.namespace().clone(),
        };
        Self::start_with(connection, source, Arc::new(setup)).await
    }

    /// As [`start`](Self::start), set up in another way. The source's topology is not declared,
    /// and its queue is for the log alone.
    pub(crate) async fn start_with(
        connection: &Connection,
        source: Source,
        setup: Arc<dyn Setup>,
    ) -> Result<Self, Error> {
        let link = connection.consuming().clone();
        let ready = loop {
            match setting_up(connection.tasks(), &link, &setup).await {
                Err(error) if error.is_disconnected() && !error.is_closed() => {}
                result => break result?,
            }
        };
        Ok(Self {
            source,
            connection: connection.clone(),
            setup,
            ready,
        })
    }

    /// Works until `shutdown` turns true, then drains.
    ///
    /// # Errors
    /// The connection was closed under it.
    pub(crate) async fn run<H: Handler>(
        self,
        handler: Arc<H>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let Self {
            source,
            connection,
            setup,
            ready,
        } = self;
        let (link, backoff, tasks) = (
            connection.consuming(),
            connection.backoff(),
            connection.tasks(),
        );
        let runtimes = (tasks.clone(), connection.io().clone());
        let mut hands = Hands::new(&source, handler, runtimes, connection.counters());
        let mut ready = Some(ready);
        let mut failures = 0;
        let mut refusals = Refusals::default();
        loop {
            let Ready {
                queue,
                channel,
                mut deliveries,
            } = match ready.take() {
                Some(ready) => ready,
                None => {
                    let result = tokio::select! {
                        result = setting_up(tasks, link, &setup) => result,
                        () = is_true(&mut shutdown) => {
                            hands.finish(None).await;
                            return Ok(());
                        }
                    };
                    match result {
                        Ok(ready) => ready,
                        Err(error) if error.is_closed() => {
                            hands.finish(None).await;
                            return Err(error);
                        }
                        Err(error) => {
                            failures += 1;
                            refusals.report(&source, &error);
                            setup.failed(&error);
                            if !pause(backoff, failures, &mut shutdown).await {
                                hands.finish(None).await;
                                return Ok(());
                            }
                            continue;
                        }
                    }
                }
            };
            tracing::info!(
                queue,
                concurrency = source.concurrency,
                generation = channel.session().generation(),
                "consuming"
            );
            let since = Instant::now();
            refusals = Refusals::default();
            setup.started();
            match hands
                .consume(&channel, &mut deliveries, &mut shutdown)
                .await
            {
                Stopped::Shutdown => {
                    tracing::info!(queue, "draining");
                    hands.finish(Some((&channel, deliveries))).await;
                    return Ok(());
                }
                Stopped::Ended(ended) => {
                    match &ended {
                        ConsumerEnd::Cancelled => {
                            tracing::warn!(queue, "the broker cancelled the consumer");
                        }
                        ConsumerEnd::Lost(error) => {
                            hands.lose(&channel, error);
                        }
                    }
                    setup.ended(&ended);
                }
            }
            drop(deliveries);
            if since.elapsed() >= STABLE {
                failures = 0;
            }
            // The link waits between connections by itself; a consumer that is cancelled again
            // and again, or a channel that dies, has to be held back here.
            if channel.session().is_up() {
                failures += 1;
                if !pause(backoff, failures, &mut shutdown).await {
                    hands.finish(None).await;
                    return Ok(());
                }
            }
        }
    }
}

/// In a task of its own: a set-up that is dropped half-way leaks a channel and a consumer.
async fn setting_up(tasks: &Handle, link: &Link, setup: &Arc<dyn Setup>) -> Result<Ready, Error> {
    let (link, setup) = (link.clone(), Arc::clone(setup));
    let task = tasks.spawn(async move { set_up(&link, &*setup).await });
    task.await
        .map_err(|ended| Error::new(Kind::Closed).caused_by(ended))?
}

/// What the source says, declared anew on each connection.
struct Plain {
    source: Source,
    namespace: Namespace,
}

impl Setup for Plain {
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>> {
        let queue = self.namespace.scope(&self.source.queue);
        let (topology, namespace) = (self.source.topology.clone(), self.namespace.clone());
        Box::pin(async move {
            link::declare(&session, &topology, &namespace).await?;
            Ok(queue)
        })
    }

    fn mode(&self) -> ConsumeMode {
        ConsumeMode::ManualAck {
            prefetch: self.source.concurrency,
        }
    }

    fn max_body(&self) -> usize {
        self.source.max_body
    }

    fn started(&self) {}

    fn ended(&self, _: &ConsumerEnd) {}

    fn failed(&self, _: &Error) {}
}

async fn set_up(link: &Link, setup: &dyn Setup) -> Result<Ready, Error> {
    let mut once_more = OnceMore::default();
    loop {
        let session = link.session().await?;
        match set_up_on(&session, setup).await {
            Err(error) if once_more.is_due(&error, &session).await => {}
            result => return result,
        }
    }
}

async fn set_up_on(session: &Arc<Session>, setup: &dyn Setup) -> Result<Ready, Error> {
    let mut again = true;
    loop {
        let queue = setup.prepare(Arc::clone(session)).await?;
        let channel = Channel::open(session).await?;
        channel.limit_bodies(setup.max_body());
        match Consumer::start(&channel, &queue, setup.mode()).await {
            Ok(deliveries) => {
                return Ok(Ready {
                    queue,
                    channel,
                    deliveries,
                });
            }
            // It was there a moment ago and was deleted since. Whoever starts would not try
            // again, for what a first set-up runs into is the user's to know.
            Err(error) if again && error.amqp_code() == Some(404) => again = false,
            Err(error) => return Err(error),
        }
    }
}

/// A channel that the broker closed is somebody's mistake, and an operator's to know; the end of a
/// connection is told by the connection itself.
pub(crate) fn report_loss(queue: &str, error: &Error) {
    if refusal::overdue(error).is_some() {
        tracing::error!(
            queue,
            %error,
            "a delivery was not acknowledged within the broker's consumer_timeout: the broker closed \
             the channel and delivers again what was in hand"
        );
    } else if error.amqp_code().is_some() {
        tracing::error!(queue, %error, "the broker closed the consumer's channel");
    } else {
        tracing::debug!(queue, %error, "the consumer was lost");
    }
}

/// Set-ups that were refused, one after the other, since the queue was last consumed.
#[derive(Debug, Default)]
struct Refusals {
    count: u32,
    /// When the first was, and when one was last reported.
    since: Option<(Instant, Instant)>,
}

impl Refusals {
    /// Reports the first one at ERROR and then one a minute at WARN; the same refusal again is no
    /// news in between.
    fn report(&mut self, source: &Source, error: &Error) {
        let queue = source.queue.as_str();
        let cause = std::error::Error::source(error).map(ToString::to_string);
        self.count = self.count.saturating_add(1);
        let failures = self.count;
        let now = Instant::now();
        match &mut self.since {
            None => {
                self.since = Some((now, now));
                tracing::error!(queue, %error, ?cause, "cannot consume, trying again");
            }
            Some((first, last)) if now.duration_since(*last) >= AGAIN => {
                *last = now;
                let since = now.duration_since(*first);
                tracing::warn!(queue, %error, ?cause, failures, ?since, "still cannot consume, trying again");
            }
            Some(_) => {
                tracing::debug!(queue, %error, ?cause, failures, "cannot consume yet");
            }
        }
    }
}

/// Waits before another try; false when it is time to stop instead.
async fn pause(backoff: &RetryPolicy, failures: u32, shutdown: &mut watch::Receiver<bool>) -> bool {
    let pause = backoff.jittered(failures, random::fraction());
    tokio::select! {
        () = is_true(shutdown) => false,
        () = tokio::time::sleep(pause) => true,
    }
}

async fn is_true(flag: &mut watch::Receiver<bool>) {
    // A sender that is gone asks for nothing any more, and cannot take it back.
    let _ = flag.wait_for(|flag| *flag).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;
    use std::sync::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// The level and the text of each event.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(Level, String)>>>);

    impl Subscriber for Log {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            struct Text(String);
            impl Visit for Text {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    if field.name() == "message" {
                        self.0 = format!("{value:?}");
                    }
                }
            }
            let mut text = Text(String::new());
            event.record(&mut text);
            let said = (*event.metadata().level(), text.0);
            self.0.lock().unwrap().push(said);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn source() -> Source {
        Source {
            topology: Topology::default(),
            queue: "jobs".into(),
            concurrency: 1,
            grace: Duration::ZERO,
            max_body: usize::MAX,
            on_loss: OnLoss::Drop,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_refused_for_long_is_reported_every_minute() {
        let (log, source) = (Log::default(), source());
        let error = Error::new(Kind::Disconnected);
        let levels = || {
            let said = std::mem::take(&mut *log.0.lock().unwrap());
            said.into_iter().map(|(level, _)| level).collect::<Vec<_>>()
        };
        let _subscriber = tracing::subscriber::set_default(log.clone());
        for _ in 0..2 {
            let mut refusals = Refusals::default();
            for seconds in [0, 30, 29, 1, 59, 1, 1] {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                refusals.report(&source, &error);
            }
            let (error, warn, debug) = (Level::ERROR, Level::WARN, Level::DEBUG);
            let expected = [error, debug, debug, warn, debug, warn, debug];
            assert_eq!(levels(), expected);
        }
    }

    #[test]
    fn a_channel_that_the_broker_closed_is_reported_as_an_error() {
        let log = Log::default();
        let _subscriber = tracing::subscriber::set_default(log.clone());
        let refused = |text: &str| {
            let text = text.to_owned();
            Error::new(Kind::Broker { code: 406, text })
        };
        report_loss("jobs", &Error::new(Kind::Disconnected));
        report_loss(
            "jobs",
            &refused("PRECONDITION_FAILED - unknown delivery tag 7"),
        );
        report_loss(
            "jobs",
            &refused("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"),
        );
        let said = log.0.lock().unwrap().clone();
        let levels: Vec<_> = said.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [Level::DEBUG, Level::ERROR, Level::ERROR]);
        assert!(said[2].1.contains("consumer_timeout"), "{said:?}");
    }
}
