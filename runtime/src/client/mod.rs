//! The calling side: what generated stubs are made of.

mod call;
mod caller;
mod coalesce;
mod flight;
mod letter;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

pub use call::{Call, PendingReply};

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::{Error, Kind};
use crate::link::Connection;
use crate::publish::{MAX_UNCONFIRMED, Publisher};
use crate::service::Service;
use crate::wire::batch;
use crate::wire::codec::Codec;
use caller::Caller;
use coalesce::Coalescer;

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
    inner: Arc<Inner>,
}

/// What a client and its clones share until one of them is set differently.
#[derive(Clone)]
struct Inner {
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
    Remote(Arc<Remote>),
    Local(Arc<dyn Service>),
}

/// What a call through the broker needs.
#[derive(Clone)]
struct Remote {
    caller: Arc<Caller>,
    connection: Connection,
    publisher: Publisher,
    coalescer: Option<Arc<Coalescer>>,
}

/// A place among a client's calls in flight, for as long as it is held.
struct Place {
    client: Client,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.client.inner.in_flight.add_permits(1);
    }
}

impl Client {
    /// A client of a service. All clients of a connection share one reply queue.
    #[must_use]
    pub fn new(connection: &Connection, descriptor: &'static ServiceDescriptor) -> Self {
        let remote = Remote {
            caller: Caller::of(connection),
            connection: connection.clone(),
            publisher: Publisher::new(connection, MAX_UNCONFIRMED),
            coalescer: None,
        };
        let queue = connection.namespace().scope(descriptor.queue_name());
        Self::over(Backend::Remote(Arc::new(remote)), descriptor, queue.into())
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
        let inner = Inner {
            backend,
            descriptor,
            queue,
            codec: descriptor.default_codec(),
            timeout: None,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn with(mut self, set: impl FnOnce(&mut Inner)) -> Self {
        set(Arc::make_mut(&mut self.inner));
        self
    }

    /// How long a call may take, where neither its method nor the call itself says otherwise.
    /// Default [`DEFAULT_TIMEOUT`], 10 s.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.timeout = Some(limit))
    }

    /// How arguments are encoded, if not as the service says. Every server understands both
    /// MessagePack and JSON.
    #[must_use]
    pub fn codec(self, codec: Codec) -> Self {
        self.with(|inner| inner.codec = codec)
    }

    /// How many calls of this client and its clones may be in flight; further ones wait, within
    /// their deadlines. Default 10,000.
    #[must_use]
    pub fn max_in_flight(self, calls: usize) -> Self {
        let places = Arc::new(Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS)));
        self.with(|inner| inner.in_flight = places)
    }

    /// Lets calls that are made at the same time share a message, up to this many of them: with
    /// many calls in flight the broker has far less to do for each. At most 4096; with 0 and 1, the
    /// default, each call has a message of its own.
    ///
    /// Nothing waits for a timer: a message leaves as soon as whoever is about to call has done so
    /// and the message before it is on the socket. Deadlines, errors, `idempotent` and the drop of
    /// a call hold for each call. The calls of a message go to one server, which works on as many
    /// of them at once as its concurrency has room for, and acknowledges it when all are done; so a
    /// pool of servers shares coarser portions, and a server that dies gives more back.
    ///
    /// By themselves go calls with headers or a trace, with more than 16 KiB of arguments, `oneway`
    /// and `at_most_once` methods, methods with a queue of their own, and every call until a reply
    /// has told that the service's servers understand such messages (Lepus's do): the calls before
    /// that ask for it in a header, `rpc-accept`. Where a server of an earlier version refuses one,
    /// its calls are sent again, and for a minute all by themselves. Calls of different priority,
    /// codec or time left do not share one.
    ///
    /// No effect on a local client.
    #[must_use]
    pub fn coalesce(self, calls: usize) -> Self {
        self.with(|inner| {
            if let Backend::Remote(remote) = &mut inner.backend {
                let (remote, most) = (Arc::make_mut(remote), calls.min(batch::MOST));
                remote.coalescer = (most > 1).then(|| {
                    let name = remote.connection.given_name().map(str::to_owned);
                    Arc::new(Coalescer::start(most, name, remote.connection.tasks()))
                });
            }
        })
    }

    /// Where a method's requests go, by its name on the broker.
    fn queue_of(&self, method: &MethodDescriptor) -> Arc<str> {
        match (method.own_queue(), &self.inner.backend) {
            (None, _) => Arc::clone(&self.inner.queue),
            (Some(own), Backend::Remote(remote)) => remote.connection.namespace().scope(own).into(),
            (Some(own), Backend::Local(_)) => own.into(),
        }
    }

    /// A place among the calls in flight, if one is free; else the client back.
    fn place(self) -> Result<Place, Self> {
        let free = self.inner.in_flight.try_acquire();
        if free.map(|permit| permit.forget()).is_err() {
            return Err(self);
        }
        Ok(Place { client: self })
    }

    /// A place among the calls in flight, once one is free.
    async fn next_place(self) -> Option<Place> {
        self.inner.in_flight.acquire().await.ok()?.forget();
        Some(Place { client: self })
    }

    /// Prepares a call; awaiting it makes it.
    pub fn call<A, T, E>(&self, method: &'static MethodDescriptor, arguments: &A) -> Call<T, E>
    where
        A: Serialize + ?Sized,
        T: DeserializeOwned,
        E: DeserializeOwned,
    {
        let body = self.inner.codec.encode(arguments);
        let body = body.map_err(|error| Error::new(Kind::Encode).caused_by(error));
        Call::new(self.clone(), method, body)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &self.inner.descriptor.name())
            .finish_non_exhaustive()
    }
}
