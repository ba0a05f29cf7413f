//! Questions to all instances: their kinds, their options, and how they are asked.

use std::collections::VecDeque;
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::answer::{HealthStatus, Named, Pong, ServiceHealth, ServiceInfo, ServiceStats};
use super::answers::{Answer, Answers, AskedQuestion, AskerEvent};
use crate::clock;
use crate::error::Error;
use crate::link::{
    self, Channel, ChannelEvent, ChannelHandler, Connection, ConsumeMode, Consumer, Delivery,
    DeliveryCallback, Session,
};
use crate::publish::accepting_session;
use crate::random;
use crate::service::BoxFuture;
use crate::wire::envelope::{self, CONTROL_EXCHANGE, QuestionKind};
use crate::wire::name::Name;
use crate::wire::topology::{Queue, Topology};

/// The default of [`Discovery::limit`].
const LIMIT: Duration = Duration::from_secs(2);
/// The default of [`Discovery::quiet`].
const QUIET: Duration = Duration::from_millis(300);

/// Asks the running system: which services there are, how they are used, and whether they are well.
///
/// Each method is a [`Question`] to all instances in the namespace of the connection. Await it for all answers, or
/// take them one by one as they come ([`Question::stream`]). No instance is waited for by name, so one that is
/// stalled delays nobody.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// use lepus::Discovery;
///
/// let discovery = Discovery::new(&connection);
/// for service in discovery.stats("calculator").await? {
///     for method in &service.endpoints {
///         println!("{}.{}: {} requests", service.name, method.name, method.num_requests);
///     }
/// }
/// // Three instances are expected, so it does not wait for more.
/// let pongs = discovery.ping().of("calculator").expect(3).await?;
/// println!("{} answered, the last after {:?}", pongs.len(), pongs.iter().map(|it| it.elapsed()).max());
/// # Ok(())
/// # }
/// ```
///
/// An instance is found a moment after its server was started, when its queue is bound.
#[derive(Clone, Debug)]
pub struct Discovery {
    connection: Connection,
    limit: Duration,
    quiet: Duration,
}

impl Discovery {
    /// Asks over this connection. It needs the permissions that a client needs, and to write to the exchange
    /// `lepus.control`.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            limit: LIMIT,
            quiet: QUIET,
        }
    }

    /// Sets the longest time that a question waits for answers. Default 2 s. If nothing of the name that is asked
    /// for is served, the broker tells, and the question does not wait.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the time after the last answer after which no more are expected. Default 300 ms.
    #[must_use]
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// Asks which services, work queues, tasks and groups there are.
    pub fn services(&self) -> Question<ServiceInfo> {
        self.question(QuestionKind::Info)
    }

    /// Asks the instances of a service for their description: that of its methods, among others. The name is that
    /// of a service; if no service has it, that of a work queue or of the queue of a group.
    pub fn info(&self, name: &str) -> Question<ServiceInfo> {
        self.services().of(name)
    }

    /// Asks the instances of a service for their figures. The name is as for [`info`](Self::info).
    pub fn stats(&self, name: &str) -> Question<ServiceStats> {
        self.all_stats().of(name)
    }

    /// Asks all instances for their figures.
    pub fn all_stats(&self) -> Question<ServiceStats> {
        self.question(QuestionKind::Stats)
    }

    /// Asks all instances for a sign of life. [`Answer::elapsed`] is the time it took.
    pub fn ping(&self) -> Question<Pong> {
        self.question(QuestionKind::Ping)
    }

    /// Asks all instances for their health: whether they consume, and the reasons if they do not.
    pub fn health(&self) -> Question<ServiceHealth> {
        self.question(QuestionKind::Health)
    }

    /// The status of a service over all of its instances: serving, if one of them is; not serving, if there are
    /// some and none is; unknown, if none answers. The name is as for [`info`](Self::info).
    ///
    /// # Errors
    /// As [`Question::stream`].
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future is dropped.
    pub async fn status(&self, name: &str) -> Result<HealthStatus, Error> {
        let answers = self.health().of(name).await?;
        let mut statuses = answers.iter().map(|answer| answer.status);
        Ok(if answers.is_empty() {
            HealthStatus::ServiceUnknown
        } else if statuses.any(|status| status == HealthStatus::Serving) {
            HealthStatus::Serving
        } else {
            HealthStatus::NotServing
        })
    }

    fn question<A>(&self, kind: QuestionKind) -> Question<A> {
        Question {
            discovery: self.clone(),
            kind,
            recipients: Recipients::All,
            expected: None,
            answer: PhantomData,
        }
    }
}

/// A question that is not asked yet: await it for all answers, or ask it with [`stream`](Self::stream).
///
/// Awaiting it gives the answers in the order of their names and instances. It ends 300 ms after the last answer
/// ([`Discovery::quiet`]), when as many answers came as are [expected](Self::expect), or at the
/// [limit](Discovery::limit). An answer that cannot be read is left out, with a warning in the log.
#[must_use = "a question is asked when it is awaited"]
pub struct Question<A> {
    discovery: Discovery,
    kind: QuestionKind,
    recipients: Recipients,
    expected: Option<usize>,
    answer: PhantomData<fn() -> A>,
}

/// Those who are asked.
#[derive(Clone, Debug)]
enum Recipients {
    All,
    /// The instances of what has this name.
    Named(String),
    /// The instance of this id.
    Instance(String),
}

impl<A> Question<A> {
    /// Asks for a service of this name only; if there is none, for a work queue or for the queue of a group.
    pub fn of(mut self, name: &str) -> Self {
        self.recipients = Recipients::Named(name.to_owned());
        self
    }

    /// Asks one instance, by its id.
    pub fn instance(mut self, id: &str) -> Self {
        self.recipients = Recipients::Instance(id.to_owned());
        self
    }

    /// Ends after this many answers. There is one answer for each thing that an instance serves.
    pub fn expect(mut self, answers: usize) -> Self {
        self.expected = Some(answers);
        self
    }
}

#[allow(private_bounds, reason = "the answers are those of this module")]
impl<A: DeserializeOwned + Named + Send + 'static> Question<A> {
    /// Asks, and returns the answers as they come. It ends as awaiting the question does.
    ///
    /// # Errors
    /// [`is_timeout`](Error::is_timeout) or [`is_blocked`](Error::is_blocked) if there was no connection that takes
    /// messages within the limit; the broker refuses the queue for the answers; the connection was closed. If the
    /// exchange does not exist, because nobody has ever served anything, there are no answers, and no error.
    ///
    /// # Cancel safety
    /// Nothing is left behind if the future or the stream is dropped.
    pub async fn stream(self) -> Result<Answers<A>, Error> {
        Error::check_runtime()?;
        let Discovery {
            connection,
            limit,
            quiet,
        } = self.discovery;
        let deadline = clock::deadline(Instant::now(), limit);
        let keys = addresses(&self.recipients);
        let asking = ask(&connection, self.kind, keys, deadline);
        let asked = match timeout_at(deadline, asking).await {
            Ok(asked) => asked?,
            Err(_) => return Err(connection.publishing().timeout_error()),
        };
        Ok(Answers::new(asked, quiet, self.expected))
    }

    async fn collect(self) -> Result<Vec<Answer<A>>, Error> {
        let mut answers = self.stream().await?;
        let mut collected: Vec<Answer<A>> = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => collected.push(answer),
                Err(error) if error.is_decode() => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "answer to a question cannot be read, left out");
                }
                Err(error) => return Err(error),
            }
        }
        collected.sort_by(|a, b| a.names().cmp(&b.names()));
        Ok(collected)
    }
}

#[allow(private_bounds, reason = "the answers are those of this module")]
impl<A: DeserializeOwned + Named + Send + 'static> IntoFuture for Question<A> {
    type Output = Result<Vec<Answer<A>>, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.collect())
    }
}

impl<A> fmt::Debug for Question<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("kind", &self.kind)
            .field("recipients", &self.recipients)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// The exchanges and routing keys by which the recipients are reached. The second is tried if the first reaches
/// nobody.
fn addresses(recipients: &Recipients) -> VecDeque<(&'static str, String)> {
    let on_exchange = |key: String| (CONTROL_EXCHANGE, key);
    match recipients {
        Recipients::All => [on_exchange(envelope::ALL.to_owned())].into(),
        Recipients::Named(name) => {
            let keys = [envelope::service_key(name), envelope::queue_key(name)];
            keys.map(on_exchange).into()
        }
        Recipients::Instance(id) => [("", envelope::control_queue(id))].into(),
    }
}

/// Asks on the first session that takes messages.
async fn ask(
    connection: &Connection,
    kind: QuestionKind,
    addresses: VecDeque<(&'static str, String)>,
    deadline: Instant,
) -> Result<AskedQuestion, Error> {
    loop {
        let session = accepting_session(connection.publishing()).await?;
        match ask_on(connection, &session, kind, addresses.clone(), deadline).await {
            Err(error) if error.is_disconnected() => {}
            result => return result,
        }
    }
}

async fn ask_on(
    connection: &Connection,
    session: &Arc<Session>,
    kind: QuestionKind,
    addresses: VecDeque<(&'static str, String)>,
    deadline: Instant,
) -> Result<AskedQuestion, Error> {
    let namespace = connection.namespace();
    let mut queue = Queue::exclusive(Name::parse(format!("lepus.reply.{}", random::identity()))?);
    // The broker deletes it with its consumer, and does not wait for the end of the connection.
    queue.auto_delete = true;
    let reply_to = namespace.scope(queue.name().as_str());
    link::declare(session, &Topology::queue(queue), namespace).await?;
    let (sender, received) = mpsc::unbounded_channel();
    let replies = Channel::open(session).await?;
    replies.limit_bodies(connection.max_message());
    let mode = ConsumeMode::NoAck(receive(sender.clone()));
    let consumer = Consumer::start(&replies, &reply_to, mode, None).await?;
    let channel = Channel::open(session).await?;
    channel.set_handler(Arc::new(QuestionChannel(sender)));
    let scope = |(exchange, key): (&str, String)| match exchange {
        "" => (String::new(), namespace.scope(&key)),
        exchange => (namespace.scope(exchange), key),
    };
    let mut asked = AskedQuestion {
        kind,
        reply_to,
        correlation_id: random::identity().into_bytes(),
        asker: connection.given_name().map(str::to_owned),
        addresses: addresses.into_iter().map(scope).collect(),
        channel,
        consumer,
        received,
        asked_at: Instant::now(),
        deadline,
    };
    asked.ask_next()?;
    Ok(asked)
}

/// Receives answers on the I/O task.
fn receive(sender: mpsc::UnboundedSender<AskerEvent>) -> DeliveryCallback {
    Arc::new(move |delivery: Delivery| {
        // If nobody waits for answers any more, the queue is about to be deleted.
        let _ = sender.send(AskerEvent::Answer(
            Instant::now(),
            Box::new(delivery.message),
        ));
    })
}

/// Handles the events of the channel that a question is published on.
struct QuestionChannel(mpsc::UnboundedSender<AskerEvent>);

impl ChannelHandler for QuestionChannel {
    fn on_event(&self, event: ChannelEvent) {
        let received = match event {
            ChannelEvent::Returned(_) => AskerEvent::Returned,
            ChannelEvent::Closed(reason) => AskerEvent::Closed(reason),
            ChannelEvent::Confirmed(_) | ChannelEvent::Delivered(_) | ChannelEvent::Cancelled => {
                return;
            }
        };
        // If nobody waits for answers any more, nobody needs to know.
        let _ = self.0.send(received);
    }
}
