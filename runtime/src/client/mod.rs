//! The calling side: what generated stubs are made of.

mod call;
mod caller;
mod flight;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

pub use call::{Call, PendingReply};

use crate::codec::Codec;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Error, Kind};
use crate::link::Connection;
use crate::publisher::{Publisher, UNCONFIRMED};
use crate::service::Service;
use caller::Caller;

/// How long a call may take unless its client, method or call says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const IN_FLIGHT: usize = 10_000;

/// The untyped half of a generated client: where calls go, and their defaults. Cheap to clone.
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
    backend: Backend,
    descriptor: &'static ServiceDescriptor,
    /// The service's queue, by its name on the broker.
    queue: Arc<str>,
    codec: Codec,
    timeout: Option<Duration>,
    in_flight: Arc<Semaphore>,
}

#[derive(Clone)]
enum Backend {
    Remote(Remote),
    Local(Arc<dyn Service>),
}

/// What a call through the broker needs.
#[derive(Clone)]
struct Remote {
    caller: Arc<Caller>,
    connection: Connection,
    publisher: Publisher,
}

impl Client {
    /// A client of a service. All clients of a connection share one reply queue.
    #[must_use]
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        let remote = Remote {
            caller: Caller::of(connection),
            connection: connection.clone(),
            publisher: Publisher::new(connection, UNCONFIRMED),
        };
        let queue = connection.namespace().scope(descriptor.queue_name());
        Self::over(Backend::Remote(remote), descriptor, queue.into())
    }

    /// A client of an implementation in this process: no broker, the same stub, encoding and
    /// decoding included.
    #[must_use]
    pub fn local(service: impl Service) -> Self {
        let descriptor = service.descriptor();
        let queue = descriptor.queue_name().into();
        Self::over(Backend::Local(Arc::new(service)), descriptor, queue)
    }

    fn over(backend: Backend, descriptor: &'static ServiceDescriptor, queue: Arc<str>) -> Self {
        Self {
            backend,
            descriptor,
            queue,
            codec: descriptor.default_codec(),
            timeout: None,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    /// How long a call may take, where neither its method nor the call itself says otherwise.
    /// Default [`DEFAULT_TIMEOUT`], 10 s.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How arguments are encoded, if not as the service says. Every server understands both
    /// MessagePack and JSON.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// How many calls of this client and its clones may be in flight; further ones wait, within
    /// their deadlines. Default 10,000.
    #[must_use]
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.in_flight = Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)));
        self
    }

    /// Where a method's requests go, by its name on the broker.
    fn queue_of(&self, method: &MethodDescriptor) -> Arc<str> {
        match (method.own_queue(), &self.backend) {
            (None, _) => Arc::clone(&self.queue),
            (Some(own), Backend::Remote(remote)) => remote.connection.namespace().scope(own).into(),
            (Some(own), Backend::Local(_)) => own.into(),
        }
    }

    /// Prepares a call; awaiting it makes it.
    pub fn call<A, T, E>(&self, method: &'static MethodDescriptor, arguments: &A) -> Call<T, E>
    where
        A: Serialize + ?Sized,
        T: DeserializeOwned,
        E: DeserializeOwned,
    {
        let body = self.codec.encode(arguments);
        let body = body.map_err(|error| Error::new(Kind::Encode).caused_by(error));
        Call::new(self.clone(), method, body)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &self.descriptor.name())
            .finish_non_exhaustive()
    }
}
