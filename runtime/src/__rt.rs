//! Items that generated code uses. Not stable: they change together with the macros.

pub use serde;

pub use crate::client::{Call, Client};
pub use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
pub use crate::error::Error;
pub use crate::link::Connection;
pub use crate::policy::verdict::{IntoVerdict, Verdict};
pub use crate::queue::{DeadLetters, Push, TaskProducer, WorkQueue};
pub use crate::service::{BoxFuture, Reply, Request, Service, Tasks};
pub use crate::wire::codec::Codec;
