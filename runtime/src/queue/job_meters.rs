//! The meters of a queue: one for all of its jobs, or one for each task.

use std::sync::Arc;

use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::link::Connection;
use crate::meter::Meter;
use crate::server::MethodMeters;
use crate::stats::HandlerKind;

/// The meters of a queue.
pub(super) enum JobMeters {
    Queue(Arc<Meter>),
    Tasks(MethodMeters),
}

impl JobMeters {
    /// The meters of `queue`, by its name without the namespace. `tasks` are those that its jobs are, if they are.
    pub(super) fn new(
        connection: &Connection,
        queue: &str,
        kind: HandlerKind,
        tasks: Option<&'static ServiceDescriptor>,
    ) -> Self {
        let meters = connection.meters();
        match tasks {
            None => Self::Queue(meters.of(kind, queue, "")),
            Some(tasks) => Self::Tasks(MethodMeters::new(meters, kind, queue, tasks)),
        }
    }

    /// The meter of the jobs that are this task.
    pub(super) fn of(&self, task: Option<&MethodDescriptor>) -> &Arc<Meter> {
        match self {
            Self::Queue(meter) => meter,
            Self::Tasks(meters) => meters.of(task),
        }
    }
}
