//! Set-up of a consumer on a session: its declarations, its channel (`channel.open`) and `basic.consume`.

use std::sync::Arc;

use super::source::Source;
use crate::error::{Error, ErrorKind};
use crate::link::{
    self, Channel, Connection, ConsumeMode, Consumer, ConsumerEnd, IdleCheck, Link, Namespace,
    Session,
};
use crate::publish::InternalErrorRetry;
use crate::service::BoxFuture;
use crate::wire::reply_code;

/// The set-up of a consumer on each connection, for consumers that need more than the declaration of
/// their source.
pub(crate) trait Setup: Send + Sync + 'static {
    /// Declares what the consumer needs, and returns the name of the queue to consume, with the
    /// namespace.
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>>;

    /// The mode in which the queue is consumed.
    fn mode(&self) -> ConsumeMode;

    /// A check that is made while the consumer is idle, in addition to that of its queue.
    fn idle_check(&self) -> Option<IdleCheck> {
        None
    }

    /// Messages with a longer body, in bytes, are delivered without it.
    fn max_body(&self) -> usize {
        usize::MAX
    }

    /// Called when the consumer has started.
    fn started(&self);

    /// Called when the consumer has ended.
    fn ended(&self, ended: &ConsumerEnd);

    /// Called for each attempt that fails. There will be another one.
    fn failed(&self, error: &Error);
}

/// A consumer that was just started.
#[derive(Debug)]
pub(super) struct OpenConsumer {
    /// The queue's name on the broker, with the namespace.
    pub(super) queue: String,
    pub(super) channel: Arc<Channel>,
    pub(super) consumer: Consumer,
}

/// The set-up that declares a [`Source`]'s topology, and nothing else.
pub(super) struct DeclaredSource {
    source: Source,
    namespace: Namespace,
}

impl DeclaredSource {
    pub(super) fn new(source: Source, namespace: Namespace) -> Self {
        Self { source, namespace }
    }
}

impl Setup for DeclaredSource {
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>> {
        let queue = self.namespace.scope(&self.source.queue);
        let (topology, namespace) = (self.source.topology.clone(), self.namespace.clone());
        Box::pin(async move {
            link::declare(&session, &topology, &namespace).await?;
            Ok(queue)
        })
    }

    fn mode(&self) -> ConsumeMode {
        ConsumeMode::ManualAck {
            prefetch: self.source.concurrency,
        }
    }

    fn max_body(&self) -> usize {
        self.source.max_body
    }

    fn started(&self) {}

    fn ended(&self, _: &ConsumerEnd) {}

    fn failed(&self, _: &Error) {}
}

/// Sets a consumer up on the current session, or on the next one.
///
/// It runs in a task of its own, to its end, even if the caller is dropped. The exclusive auto-delete
/// queue of a broadcast subscription is deleted when its consumer is: one that was declared and bound,
/// but never consumed, would collect events until the connection ends.
///
/// # Errors
/// The connection was closed, or the broker refuses.
pub(super) async fn set_up(
    connection: &Connection,
    setup: &Arc<dyn Setup>,
) -> Result<OpenConsumer, Error> {
    let (link, setup) = (connection.consuming().clone(), Arc::clone(setup));
    let task = connection
        .tasks()
        .spawn(async move { set_up_on_link(&link, &*setup).await });
    task.await
        .map_err(|ended| Error::new(ErrorKind::Closed).caused_by(ended))?
}

async fn set_up_on_link(link: &Link, setup: &dyn Setup) -> Result<OpenConsumer, Error> {
    let mut internal_error_retry = InternalErrorRetry::default();
    loop {
        let session = link.session().await?;
        match set_up_on_session(&session, setup).await {
            Err(error) if internal_error_retry.is_due(&error, &session).await => {}
            result => return result,
        }
    }
}

async fn set_up_on_session(
    session: &Arc<Session>,
    setup: &dyn Setup,
) -> Result<OpenConsumer, Error> {
    let mut may_retry = true;
    loop {
        let queue = setup.prepare(Arc::clone(session)).await?;
        let channel = Channel::open(session).await?;
        channel.limit_bodies(setup.max_body());
        match Consumer::start(&channel, &queue, setup.mode(), setup.idle_check()).await {
            Ok(consumer) => {
                return Ok(OpenConsumer {
                    queue,
                    channel,
                    consumer,
                });
            }
            // The queue was deleted between its declaration and `basic.consume`. That is retried here,
            // because a user who starts a consumer gets the errors of the first set-up.
            Err(error) if may_retry && error.amqp_code() == Some(reply_code::NOT_FOUND) => {
                may_retry = false
            }
            Err(error) => return Err(error),
        }
    }
}
