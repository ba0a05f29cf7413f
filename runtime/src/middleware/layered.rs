//! A service with layers around it, and the innermost service of them, which runs the handlers.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use tower_layer::Layer;

use crate::descriptor::ServiceDescriptor;
use crate::handler_guard::guard;
use crate::service::{BoxFuture, DynService, Reply, Request, Service, ServiceOptions};
use crate::wire::topology::QueueOptions;

/// A service with layers, which a [`Server`](crate::Server) serves.
///
/// `CalculatorServer::new(implementation).layer(…)` makes one, with the options of the generated server.
#[derive(Clone)]
pub struct Layered {
    service: DynService,
    options: ServiceOptions,
}

impl Layered {
    /// A service without layers yet, with the options that it has.
    #[must_use]
    pub fn new(service: impl Service) -> Self {
        Self {
            options: service.options(),
            service: Arc::new(HandlerService(Arc::new(service))),
        }
    }

    /// Puts a layer around the layers that are there already.
    #[must_use]
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<DynService>,
        L::Service: Service,
    {
        Self {
            service: Arc::new(layer.layer(self.service)),
            ..self
        }
    }

    /// Sets how many requests of this service are handled at once, those that wait in a layer included.
    /// Default 1. The maximum is 65,535; 0 counts as 1.
    #[must_use]
    pub fn concurrency(self, requests: u16) -> Self {
        Self {
            options: self.options.concurrency(requests),
            ..self
        }
    }

    /// Sets the options of the service's queue, as [`ServiceOptions::queue_options`] does.
    #[must_use]
    pub fn queue_options(self, options: QueueOptions) -> Self {
        Self {
            options: self.options.queue_options(options),
            ..self
        }
    }

    /// Declares no queues: they must exist, with any properties.
    #[must_use]
    pub fn passive(self) -> Self {
        Self {
            options: self.options.passive(),
            ..self
        }
    }
}

impl Service for Layered {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.service.descriptor()
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        let context = request.context();
        self.service.call(request.with_context(context))
    }

    fn options(&self) -> ServiceOptions {
        self.options.clone()
    }
}

impl fmt::Debug for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered")
            .field("service", &self.descriptor().name())
            .field("options", &self.options)
            .finish()
    }
}

/// Runs the handlers of a service in the context that the layers give to them. A panic or a missed deadline
/// ends the handler here, so that the layers see it.
struct HandlerService(DynService);

impl Service for HandlerService {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        self.0.descriptor()
    }

    fn call(&self, request: Request) -> BoxFuture<Reply> {
        let (context, method) = (request.context(), request.method_name());
        let deadline = context.deadline();
        let handler = context.handler(|| self.0.call(request));
        let reply = guard(deadline, handler);
        Box::pin(reply.map(move |end| Reply::of_end(method, end)))
    }
}
