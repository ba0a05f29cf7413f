//! The shared and singleton modes: one queue for each group, whose deliveries are handled as jobs.

mod group_event;
mod handler;

pub use group_event::GroupEvent;
pub(super) use handler::{BufferWork, OrderedJobHandler};
