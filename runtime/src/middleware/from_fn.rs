//! Layers made of functions, and the trait of the ready ones.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::operation::{Handle, Next, Operation};
use crate::descriptor::ServiceDescriptor;
use crate::service::{BoxFuture, DynService, Reply, Request, Service, ServiceOptions};

/// The part of a layer that handles an [`Operation`]: a [`Request`] unless another one is named. The ready layers
/// implement it; for a function, use [`from_fn`].
///
/// The layers of workers, subscriptions, producers and publishers need nothing else:
///
/// ```
/// use lepus::middleware::{Middleware, Next, Publication};
/// use lepus::{Error, rpc::BoxFuture};
///
/// struct Region(&'static str);
///
/// impl Middleware<Publication> for Region {
///     fn handle(
///         &self,
///         publication: Publication,
///         next: Next<Publication>,
///     ) -> BoxFuture<Result<(), Error>> {
///         next.run(publication.with_header("x-region", self.0))
///     }
/// }
///
/// # async fn example(connection: lepus::Connection) -> Result<(), lepus::Error> {
/// let mails = lepus::WorkQueue::<String>::new("mails").producer(&connection).layer(Region("eu"));
/// mails.push(&"hare@example.org".to_owned()).await
/// # }
/// ```
///
/// Those of services and clients are a [`Layer`] of the crate `tower-layer`. [`Around::new`] puts the middleware around
/// a service, which is what such a layer has to do:
///
/// ```
/// use lepus::middleware::{Around, Layer, Middleware, Next};
/// use lepus::rpc::{BoxFuture, Reply, Request, Service};
///
/// #[derive(Clone)]
/// struct Tenant(&'static str);
///
/// impl Middleware for Tenant {
///     fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
///         next.run(request.with_header("x-tenant", self.0))
///     }
/// }
///
/// impl<S: Service> Layer<S> for Tenant {
///     type Service = Around<Self>;
///
///     fn layer(&self, inner: S) -> Around<Self> {
///         Around::new(self.clone(), inner)
///     }
/// }
/// ```
pub trait Middleware<I: Operation = Request>: Send + Sync + 'static {
    /// Handles an operation: mostly by [`Next::run`], with something before and after it.
    fn handle(&self, operation: I, next: Next<I>) -> BoxFuture<I::Output>;
}

/// A service with a [`Middleware`] around it, or the handler of another operation.
pub struct Around<M, I: Operation = Request> {
    middleware: M,
    next: Next<I>,
}

impl<M: Middleware> Around<M> {
    /// Puts it around a service.
    pub fn new(middleware: M, service: impl Service) -> Self {
        let service: DynService = Arc::new(service);
        Self {
            middleware,
            next: Next::new(service),
        }
    }
}

impl<M: Middleware<I>, I: Operation<Rest = dyn Handle<I>>> Around<M, I> {
    pub(super) fn of(middleware: M, next: Next<I>) -> Self {
        Self { middleware, next }
    }
}

impl<M: Middleware<I>, I: Operation<Rest = dyn Handle<I>>> Handle<I> for Around<M, I> {
    fn call(&self, operation: I) -> BoxFuture<I::Output> {
        self.middleware.handle(operation, self.next.clone())
    }
}

impl<M: Middleware> Service for Around<M> {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.next.descriptor()
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        self.middleware.handle(request, self.next.clone())
    }

    fn options(&self) -> ServiceOptions {
        self.next.service().options()
    }
}

impl<M, I: Operation> fmt::Debug for Around<M, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// A layer that is a function of the operation and the rest of the layers; made by [`from_fn`].
#[derive(Clone)]
pub struct FromFn<F>(F);

/// Makes a layer of an async function from an [`Operation`] and a [`Next`] to its output: from a [`Request`] to a
/// [`Reply`](crate::rpc::Reply), from a [`Message`](super::Message) to a [`Verdict`](super::Verdict), or from a
/// [`Publication`](super::Publication) to a `Result<(), Error>`.
///
/// ```
/// use lepus::middleware::{Next, ReplyOutcome, from_fn};
/// use lepus::rpc::{Client, Reply, Request};
///
/// async fn observe(request: Request, next: Next) -> Reply {
///     let (method, started) = (request.method_name(), std::time::Instant::now());
///     let reply = next.run(request).await;
///     if let ReplyOutcome::Panicked(text) = reply.outcome() {
///         eprintln!("{method} panicked after {:?}: {text}", started.elapsed());
///     }
///     reply
/// }
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
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// let service = CalculatorServer::new(CalculatorService).layer(from_fn(observe));
/// let calculator = CalculatorClient::from(Client::local(service));
/// assert_eq!(calculator.fib(30).await?, 30);
/// # Ok(())
/// # }
/// ```
pub fn from_fn<F, I, R>(function: F) -> FromFn<F>
where
    F: Fn(I, Next<I>) -> R + Send + Sync + 'static,
    I: Operation,
    R: Future<Output = I::Output> + Send + 'static,
{
    FromFn(function)
}

impl<F, I, R> Middleware<I> for FromFn<F>
where
    F: Fn(I, Next<I>) -> R + Send + Sync + 'static,
    I: Operation,
    R: Future<Output = I::Output> + Send + 'static,
{
    fn handle(&self, operation: I, next: Next<I>) -> BoxFuture<I::Output> {
        Box::pin((self.0)(operation, next))
    }
}

impl<S, F, R> Layer<S> for FromFn<F>
where
    S: Service,
    F: Fn(Request, Next) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    type Service = Around<Self>;

    fn layer(&self, inner: S) -> Around<Self> {
        Around::new(self.clone(), inner)
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}

/// Makes layers of types that implement [`Middleware`].
macro_rules! layers {
    ($($type:ident $(<$parameter:ident>)?),*) => {
        $(
            impl<S: $crate::service::Service $(, $parameter)?> tower_layer::Layer<S> for $type $(<$parameter>)?
            where
                Self: $crate::middleware::Middleware,
            {
                type Service = $crate::middleware::Around<Self>;

                fn layer(&self, inner: S) -> Self::Service {
                    $crate::middleware::Around::new(self.clone(), inner)
                }
            }
        )*
    };
}
pub(super) use layers;
