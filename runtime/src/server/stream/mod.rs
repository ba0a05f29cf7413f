//! Streams that methods return: their queue for credit, their items, and the tasks that their handlers run in.

mod outlet;
mod queue;
mod run;
mod sender;

pub(super) use queue::{StreamQueues, StreamSettings};
pub(super) use run::{StreamOpening, StreamRun, StreamTasks};
pub(super) use sender::{ServerStream, StreamRequest};
