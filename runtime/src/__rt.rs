//! Items that generated code uses. Not stable: they change together with the macros.

pub use serde;

pub use crate::client::{Call, Client, ClientBuilder};
pub use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
pub use crate::link::Connection;
pub use crate::policy::verdict::{IntoVerdict, Verdict};
pub use crate::queue::{Push, TaskProducer};
pub use crate::returns::OwnError;
pub use crate::service::{BoxFuture, Reply, Request, Service, ServiceOptions, Tasks};
pub use crate::wire::codec::Codec;
pub use crate::wire::topology::QueueOptions;
