//! The shared and singleton modes: one queue for each group, whose deliveries are handled as jobs.

mod handler;
mod held;
mod stream;

pub(super) use handler::{BufferWork, GroupForEach, OrderedJobHandler, buffer};
pub use held::Held;
pub use stream::GroupSubscription;
