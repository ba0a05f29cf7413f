//! Sources of deliveries: a queue, and the options of its consumer.

use std::time::Duration;

use crate::wire::topology::Topology;

/// A queue, and how it is consumed.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topology: Topology,
    /// The queue's name without the namespace. For a consumer with a queue of another name on each
    /// connection, a name for the log.
    pub(crate) queue: String,
    /// The number of deliveries that are handled at once, which is also the prefetch (`basic.qos`).
    pub(crate) concurrency: u16,
    /// The longest that a shutdown waits for handlers.
    pub(crate) grace: Duration,
    /// Messages with a longer body, in bytes, are delivered without it, so that a message which is
    /// refused for its size is not held in memory.
    pub(crate) max_body: usize,
    pub(crate) on_loss: OnLoss,
}

/// The treatment of running handlers when their channel is gone. Their deliveries can no longer be
/// settled, and the broker delivers them again either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// They are dropped at their next await.
    Drop,
    /// They run to their end, and count towards the concurrency until then.
    Finish,
}
