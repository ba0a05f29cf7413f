//! Connections to RabbitMQ, and values of AMQP: header tables, options of queues.

pub use crate::link::{Connection, ConnectionBuilder, ConnectionState, Io, QueueCounts};
pub use crate::stats::{DurationHistogram, MethodStats, Stats};
pub use crate::wire::codec::CodecError;
pub use crate::wire::topology::{QueueKind, QueueOptions};
pub use crate::wire::value::{Table, Value};
