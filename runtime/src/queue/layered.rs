//! MessageLayers around the runner of jobs or events.

use std::sync::Arc;

use super::handler::JobRunner;
use super::job::RawJob;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::middleware::{Handle, Message, MessageLayers, Next};
use crate::policy::verdict::Verdict;
use crate::service::BoxFuture;
use crate::stats::HandlerKind;

/// Runs jobs through layers.
struct LayeredRunner {
    runner: Arc<dyn JobRunner>,
    layers: Next<Message>,
    max_attempts: Option<u32>,
}

/// Puts the layers around a runner; without any, it is the runner itself. `max_attempts` is `None` if nothing is
/// ever tried again.
pub(crate) fn layered(
    runner: Arc<dyn JobRunner>,
    layers: &MessageLayers,
    max_attempts: Option<u32>,
) -> Arc<dyn JobRunner> {
    match layers.around(InnermostRunner(Arc::clone(&runner))) {
        None => runner,
        Some(layers) => Arc::new(LayeredRunner {
            runner,
            layers,
            max_attempts,
        }),
    }
}

impl JobRunner for LayeredRunner {
    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        let RawJob {
            body,
            context,
            cancellation,
        } = job;
        let message = Message::new(context, body, self.max_attempts, cancellation);
        self.layers.clone().run(message)
    }

    fn kind(&self) -> HandlerKind {
        self.runner.kind()
    }

    fn tasks(&self) -> Option<&'static ServiceDescriptor> {
        self.runner.tasks()
    }

    fn method(&self, task: Option<&str>) -> Option<&'static MethodDescriptor> {
        self.runner.method(task)
    }
}

/// The runner inside the layers.
struct InnermostRunner(Arc<dyn JobRunner>);

impl Handle<Message> for InnermostRunner {
    fn call(&self, message: Message) -> BoxFuture<Verdict> {
        message.handle(|context, body, cancellation| {
            self.0.run(RawJob {
                body,
                context,
                cancellation,
            })
        })
    }
}
