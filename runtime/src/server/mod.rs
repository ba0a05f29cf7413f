//! The serving side: services on their queues, until shutdown.

mod dispatch;
mod in_doubt;
mod limits;
mod several;

use std::sync::Arc;
use std::time::Duration;

use crate::descriptor::ServiceDescriptor;
use crate::error::Error;
use crate::link::Connection;
use crate::running::Running;
use crate::service::Service;
use crate::shutdown::GRACE;
use crate::wire::name::Name;
use crate::wire::topology::{Queue, QueueKind, Topology};
use crate::worker::{OnLoss, Source, Worker};
use dispatch::Dispatcher;

/// Serves services from their queues.
///
/// ```no_run
/// # async fn example() -> Result<(), lepus::Error> {
/// #[lepus::service]
/// trait Calculator {
///     async fn fib(&self, n: u64) -> u64;
/// }
///
/// struct Pocket;
///
/// impl Calculator for Pocket {
///     async fn fib(&self, n: u64) -> u64 {
///         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
///     }
/// }
///
/// let connection = lepus::Connection::open("amqp://localhost").await?;
/// lepus::Server::new(&connection)
///     .serve(CalculatorServer::new(Pocket))
///     .run(lepus::shutdown_signal())
///     .await
/// # }
/// ```
#[must_use = "a server serves when it is run"]
#[derive(Debug)]
pub struct Server {
    connection: Connection,
    services: Vec<Served>,
    grace: Duration,
    options: Options,
}

/// What holds for all services.
#[derive(Clone, Debug, Default)]
struct Options {
    /// Prefixes of the queues that replies may go to; empty for all.
    reply_to: Vec<String>,
    tells_panics: bool,
}

/// A service with its options.
struct Served {
    service: Arc<dyn Service>,
    concurrency: u16,
    queue: Option<Queue>,
    passive: bool,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.service.descriptor().name();
        f.debug_struct("Served")
            .field("service", &name)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server that serves nothing yet.
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            services: Vec::new(),
            grace: GRACE,
            options: Options::default(),
        }
    }

    /// Adds a service. Each has its own channel; the options that follow are for the one added
    /// last.
    pub fn serve(mut self, service: impl Service) -> Self {
        self.services.push(Served {
            service: Arc::new(service),
            concurrency: 1,
            queue: None,
            passive: false,
        });
        self
    }

    /// How many requests of the service added last are handled at once. This is the channel's
    /// prefetch (`basic.qos`): with the default of 1, a busy server gets no further request while
    /// another one is idle. At most 65,535; 0 counts as 1.
    pub fn concurrency(self, requests: u16) -> Self {
        self.option(|served| served.concurrency = requests.max(1))
    }

    /// The queue of the service added last, if it is to be declared otherwise than durable and
    /// classic. It keeps its own name; clients publish to the one the service's attribute says.
    pub fn queue(self, queue: Queue) -> Self {
        self.option(|served| served.queue = Some(queue))
    }

    /// The queues of the service added last must be there already: nothing is declared.
    pub fn passive(self) -> Self {
        self.option(|served| served.passive = true)
    }

    /// How long a shutdown waits for the requests in hand. Default 30 s; what is not done by then
    /// goes back to its queue.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.grace = limit;
        self
    }

    /// Answers only to queues whose name begins so, as `reply_to` has it on the wire: with the
    /// namespace. May be called several times; a request whose reply would go elsewhere is
    /// acknowledged, not run and not answered, and counted as malformed, with a WARN. (A one-way
    /// method is run: it has no reply.)
    ///
    /// Without it replies go to any queue that a request names: whoever may publish to the service's
    /// queue can have it publish to each queue of the virtual host. The replies of Lepus clients go to
    /// `lepus.reply.…`, after their namespace and a dot.
    ///
    /// Direct reply-to (`amq.rabbitmq.reply-to.…`) is refused on RabbitMQ before 4.0 unless a prefix
    /// here begins with `amq.rabbitmq.reply-to`: there, an address that somebody has made up ends the
    /// connection of the server that answers it. Where it is allowed, name the other prefixes as well,
    /// or the empty one for all other queues.
    pub fn allow_reply_to(mut self, prefix: &str) -> Self {
        self.options.reply_to.push(prefix.to_owned());
        self
    }

    /// Whether a caller whose handler panicked is told the panic's text. Default false: it gets an
    /// `internal` status that names the method, and the text is in the log alone, at ERROR, for it may
    /// say what is not for everybody.
    pub fn tell_panics(mut self, told: bool) -> Self {
        self.options.tells_panics = told;
        self
    }

    fn option(mut self, set: impl FnOnce(&mut Served)) -> Self {
        if let Some(served) = self.services.last_mut() {
            set(served);
        }
        self
    }

    /// Starts consuming: when it returns, requests are taken.
    ///
    /// # Errors
    /// The broker refuses a queue: it exists with other properties
    /// ([`is_mismatch`](Error::is_mismatch) names the argument and both values), is exclusive to
    /// another connection, or is not for this user. Nothing is served then. Also when two methods
    /// or queues make no sense ([`is_invalid`](Error::is_invalid)), and when the connection was
    /// closed. A broker that is away is waited for.
    pub async fn start(self) -> Result<Running, Error> {
        if self.services.is_empty() {
            return Err(Error::invalid(
                "a server without services: add one with `serve`",
            ));
        }
        let mut workers = Vec::new();
        for served in &self.services {
            for (queue, default) in queues(served)? {
                let service = Arc::clone(&served.service);
                let from = (queue.name().as_str(), default);
                let limits = (served.concurrency, self.options.clone());
                let dispatcher = Dispatcher::new(&self.connection, service, from, limits);
                let source = Source {
                    queue: queue.name().to_string(),
                    topology: Topology::queue(queue),
                    concurrency: served.concurrency,
                    grace: self.grace,
                    max_body: self.connection.max_message(),
                    on_loss: OnLoss::Drop,
                };
                workers.push((Worker::start(&self.connection, source).await?, dispatcher));
            }
        }
        let mut running = Running::new();
        for (worker, dispatcher) in workers {
            running.add(worker, Arc::new(dispatcher), self.connection.tasks());
        }
        Ok(running)
    }

    /// Serves until `shutdown` completes, then drains: stops consuming, finishes and answers what
    /// is in hand within the grace period, gives the rest back.
    ///
    /// # Errors
    /// As [`start`](Self::start); and that the connection was closed while it served.
    ///
    /// Dropping the future stops serving at once: what is in hand goes back to its queue.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        Running::run(self.start(), shutdown).await
    }
}

/// The queues a service listens on: its own, and one for each method that has its own. Only the
/// first takes requests that name no method.
fn queues(served: &Served) -> Result<Vec<(Queue, dispatch::Unnamed)>, Error> {
    let descriptor = served.service.descriptor();
    let main = match &served.queue {
        Some(queue) => queue.clone(),
        None => plain(descriptor, descriptor.queue_name())?,
    };
    let mut queues = vec![(main, dispatch::Unnamed::Default)];
    for method in descriptor.methods() {
        if let Some(name) = method.own_queue() {
            let only = dispatch::Unnamed::Method(method);
            queues.push((plain(descriptor, name)?, only));
        }
    }
    if served.passive {
        queues = queues
            .into_iter()
            .map(|(queue, unnamed)| (queue.passive(), unnamed))
            .collect();
    }
    Ok(queues)
}

fn plain(descriptor: &ServiceDescriptor, name: &str) -> Result<Queue, Error> {
    let queue = Queue::new(Name::parse(name)?);
    Ok(match (descriptor.is_quorum(), descriptor.is_durable()) {
        (true, _) => queue.kind(QueueKind::Quorum),
        (false, true) => queue,
        (false, false) => queue.transient(),
    })
}
