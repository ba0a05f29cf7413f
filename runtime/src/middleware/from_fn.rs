//! Layers made of functions, and the trait of the ready ones.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use crate::descriptor::ServiceDescriptor;
use crate::service::{BoxFuture, DynService, Reply, Request, Service, ServiceOptions};

/// The part of a layer that handles requests. The ready layers implement it; for a function, use [`from_fn`].
///
/// [`Around::new`] puts it around a service, which is what a [`Layer`] has to do:
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
pub trait Middleware: Send + Sync + 'static {
    /// Handles a request: mostly by [`Next::run`], with something before and after it.
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply>;
}

/// A service with a [`Middleware`] around it.
pub struct Around<M> {
    middleware: M,
    next: Next,
}

impl<M: Middleware> Around<M> {
    /// Puts it around a service.
    pub fn new(middleware: M, service: impl Service) -> Self {
        let service = Arc::new(service);
        Self {
            middleware,
            next: Next { service },
        }
    }
}

impl<M: Middleware> Service for Around<M> {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.next.service.descriptor()
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        self.middleware.handle(request, self.next.clone())
    }

    fn options(&self) -> ServiceOptions {
        self.next.service.options()
    }
}

impl<M> fmt::Debug for Around<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The rest of the layers, and the service inside them. A layer may run it once, several times, or not at all.
#[derive(Clone)]
pub struct Next {
    service: DynService,
}

impl Next {
    /// Passes a request on, and returns the reply.
    pub fn run(self, request: Request) -> BoxFuture<Reply> {
        self.service.call(request)
    }

    /// The description of the service that is called.
    #[must_use]
    pub fn descriptor(&self) -> &'static ServiceDescriptor {
        self.service.descriptor()
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("service", &self.service.descriptor().name())
            .finish()
    }
}

/// A layer that is a function of the request and the rest of the layers; made by [`from_fn`].
#[derive(Clone)]
pub struct FromFn<F>(F);

/// Makes a layer of an async function from a [`Request`] and a [`Next`] to a [`Reply`].
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
pub fn from_fn<F, R>(function: F) -> FromFn<F>
where
    F: Fn(Request, Next) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    FromFn(function)
}

impl<F, R> Middleware for FromFn<F>
where
    F: Fn(Request, Next) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Reply> + Send + 'static,
{
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
        Box::pin((self.0)(request, next))
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
