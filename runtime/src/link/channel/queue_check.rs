//! Check of an idle consumer, for losses of which the broker sends no notice: of the consumer itself (a
//! passive `queue.declare` counts the consumers of its queue), and of what its owner needs besides the
//! queue, such as bindings.
//!
//! RabbitMQ forgets consumers in silence when a quorum queue is deleted right after it was declared
//! (seen on 3.10.8): their channels stay open, and nothing is delivered on them. It also sends no
//! notice to the consumers of a queue when an exchange that the queue is bound to is deleted.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Channel;
use super::consumer_end::{ConsumerEnd, ConsumerItem};
use super::declare::count_by_name;
use crate::error::Error;
use crate::wire::reply_code;

/// The number of heartbeat intervals between two checks.
const INTERVALS: u32 = 3;

/// An additional check of an idle consumer by its owner. If it fails with [`reply_code::NOT_FOUND`], the consumer
/// ends, and its owner sets it up again.
pub(crate) type IdleCheck = Arc<dyn Fn() -> IdleCheckFuture + Send + Sync>;

type IdleCheckFuture = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// The task that checks the queue: a `JoinSet` of one, because it aborts its tasks when it is dropped.
#[derive(Debug)]
pub(super) struct QueueCheck {
    _task: JoinSet<()>,
}

impl QueueCheck {
    /// Starts to check a queue, given by its name on the broker, for the consumer that receives `items`.
    pub(super) fn start(
        channel: &Arc<Channel>,
        queue: &str,
        items: mpsc::UnboundedSender<ConsumerItem>,
        idle_check: Option<IdleCheck>,
    ) -> Self {
        let check = check(Arc::downgrade(channel), queue.to_owned(), items, idle_check);
        let mut task = JoinSet::new();
        task.spawn_on(check, channel.session().io());
        Self { _task: task }
    }
}

/// Ends the consumer when its queue is gone or has no consumer, although the broker has not cancelled it.
///
/// The count does not tell whether this very consumer is known, so a forgotten one is not found while
/// others of the same queue are there.
///
/// A consumer without acknowledgements counts as idle: its deliveries are not tracked.
async fn check(
    channel: Weak<Channel>,
    queue: String,
    items: mpsc::UnboundedSender<ConsumerItem>,
    idle_check: Option<IdleCheck>,
) {
    let mut last_delivery = 0;
    loop {
        let Some(heartbeat) = channel
            .upgrade()
            .map(|channel| channel.session().heartbeat())
        else {
            return;
        };
        tokio::time::sleep(heartbeat.max(Duration::from_secs(1)) * INTERVALS).await;
        let Some(channel) = channel.upgrade() else {
            return;
        };
        let delivery = channel.last_delivery();
        let is_idle = std::mem::replace(&mut last_delivery, delivery) == delivery;
        if !is_idle || channel.has_unsettled() {
            continue;
        }
        let lost = match count_by_name(channel.session(), &queue).await {
            Ok(counts) if counts.consumers > 0 => match &idle_check {
                None => continue,
                Some(idle_check) => match idle_check().await {
                    Ok(()) => continue,
                    Err(error) if error.amqp_code() == Some(reply_code::NOT_FOUND) => Some(error),
                    Err(error) => {
                        tracing::debug!(queue, %error, "check of an idle consumer failed");
                        continue;
                    }
                },
            },
            Err(error) if error.amqp_code() != Some(reply_code::NOT_FOUND) => {
                tracing::debug!(queue, %error, "cannot count the consumers of a queue");
                continue;
            }
            Ok(_) | Err(_) => None,
        };
        match lost {
            None => tracing::warn!(
                queue,
                "the queue has lost its consumer without `basic.cancel`, consuming it again"
            ),
            Some(error) => tracing::warn!(
                queue,
                %error,
                "the queue has lost its bindings, setting its consumer up again"
            ),
        }
        // If a `basic.cancel` arrived in the meantime, this second end is not read. If the consumer was
        // dropped, nothing is left to end.
        let _ = items.send(Err(Box::new(ConsumerEnd::Cancelled)));
        return;
    }
}
