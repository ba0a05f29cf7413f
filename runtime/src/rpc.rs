//! Services: servers, clients, calls, and the errors and statuses that they end with.
//!
//! `#[lepus::service]` generates a server and a client from a trait. [`Server`] serves it, and
//! [`ClientBuilder`] sets the options of its client. [`Service`], [`Request`] and [`Reply`] are for services
//! without the macro, and a [`DynamicClient`] calls services whose contract it does not have.

pub use crate::client::{
    Call, Client, ClientBuilder, DEFAULT_TIMEOUT, DEFAULT_WINDOW, DynamicCall, DynamicClient,
    DynamicReply, DynamicStreamCall, DynamicStreaming, PendingReply, ResumedStream, StreamCall,
    Streaming, UploadCall, resume,
};
pub use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
pub use crate::error::{CallError, Never};
pub use crate::incoming::Incoming;
pub use crate::returns::MethodError;
pub use crate::server::Server;
pub use crate::service::{BoxFuture, Reply, ReplyOutcome, Request, Service, ServiceOptions};
pub use crate::wire::status::{Code, Status, UnknownCode};
pub use futures_core::Stream;
