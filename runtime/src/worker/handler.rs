//! Handlers of deliveries, and the settlements they decide on.

use std::convert::Infallible;
use std::sync::Arc;

use super::report::report_loss;
use crate::error::Error;
use crate::link::{Channel, Delivery};

/// The settlement of a delivery, decided by its handler.
pub(crate) enum Settlement {
    Ack,
    /// As `Ack`, and the write buffer is flushed by the I/O task rather than at once, so that what was
    /// published on the channel is written together with other frames.
    AckAndBatch,
    Requeue,
    Reject,
    /// Nothing is left to do: the handler has settled the delivery, or its channel is gone.
    Settled,
}

/// A handler of deliveries.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether each handler is polled once before the next delivery is received, so that what it does
    /// before its first await is done in the order of the deliveries.
    const IN_ORDER: bool = false;

    /// Whether deliveries that were received, and whose handlers have not begun, are still handled when the consumer
    /// ends in order. Otherwise they are given back (`basic.nack` with `requeue`), and come again, marked as
    /// redelivered.
    const HANDLES_RECEIVED: bool = false;

    /// Handles one delivery. What is published on `channel`, from which the delivery came, is written
    /// before the settlement. Calling this must not panic; the future may.
    fn handle(
        self: Arc<Self>,
        channel: Arc<Channel>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send;

    /// Called when a consumer has started on this channel.
    fn started(&self, _: &Arc<Channel>) {}

    /// Called when a channel is gone. Deliveries that were not settled on it come again.
    fn lost(&self, queue: &str, _channel: &Arc<Channel>, reason: &Error) {
        report_loss(queue, reason);
    }

    /// Called when no more deliveries will come: running handlers should finish soon.
    fn drain(&self) {}

    /// Completes when the work has ended that goes on after the settlement of its delivery. Waited for by a drain.
    fn detached(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Called when a drain waits no longer for [`detached`](Self::detached) work: it should end at once.
    fn end_detached(&self) {}

    /// A future that is polled while deliveries are received, and does not complete.
    fn oversee(&self) -> impl Future<Output = Infallible> + Send {
        std::future::pending()
    }
}
