//! Clients: the queue that their calls go to, and the options of their calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::broker::BrokerBackend;
use super::options::Absence;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::service::{DynService, Service};
use crate::wire::codec::Codec;

/// The timeout of a call, unless it is set on the call, its method or its client.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The untyped part of a generated client: the queue that its calls go to, and their defaults. Cheap to
/// clone; all clones share one limit of [calls in flight](crate::rpc::ClientBuilder::max_in_flight).
///
/// A program mostly uses the generated client. This one calls a service whose methods are known at run time
/// only, by [`call`](Self::call). A generated client is made from it by `CalculatorClient::from(client)`.
///
/// ```no_run
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::CallError> {
/// #[lepus::service]
/// trait Calculator {
///     async fn fib(&self, n: u64) -> u64;
/// }
///
/// use lepus::rpc::{Client, Never};
///
/// let client = Client::new(&connection, CalculatorClient::DESCRIPTOR);
/// if let Some(fib) = client.descriptor().methods().iter().find(|it| it.name() == "fib") {
///     // The arguments of a method are a map by their names, or an array.
///     println!("{}", client.call::<_, u64, Never>(fib, &[30]).await?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

/// Shared by a client and its clones.
pub(super) struct Inner {
    pub(super) backend: Backend,
    pub(super) descriptor: &'static ServiceDescriptor,
    /// The service's queue, by its name on the broker.
    pub(super) queue: Arc<str>,
    pub(super) codec: Codec,
    pub(super) timeout: Option<Duration>,
    /// The absence of consumers after which calls fail, if they are to fail fast.
    pub(super) fail_fast: Option<Absence>,
    /// Whether requests tell the time at which they are sent.
    pub(super) is_stamped: bool,
    pub(super) in_flight: Semaphore,
    /// The layers, around a client without layers.
    pub(super) layers: Option<DynService>,
}

#[derive(Clone)]
pub(super) enum Backend {
    Broker(Arc<BrokerBackend>),
    Local(Arc<dyn Service>),
}

/// A client as the innermost service of its layers.
pub(super) struct ClientService(pub(super) Client);

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
    /// A client with these options. It has at most `max_in_flight` calls in flight, and at least one.
    pub(super) fn with_options(
        backend: Backend,
        (descriptor, queue): (&'static ServiceDescriptor, Arc<str>),
        codec: Codec,
        (timeout, fail_fast): (Option<Duration>, Option<Absence>),
        (max_in_flight, is_stamped): (usize, bool),
    ) -> Self {
        let permits = max_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let inner = Inner {
            backend,
            descriptor,
            queue,
            codec,
            timeout,
            fail_fast,
            is_stamped,
            in_flight: Semaphore::new(permits),
            layers: None,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A client whose calls pass these layers. They are put around this client.
    pub(super) fn with_layers(self, layers: impl FnOnce(DynService) -> DynService) -> Self {
        let Inner {
            backend,
            descriptor,
            queue,
            codec,
            timeout,
            fail_fast,
            is_stamped,
            ..
        } = &*self.inner;
        let inner = Inner {
            backend: backend.clone(),
            descriptor,
            queue: Arc::clone(queue),
            codec: *codec,
            timeout: *timeout,
            fail_fast: *fail_fast,
            is_stamped: *is_stamped,
            // Calls are counted by the client inside.
            in_flight: Semaphore::new(0),
            layers: Some(layers(Arc::new(ClientService(self.clone())))),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The description of the service.
    #[must_use]
    pub fn descriptor(&self) -> &'static ServiceDescriptor {
        self.inner.descriptor
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
