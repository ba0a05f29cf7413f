//! Streams that methods return: their queue for credit, their items, and the tasks that their handlers run in.

mod queue;
mod sender;
mod serve;

pub(super) use queue::{StreamQueues, StreamSettings};
pub(super) use serve::{StreamOpening, StreamTasks};
