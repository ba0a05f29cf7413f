//! Items that generated code uses. Not stable: they change together with the macros.

pub use async_trait::async_trait;
pub use futures_core::Stream;
pub use serde;

pub use crate::client::{Call, Client, ClientBuilder, StreamCall, UploadCall};
pub use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
pub use crate::error::Error;
pub use crate::incoming::{Incoming, accept_items};
pub use crate::link::Connection;
pub use crate::middleware::{DynService, Layer, Layered};
pub use crate::policy::verdict::{IntoVerdict, Verdict};
pub use crate::queue::{DeadLetters, Push, TaskProducer, WorkQueue};
use crate::returns::{MethodError, Received};
pub use crate::returns::{OwnError, PlainReturn, ReturnType};
pub use crate::service::{BoxFuture, Reply, Request, Service, ServiceOptions, Tasks};
pub use crate::streamed::{as_octets, ok_as_octets, send_items};
pub use crate::wire::codec::Codec;
pub use crate::wire::codec::octets::{self, AsOctets};
pub use crate::wire::topology::QueueOptions;

/// The call of a method whose return type may be an alias of a `Result`.
pub type CallOf<R, const IS_RESULT: bool> =
    Call<<R as Received<IS_RESULT>>::Value, <R as Received<IS_RESULT>>::Error>;

/// The call of a method that returns a stream, whose items may be of a type that is an alias of a `Result`.
pub type StreamCallOf<R, const IS_RESULT: bool> =
    StreamCall<<R as Received<IS_RESULT>>::Value, <R as Received<IS_RESULT>>::Error>;

/// The call of a method that takes a stream, whose return type may be an alias of a `Result`.
pub type UploadCallOf<R, const IS_RESULT: bool> =
    UploadCall<<R as Received<IS_RESULT>>::Value, <R as Received<IS_RESULT>>::Error>;

/// A returned value of which it is known whether it is a `Result`.
pub trait IntoReply<const IS_RESULT: bool> {
    /// The reply that carries it.
    fn reply(&self, request: &Request) -> Reply;
}

impl<T: serde::Serialize> IntoReply<false> for T {
    fn reply(&self, request: &Request) -> Reply {
        request.value(self)
    }
}

impl<T: serde::Serialize, E: MethodError> IntoReply<true> for Result<T, E> {
    fn reply(&self, request: &Request) -> Reply {
        request.result(self)
    }
}
