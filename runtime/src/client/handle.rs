//! Clients: the queue and the options of their calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::broker::BrokerBackend;
use super::coalesce::Coalescer;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::link::Connection;
use crate::service::Service;
use crate::wire::batch;
use crate::wire::codec::Codec;

/// The timeout of a call, unless it is set on the call, its method or its client.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of [`Client::max_in_flight`].
const MAX_IN_FLIGHT: usize = 10_000;

/// The untyped part of a generated client: the queue that its calls go to, and their defaults. Cheap to
/// clone.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) {
/// #[lepus::service]
/// trait Calculator {
///     async fn fib(&self, n: u64) -> u64;
/// }
///
/// use std::time::Duration;
/// let client = lepus::Client::new(&connection, CalculatorClient::DESCRIPTOR)
///     .timeout(Duration::from_secs(2))
///     .max_in_flight(100);
/// let calculator = CalculatorClient::with_client(client);
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

/// Shared by a client and its clones. Setting an option on one of them gives it its own copy.
#[derive(Clone)]
pub(super) struct Inner {
    pub(super) backend: Backend,
    pub(super) descriptor: &'static ServiceDescriptor,
    /// The service's queue, by its name on the broker.
    pub(super) queue: Arc<str>,
    pub(super) codec: Codec,
    pub(super) timeout: Option<Duration>,
    pub(super) in_flight: Arc<Semaphore>,
}

#[derive(Clone)]
pub(super) enum Backend {
    Broker(Arc<BrokerBackend>),
    Local(Arc<dyn Service>),
}

/// A permit for one call in flight, which is given back when it is dropped.
///
/// It holds the client instead of an `OwnedSemaphorePermit`, which would clone the semaphore's `Arc` for
/// each call.
pub(super) struct InFlightPermit {
    pub(super) client: Client,
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.client.inner.in_flight.add_permits(1);
    }
}

impl Client {
    /// A client of a service. All clients of a connection share one reply queue.
    #[must_use]
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        let backend = Backend::Broker(Arc::new(BrokerBackend::new(connection)));
        let queue = connection.namespace().scope(descriptor.queue_name());
        Self::with_backend(backend, descriptor, queue.into())
    }

    /// A client of an implementation in this process, without a broker. Arguments and replies are encoded
    /// and decoded as they are over a broker.
    #[must_use]
    pub fn local(service: impl Service) -> Self {
        let descriptor = service.descriptor();
        let queue = descriptor.queue_name().into();
        Self::with_backend(Backend::Local(Arc::new(service)), descriptor, queue)
    }

    fn with_backend(
        backend: Backend,
        descriptor: &'static ServiceDescriptor,
        queue: Arc<str>,
    ) -> Self {
        let inner = Inner {
            backend,
            descriptor,
            queue,
            codec: descriptor.default_codec(),
            timeout: None,
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Inner)) -> Self {
        set(Arc::make_mut(&mut self.inner));
        self
    }

    /// Sets the timeout of calls for which neither the method nor the call itself sets one. Default
    /// [`DEFAULT_TIMEOUT`], 10 s.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|inner| inner.timeout = Some(limit))
    }

    /// Sets the codec of arguments, instead of the service's. Every server understands MessagePack and
    /// JSON.
    #[must_use]
    pub fn codec(self, codec: Codec) -> Self {
        self.set(|inner| inner.codec = codec)
    }

    /// Sets how many calls of this client and its clones may be in flight. Further calls wait, at most until
    /// their deadlines. Default 10,000.
    #[must_use]
    pub fn max_in_flight(self, calls: usize) -> Self {
        let permits = Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)));
        self.set(|inner| inner.in_flight = permits)
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
    /// it has more than 16 KiB of arguments and headers, if its method is `oneway` or `at_most_once` or has
    /// a queue of its own, and until a reply has told that the service's servers accept batches. Lepus's servers do; the calls until then ask
    /// with the header `rpc-accept`. If a server of an earlier version refuses a batch, its calls are sent
    /// one by one, and so are all others for a minute. Calls of different priority, codec or time left are
    /// not put into the same batch.
    ///
    /// No effect on a local client.
    #[must_use]
    pub fn coalesce(self, calls: usize) -> Self {
        self.set(|inner| {
            if let Backend::Broker(backend) = &mut inner.backend {
                let (backend, max_calls) = (Arc::make_mut(backend), calls.min(batch::MAX_BATCH));
                backend.coalescer = (max_calls > 1).then(|| {
                    let app_id = backend.connection.given_name().map(str::to_owned);
                    let tasks = backend.connection.tasks();
                    Arc::new(Coalescer::start(max_calls, app_id, tasks))
                });
            }
        })
    }

    /// The queue that a method's requests are published to, by its name on the broker.
    pub(super) fn queue_of(&self, method: &MethodDescriptor) -> Arc<str> {
        match (method.own_queue(), &self.inner.backend) {
            (None, _) => Arc::clone(&self.inner.queue),
            (Some(own), Backend::Broker(backend)) => {
                backend.connection.namespace().scope(own).into()
            }
            (Some(own), Backend::Local(_)) => own.into(),
        }
    }

    /// A permit for a call in flight, if one is free; otherwise the client itself.
    pub(super) fn try_permit(self) -> Result<InFlightPermit, Self> {
        let free = self.inner.in_flight.try_acquire();
        if free.map(|permit| permit.forget()).is_err() {
            return Err(self);
        }
        Ok(InFlightPermit { client: self })
    }

    /// A permit for a call in flight, once one is free.
    pub(super) async fn permit(self) -> Option<InFlightPermit> {
        self.inner.in_flight.acquire().await.ok()?.forget();
        Some(InFlightPermit { client: self })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &self.inner.descriptor.name())
            .finish_non_exhaustive()
    }
}
