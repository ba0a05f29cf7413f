//! Builder of clients: the options that a client has from its start.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::broker::BrokerBackend;
use super::coalesce::Coalescer;
use super::handle::{Backend, Client};
use super::options::Absence;
use crate::descriptor::ServiceDescriptor;
use crate::link::Connection;
use crate::service::{DynService, Service};
use crate::wire::batch;
use crate::wire::codec::Codec;

/// The default of [`ClientBuilder::max_in_flight`].
const MAX_IN_FLIGHT: usize = 10_000;

/// The options of a client, which is made by [`build`](Self::build).
///
/// `C` is the client's type: a generated one, or the untyped [`Client`].
///
/// ```no_run
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::CallError> {
/// use std::time::Duration;
///
/// let calculator = CalculatorClient::builder(&connection)
///     .timeout(Duration::from_secs(2))
///     .max_in_flight(100)
///     .build();
/// println!("{}", calculator.fib(30).await?);
/// # Ok(())
/// # }
/// ```
#[must_use = "a client is made by `build`"]
pub struct ClientBuilder<C = Client> {
    target: ClientTarget,
    timeout: Option<Duration>,
    fail_fast: Option<Absence>,
    codec: Option<Codec>,
    max_in_flight: usize,
    is_stamped: bool,
    /// The most calls of a batch; with 0 or 1, calls are not batched.
    max_batch: usize,
    /// Puts the layers around the client.
    layers: Option<Layers>,
    client: PhantomData<fn() -> C>,
}

type Layers = Box<dyn FnOnce(DynService) -> DynService + Send>;

/// The service that the client calls.
enum ClientTarget {
    Broker(Connection, &'static ServiceDescriptor),
    Local(Arc<dyn Service>),
}

impl Client {
    /// A client of a service. All clients of a connection share one reply queue.
    #[must_use]
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self::builder(connection, descriptor).build()
    }

    /// A builder for a client of a service, to set its options.
    pub fn builder(
        connection: &Connection,
        descriptor: &'static ServiceDescriptor,
    ) -> ClientBuilder {
        ClientBuilder::new(connection, descriptor)
    }

    /// A client of an implementation in this process, without a broker. Arguments and replies are encoded
    /// and decoded as they are over a broker. Its options are those of [`ClientBuilder::local`].
    #[must_use]
    pub fn local(service: impl Service) -> Self {
        ClientBuilder::local(service).build()
    }
}

impl<C: From<Client>> ClientBuilder<C> {
    /// A builder for a client of a service over a connection. A generated client has its own `builder`, which
    /// knows the descriptor.
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        Self::with_target(ClientTarget::Broker(connection.clone(), descriptor))
    }

    /// A builder for a client of an implementation in this process, without a broker. Arguments and replies
    /// are encoded and decoded as they are over a broker.
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
    /// use lepus::{Codec, rpc::ClientBuilder};
    ///
    /// let service = CalculatorServer::new(CalculatorService);
    /// let calculator: CalculatorClient = ClientBuilder::local(service).codec(Codec::Json).build();
    /// # let _ = calculator;
    /// ```
    pub fn local(service: impl Service) -> Self {
        Self::with_target(ClientTarget::Local(Arc::new(service)))
    }

    fn with_target(target: ClientTarget) -> Self {
        Self {
            target,
            timeout: None,
            fail_fast: None,
            codec: None,
            max_in_flight: MAX_IN_FLIGHT,
            is_stamped: false,
            max_batch: 0,
            layers: None,
            client: PhantomData,
        }
    }

    /// Sets the timeout of calls for which neither the method nor the call itself sets one. Default
    /// [`DEFAULT_TIMEOUT`](crate::rpc::DEFAULT_TIMEOUT), 10 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Makes calls fail at once if nobody can take them, instead of at their deadlines: with
    /// [`is_unserved`](crate::Error::is_unserved) if no server consumes the queue, and with
    /// [`is_rejected`](crate::Error::is_rejected) (`resource_exhausted`) if the queue is full, where the service has
    /// declared it with a [limit](crate::amqp::QueueOptions::max_length). By default a request waits in the queue for
    /// a server until its deadline, which is what a restart of the servers needs.
    ///
    /// Before it sends a request, the client asks the broker how many consumers the queue has (a passive
    /// `queue.declare` on a channel of its own): at most once a second for each queue, for all calls of the connection.
    /// So a call that is made within a second after the last server ended may still wait until its deadline. A request
    /// is sent with a publisher confirm and in a message of its own, which costs the broker a little, and
    /// [`coalesce`](Self::coalesce) has no effect. If the user may not ask for the queue, calls are sent as usual.
    ///
    /// [`Call::fail_fast`](crate::Call::fail_fast) is for one call, and `#[rpc(require_consumer)]` for a method. No
    /// effect on a local client.
    ///
    /// ```no_run
    /// # #[lepus::service]
    /// # trait Calculator {
    /// #     async fn fib(&self, n: u64) -> u64;
    /// # }
    /// # async fn example(connection: lepus::Connection) {
    /// let calculator = CalculatorClient::builder(&connection).fail_fast().build();
    /// match calculator.fib(30).await {
    ///     Err(error) if error.is_unserved() => println!("nobody is there: {error}"),
    ///     Err(error) if error.is_rejected() => println!("too many wait already: {error}"),
    ///     result => println!("{result:?}"),
    /// }
    /// # }
    /// ```
    pub fn fail_fast(self) -> Self {
        self.fail_fast_after(Duration::ZERO)
    }

    /// As [`fail_fast`](Self::fail_fast), but an absence of consumers that is shorter than this does not count, as
    /// that of a restart. A call that finds no consumer waits, and is sent when there is one, a second after that at
    /// the latest. It fails when this connection has seen none for so long.
    pub fn fail_fast_after(mut self, absence: Duration) -> Self {
        self.fail_fast = Some(Absence::of(absence));
        self
    }

    /// Sets the codec of arguments, instead of the service's. Every server understands MessagePack and
    /// JSON.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Sets how many calls of this client and its clones may be in flight. Further calls wait, at most until
    /// their deadlines. Default 10,000; 0 counts as 1.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// Sends calls that are made at the same time as one message, a batch of up to this many calls. With
    /// many calls in flight, the broker has far less to do for each. The maximum is 4096; with 0 or 1, the
    /// default, each call has a message of its own.
    ///
    /// There is no timer: a batch is sent as soon as no other task is about to add a call, and the batch
    /// before it is written to the socket. Deadlines, errors, `idempotent` and dropping apply to each call
    /// of a batch. One server gets the whole batch, runs as many of its calls at once as its concurrency
    /// permits, and acknowledges the batch when all are done. So a pool of servers shares the load in
    /// larger portions, and more calls are redelivered if a server dies.
    ///
    /// Headers and the trace of a call travel with it in the batch. A call is sent in a message of its own if
    /// it has more than 16 KiB of arguments and headers or a header on which RabbitMQ acts (`CC`, `BCC`), if
    /// its method is `oneway` or `at_most_once` or has a queue of its own, and until a reply has told that
    /// the service's servers accept batches. Lepus's servers do; the calls until then ask with the header
    /// `rpc-accept`. If a server of an earlier version refuses a batch, its calls are sent one by one, and so
    /// are all others for a minute. Calls of different priority, codec or time left are not put into the
    /// same batch.
    ///
    /// No effect on a local client.
    pub fn coalesce(mut self, calls: usize) -> Self {
        self.max_batch = calls;
        self
    }

    /// Has each request tell the time at which it is sent, so that its server knows how long it waited in the queue:
    /// [`MethodStats::queue_wait`](crate::amqp::MethodStats::queue_wait), and the metric `lepus.queue.wait`.
    ///
    /// The time is in the header `timestamp_in_ms`, in milliseconds since the Unix epoch, by the clock of this machine;
    /// the server compares it with its own clock, and takes a time ahead of that for no wait. A request that is sent
    /// again tells the later time, and calls that share a message tell that of the message. A header of this name that
    /// the call has set itself is left as it is. It is of no use where the broker stamps messages
    /// (`message_interceptors.incoming.set_header_timestamp`), and costs what a header costs
    /// ([`Call::header`](crate::Call::header)).
    ///
    /// Default: requests do not tell it. No effect on a local client.
    ///
    /// ```no_run
    /// # #[lepus::service]
    /// # trait Calculator {
    /// #     async fn fib(&self, n: u64) -> u64;
    /// # }
    /// # fn example(connection: &lepus::Connection) {
    /// let calculator = CalculatorClient::builder(connection).stamp().build();
    /// # let _ = calculator;
    /// # }
    /// ```
    pub fn stamp(mut self) -> Self {
        self.is_stamped = true;
        self
    }

    /// Puts a layer around the calls of this client ([`middleware`](crate::middleware)). It is put around the
    /// layers that were added before, so that the last one sees a call first; of a tuple of layers,
    /// the first one does.
    ///
    /// A layer sees a call as a [`Request`](crate::rpc::Request) with its headers and its deadline, and the outcome
    /// as a [`Reply`](crate::rpc::Reply). An idempotent call that is sent again is one call. A layer may change the
    /// headers, or answer the call itself, as a mock or a cache does. If the layers take longer than the
    /// call's deadline, the call fails with [`is_timeout`](crate::Error::is_timeout).
    ///
    /// [`Call::send`](crate::Call::send) does not wait until the request is sent if there are layers.
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
    /// use lepus::rpc::ClientBuilder;
    /// use lepus::middleware::{Next, from_fn};
    ///
    /// let token = from_fn(async |request: lepus::rpc::Request, next: Next| {
    ///     next.run(request.with_header("authorization", "Bearer carrot")).await
    /// });
    /// # let calculator = CalculatorServer::new(CalculatorService);
    /// # let builder = ClientBuilder::<CalculatorClient>::local(calculator);
    /// // `CalculatorClient::builder(&connection)`, or `ClientBuilder::local(service)`.
    /// let calculator = builder.layer(token).build();
    /// assert_eq!(calculator.fib(30).await?, 30);
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<DynService> + Send + 'static,
        L::Service: Service,
    {
        let inner = self.layers.take();
        self.layers = Some(Box::new(move |service| {
            let service = match inner {
                Some(layers) => layers(service),
                None => service,
            };
            Arc::new(layer.layer(service))
        }));
        self
    }

    /// Makes the client. Nothing is sent, and no connection is opened.
    #[must_use]
    pub fn build(self) -> C {
        let (backend, descriptor, queue) = match self.target {
            ClientTarget::Broker(connection, descriptor) => {
                let queue = connection.namespace().scope(descriptor.queue_name());
                let max_calls = self.max_batch.min(batch::MAX_BATCH);
                let coalescer = (max_calls > 1).then(|| {
                    let app_id = connection.given_name().map(str::to_owned);
                    Arc::new(Coalescer::start(max_calls, app_id, connection.tasks()))
                });
                let backend = BrokerBackend::new(&connection, coalescer);
                (Backend::Broker(Arc::new(backend)), descriptor, queue)
            }
            ClientTarget::Local(service) => {
                let descriptor = service.descriptor();
                let queue = descriptor.queue_name().to_owned();
                (Backend::Local(service), descriptor, queue)
            }
        };
        let codec = self.codec.unwrap_or(descriptor.default_codec());
        let service = (descriptor, queue.into());
        let limits = (self.timeout, self.fail_fast);
        let others = (self.max_in_flight, self.is_stamped);
        let client = Client::with_options(backend, service, codec, limits, others);
        C::from(match self.layers {
            Some(layers) => client.with_layers(layers),
            None => client,
        })
    }
}

impl<C> fmt::Debug for ClientBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let descriptor = match &self.target {
            ClientTarget::Broker(_, descriptor) => descriptor,
            ClientTarget::Local(service) => service.descriptor(),
        };
        f.debug_struct("ClientBuilder")
            .field("service", &descriptor.name())
            .field("timeout", &self.timeout)
            .field("codec", &self.codec)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_batch", &self.max_batch)
            .field("is_stamped", &self.is_stamped)
            .finish_non_exhaustive()
    }
}
