//! Adapters between layers of Lepus and stacks of the crate tower.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower::util::ServiceExt;
use tower::{BoxError, Service as TowerServiceTrait};
use tower_layer::Layer;

use crate::descriptor::ServiceDescriptor;
use crate::error::Error;
use crate::service::{BoxFuture, DynService, Reply, Request, Service, ServiceOptions};
use crate::wire::status::{Code, Status};

/// A layer of Lepus made of one of tower, or of a whole `tower::ServiceBuilder`. It is put around services and
/// clients.
///
/// The tower layer wraps a [`TowerService`], whose requests are [`Request`]s and whose responses are [`Reply`]s. The
/// service that it makes has to be `Clone`, because requests run at the same time; `tower::buffer` makes any service
/// so. Each request waits until a clone is ready (`poll_ready`).
///
/// An error of a tower layer becomes the reply: a [`Status`] as it is, an [`Error`] as by `Reply::from`, tower's
/// `Elapsed` as `deadline_exceeded`, its `Overloaded` as `resource_exhausted`, any other as `internal`.
///
/// ```
/// use std::time::Duration;
///
/// use lepus::middleware::FromTower;
/// use lepus::{Code, rpc::Client};
///
/// # #[lepus::service]
/// # trait Calculator {
/// #     async fn fib(&self, n: u64) -> u64;
/// # }
/// # struct CalculatorService;
/// # impl Calculator for CalculatorService {
/// #     async fn fib(&self, _: u64) -> u64 {
/// #         std::future::pending().await
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let stack = tower::ServiceBuilder::new()
///     .load_shed()
///     .concurrency_limit(16)
///     .timeout(Duration::from_millis(20));
/// let service = CalculatorServer::new(CalculatorService).layer(FromTower::new(stack));
/// let calculator = CalculatorClient::from(Client::local(service));
/// // The handler of this service never ends.
/// let error = calculator.fib(30).await.unwrap_err();
/// assert_eq!(error.code(), Some(Code::DeadlineExceeded));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FromTower<L>(L);

impl<L> FromTower<L> {
    /// Makes a layer of one of tower.
    #[must_use]
    pub fn new(layer: L) -> Self {
        Self(layer)
    }
}

impl<S, L> Layer<S> for FromTower<L>
where
    S: Service,
    L: Layer<TowerService, Service: TowerServiceTrait<Request>>,
    TowerStack<L::Service>: Service,
{
    type Service = TowerStack<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let (descriptor, options) = (inner.descriptor(), inner.options());
        TowerStack {
            stack: self.0.layer(TowerService::new(inner)),
            descriptor,
            options,
        }
    }
}

/// A tower layer made of one of Lepus: a ready one, [`from_fn`](super::from_fn), any that wraps a [`Service`].
///
/// It is for a stack that is itself put around a service of Lepus ([`FromTower`]), since nothing but Lepus makes
/// [`Request`]s. The service inside it has to be `Clone`. It does not know the service that it wraps in the end, so it
/// is given its description, which layers read from [`Next::descriptor`](super::Next::descriptor).
///
/// ```
/// use std::time::Duration;
///
/// use lepus::middleware::{AccessLog, FromTower, Service, ToTower};
///
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
/// let service = CalculatorServer::new(CalculatorService);
/// let stack = tower::ServiceBuilder::new()
///     .concurrency_limit(16)
///     .layer(ToTower::new(AccessLog::new(), service.descriptor()))
///     .timeout(Duration::from_secs(1));
/// let service = service.layer(FromTower::new(stack));
/// # let _ = service;
/// ```
#[derive(Clone, Debug)]
pub struct ToTower<L> {
    layer: L,
    descriptor: &'static ServiceDescriptor,
}

impl<L> ToTower<L> {
    /// Makes a tower layer of one of Lepus, for the service of this description.
    #[must_use]
    pub fn new(layer: L, descriptor: &'static ServiceDescriptor) -> Self {
        Self { layer, descriptor }
    }
}

impl<S, L> Layer<S> for ToTower<L>
where
    L: Layer<DynService, Service: Service>,
    TowerStack<S>: Service,
{
    type Service = TowerService;

    fn layer(&self, stack: S) -> TowerService {
        let inner = TowerStack {
            stack,
            descriptor: self.descriptor,
            // Of no use inside a stack: the outermost layer has those of the service.
            options: ServiceOptions::new(),
        };
        TowerService::new(self.layer.layer(Arc::new(inner)))
    }
}

/// A service of Lepus as one of tower, with [`Request`]s and [`Reply`]s. It is always ready, and has no errors: those
/// of the service are replies.
#[derive(Clone)]
pub struct TowerService(DynService);

impl TowerService {
    /// Makes a tower service of one of Lepus.
    pub fn new(service: impl Service) -> Self {
        Self(Arc::new(service))
    }
}

impl TowerServiceTrait<Request> for TowerService {
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<Result<Reply, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let reply = self.0.call(request);
        Box::pin(async move { Ok(reply.await) })
    }
}

impl fmt::Debug for TowerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TowerService")
            .field(&self.0.descriptor().name())
            .finish()
    }
}

/// A service of tower as one of Lepus.
pub struct TowerStack<S> {
    stack: S,
    descriptor: &'static ServiceDescriptor,
    options: ServiceOptions,
}

impl<S> Service for TowerStack<S>
where
    S: TowerServiceTrait<Request, Response = Reply, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.descriptor
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        let stack = self.stack.clone();
        Box::pin(async move {
            match stack.oneshot(request).await {
                Ok(reply) => reply,
                Err(error) => reply_of(error.into()),
            }
        })
    }

    fn options(&self) -> ServiceOptions {
        self.options.clone()
    }
}

impl<S> fmt::Debug for TowerStack<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerStack")
            .field("service", &self.descriptor.name())
            .finish_non_exhaustive()
    }
}

/// The reply for the error of a tower layer.
fn reply_of(error: BoxError) -> Reply {
    let error = match error.downcast::<Status>() {
        Ok(status) => return (*status).into(),
        Err(error) => error,
    };
    let error = match error.downcast::<Error>() {
        Ok(error) => return (*error).into(),
        Err(error) => error,
    };
    let code = if error.is::<Elapsed>() {
        Code::DeadlineExceeded
    } else if error.is::<Overloaded>() {
        Code::ResourceExhausted
    } else {
        Code::Internal
    };
    Status::new(code, error.to_string()).into()
}
