//! RPC servers: services that consume requests from their queues, and reply to them, until shutdown.

mod batch;
mod dispatch;
mod execution;
mod limits;
mod method_meters;
mod method_table;
mod open_stream;
mod refused;
mod reply;
mod sent_replies;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::control::{self, Served};
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::Error;
use crate::link::Connection;
use crate::service::{Service, ServiceOptions};
use crate::shutdown::GRACE;
use crate::wire::name::Name;
use crate::wire::topology::{Queue, QueueKind, Topology};
use crate::worker::Running;
use crate::worker::{OnLoss, Source, Worker};
use dispatch::{Dispatcher, ServerOptions, StreamPermits};
pub(crate) use method_meters::MethodMeters;
pub(crate) use method_table::MethodTable;

/// A server: consumes requests from the queues of its services, and replies to them.
///
/// ```no_run
/// # async fn example() -> Result<(), lepus::Error> {
/// #[lepus::service]
/// trait Calculator {
///     async fn fib(&self, n: u64) -> u64;
/// }
///
/// struct CalculatorService;
///
/// impl Calculator for CalculatorService {
///     async fn fib(&self, n: u64) -> u64 {
///         (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
///     }
/// }
///
/// let connection = lepus::Connection::open("amqp://localhost").await?;
/// lepus::Server::new(&connection)
///     // With the options of this service. Further services are added in the same way.
///     .serve(CalculatorServer::new(CalculatorService).concurrency(4))
///     .run(lepus::shutdown_signal())
///     .await
/// # }
/// ```
#[must_use = "a server serves when it is run"]
pub struct Server {
    connection: Connection,
    services: Vec<Arc<dyn Service>>,
    grace: Duration,
    options: ServerOptions,
}

impl Server {
    /// A server without services.
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            services: Vec::new(),
            grace: GRACE,
            options: ServerOptions::default(),
        }
    }

    /// Adds a service, which has a channel of its own. Its options are set on the service itself
    /// ([`ServiceOptions`](crate::rpc::ServiceOptions)).
    pub fn serve(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Sets the longest time that a shutdown waits for running handlers. Default 30 s. Requests that are not
    /// answered by then go back to their queue.
    pub fn grace(mut self, limit: Duration) -> Self {
        self.grace = limit;
        self
    }

    /// Allows replies to queues whose name begins with `prefix`, and no longer to all queues. The name is
    /// that of `reply_to` on the wire, with the namespace. Call this several times for several prefixes. A
    /// request that names another queue is acknowledged without being run or answered, counted as
    /// malformed, and logged at WARN. A one-way method is run, because it has no reply.
    ///
    /// Without this option, replies are sent to any queue that a request names. Then every user who may
    /// publish to the service's queue can make the server publish to each queue of the virtual host. Lepus
    /// clients receive replies on `lepus.reply.…`, after their namespace and a dot.
    ///
    /// On RabbitMQ before 4.0, replies to direct reply-to (`amq.rabbitmq.reply-to.…`) are not allowed unless
    /// a prefix begins with `amq.rabbitmq.reply-to`: such a broker closes the server's connection over a
    /// reply to an address that does not exist, and any client can make one up. If you allow it, also name
    /// the other prefixes, or the empty one for all other queues.
    pub fn allow_reply_to(mut self, prefix: &str) -> Self {
        self.options.reply_to.push(prefix.to_owned());
        self
    }

    /// Sets whether the reply of a handler that panicked contains the panic's text. Default false: the reply
    /// is an `internal` status that names the method, and the text is only logged, at ERROR, because it may
    /// contain data that the caller must not see.
    pub fn tell_panics(mut self, told: bool) -> Self {
        self.options.tells_panics = told;
        self
    }

    /// Sets how many streams may be open at once, of all services of this server together. Default 64. A request for
    /// a further one is refused with `resource_exhausted`.
    ///
    /// A stream does not count towards the [concurrency](crate::rpc::ServiceOptions::concurrency) of its service: its
    /// request is acknowledged when the stream begins, and its handler runs beside those of other requests. So a
    /// stream whose reader is slow, or quiet, holds up no other request.
    ///
    /// ```no_run
    /// # #[lepus::service]
    /// # trait Calculator {
    /// #     async fn fib(&self, n: u64) -> u64;
    /// # }
    /// # async fn example(
    /// #     connection: lepus::Connection,
    /// #     service: impl lepus::rpc::Service,
    /// # ) -> Result<(), lepus::Error> {
    /// lepus::Server::new(&connection)
    ///     .serve(service)
    ///     .streams(1000)
    ///     .run(lepus::shutdown_signal())
    ///     .await
    /// # }
    /// ```
    pub fn streams(mut self, streams: usize) -> Self {
        self.options.streams = StreamPermits::new(streams);
        self
    }

    /// Starts consuming. When this returns, requests are delivered.
    ///
    /// # Errors
    /// - The broker refuses a queue: it exists with other properties
    ///   ([`is_mismatch`](Error::is_mismatch); the message names the argument and both values), it is
    ///   exclusive to another connection, or the user has no permission. No service is started then.
    /// - A queue's name is not valid, a quorum queue is to be transient, or no service was added
    ///   ([`is_invalid`](Error::is_invalid)).
    /// - The connection was closed. If the broker cannot be reached, this waits for it.
    pub async fn start(self) -> Result<Running, Error> {
        if self.services.is_empty() {
            return Err(Error::invalid(
                "a server without services: add one with `serve`",
            ));
        }
        let mut started = Vec::new();
        for service in &self.services {
            let (mut workers, mut declared) = (Vec::new(), Topology::default());
            let options = service.options();
            for (queue, default) in queues(service.descriptor(), &options)? {
                let name = queue.name.to_string();
                let from = (name.as_str(), default);
                let limits = (options.concurrency, self.options.clone());
                let service = Arc::clone(service);
                let dispatcher = Dispatcher::new(&self.connection, service, from, limits);
                let topology = Topology::queue(queue);
                declared.queues.extend_from_slice(&topology.queues);
                let source = Source {
                    queue: name,
                    topology,
                    concurrency: options.concurrency,
                    grace: self.grace,
                    max_body: self.connection.max_message(),
                    on_loss: OnLoss::Drop,
                };
                workers.push((Worker::start(&self.connection, source).await?, dispatcher));
            }
            started.push((service.descriptor(), workers, declared));
        }
        let mut running = Running::new();
        for (descriptor, workers, declared) in started {
            let views: Vec<_> = workers.iter().map(|(worker, _)| worker.view()).collect();
            for (worker, dispatcher) in workers {
                running.add(worker, Arc::new(dispatcher), self.connection.tasks());
            }
            let served = Served::service(&self.connection, descriptor, &views);
            let served = served.declared_by(&declared);
            control::announce(&self.connection, &mut running, served)?;
        }
        Ok(running)
    }

    /// Serves until `shutdown` completes, then drains: it stops consuming, lets running handlers finish and
    /// reply within the grace period, and requeues the other requests.
    ///
    /// # Errors
    /// As [`start`](Self::start); and the connection was closed while it served.
    ///
    /// # Cancel safety
    /// Dropping the future stops serving at once. Requests that are not answered go back to their queue.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        Running::run(self.start(), shutdown).await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.services.iter();
        let services: Vec<_> = services
            .map(|service| service.descriptor().name())
            .collect();
        f.debug_struct("Server")
            .field("connection", &self.connection)
            .field("services", &services)
            .field("grace", &self.grace)
            .field("options", &self.options)
            .finish()
    }
}

/// The queues of a service: its own, and one for each method that has its own. Each with the method that
/// requests without a `type` are for.
fn queues(
    descriptor: &'static ServiceDescriptor,
    options: &ServiceOptions,
) -> Result<Vec<(Queue, Option<&'static MethodDescriptor>)>, Error> {
    let main = (descriptor.queue_name(), descriptor.default_target());
    let methods = descriptor.methods().iter();
    let own = methods.filter_map(|method| Some((method.own_queue()?, Some(method))));
    [main]
        .into_iter()
        .chain(own)
        .map(|(name, default)| Ok((queue(descriptor, options, name)?, default)))
        .collect()
}

/// A queue with the properties that the service's attribute and its options give.
fn queue(
    descriptor: &ServiceDescriptor,
    options: &ServiceOptions,
    name: &str,
) -> Result<Queue, Error> {
    let queue = Queue::new(Name::parse(name)?);
    if options.is_passive {
        return Ok(queue.passive());
    }
    let queue = match (descriptor.is_quorum(), descriptor.is_durable()) {
        (true, _) => queue.kind(QueueKind::Quorum),
        (false, true) => queue,
        (false, false) => queue.transient(),
    };
    let queue = queue.with(options.queue.clone());
    if queue.is_transient_quorum() {
        return Err(Error::invalid(format!(
            "queue `{name}`: a quorum queue is durable, so it cannot be transient"
        )));
    }
    Ok(queue)
}
