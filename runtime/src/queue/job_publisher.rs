//! Publishing of jobs to one queue: the values that all its pushes share, and the publisher that sends
//! them (`basic.publish`).

use std::sync::Arc;
use std::time::Duration;

use super::QueueSpec;
use crate::context::PropagatedHeaders;
use crate::error::Error;
use crate::link::{Connection, Namespace};
use crate::middleware::{Middleware, Next, Publication};
use crate::observe::Hooks;
use crate::publish::{MAX_UNCONFIRMED, OnMissing, Publisher, TIMEOUT, Target};

/// Publishes encoded jobs to one queue.
#[derive(Clone, Debug)]
pub(super) struct JobPublisher {
    queue: Arc<QueueContext>,
    publisher: Publisher,
    timeout: Duration,
    /// The layers that a push passes, if there are any.
    layers: Option<Next<Publication>>,
}

/// The values that all pushes to a queue share.
#[derive(Debug)]
pub(super) struct QueueContext {
    pub(super) spec: QueueSpec,
    namespace: Namespace,
    /// The name of this program (AMQP's `app_id`).
    pub(super) app_id: Option<String>,
    pub(super) propagated: PropagatedHeaders,
    pub(super) hooks: Hooks,
    pub(super) target: Target,
    /// The reaction to a missing queue, or an error if the queue's options are invalid.
    pub(super) on_missing: Result<OnMissing, Error>,
}

impl QueueContext {
    fn new(connection: &Connection, spec: QueueSpec) -> Self {
        let namespace = connection.namespace().clone();
        let topology = spec.check(&namespace).and_then(|()| spec.topology());
        Self {
            target: Target {
                service: spec.name.as_str().into(),
                method: "".into(),
                queue: namespace.scope(&spec.name).into(),
            },
            on_missing: topology.map(|topology| spec.on_missing(topology)),
            app_id: connection.given_name().map(str::to_owned),
            propagated: connection.propagated().clone(),
            hooks: connection.hooks().clone(),
            namespace,
            spec,
        }
    }

    /// The name of the delay queue for this delay, and the reaction if it is missing.
    pub(super) fn delay_queue(&self, delay: Duration) -> Result<(String, OnMissing), Error> {
        let queue = self.spec.delayed(delay)?;
        let name = self.namespace.scope(queue.name().as_str());
        let mut topology = self.spec.topology()?;
        topology.queues.push(queue);
        Ok((name, self.spec.on_missing(topology)))
    }
}

impl JobPublisher {
    pub(super) fn new(connection: &Connection, spec: QueueSpec) -> Self {
        Self {
            queue: Arc::new(QueueContext::new(connection, spec)),
            publisher: Publisher::new(connection, MAX_UNCONFIRMED),
            timeout: TIMEOUT,
            layers: None,
        }
    }

    pub(super) fn add_layer(&mut self, layer: impl Middleware<Publication>) {
        Next::add(&mut self.layers, layer);
    }

    pub(super) fn layers(&self) -> Option<&Next<Publication>> {
        self.layers.as_ref()
    }

    pub(super) fn set_timeout(&mut self, limit: Duration) {
        self.timeout = limit;
    }

    pub(super) fn set_max_in_flight(&mut self, pushes: usize) {
        self.publisher = self.publisher.with_max_unconfirmed(pushes);
    }

    pub(super) fn queue(&self) -> &QueueContext {
        &self.queue
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}
