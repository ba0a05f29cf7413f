//! RPC, work queues and publish/subscribe over RabbitMQ, typed end to end.

#[doc(hidden)]
pub mod __rt;
mod acks;
mod client;
mod codec;
mod context;
mod descriptor;
mod envelope;
mod error;
mod link;
mod message;
mod name;
mod panic;
mod pending;
mod publisher;
mod pubsub;
mod queue;
mod retry;
mod running;
mod server;
mod service;
mod settle;
mod shutdown;
mod stats;
mod status;
mod topology;
mod value;
mod verdict;
mod worker;

pub use lepus_macros::{service, tasks};

pub use client::{Call, Client, DEFAULT_TIMEOUT, PendingReply};
pub use codec::{Codec, CodecError};
pub use context::Context;
pub use descriptor::{MethodDescriptor, ServiceDescriptor};
pub use error::{CallError, Error, Never, Outcome};
pub use link::{Connection, ConnectionBuilder, ConnectionState};
pub use name::{Name, NameError};
pub use pubsub::{
    Bindings, Broadcast, ByHeaders, ByKey, ByPattern, Direct, Event, EventExchange, EventPublisher,
    Fanout, Gap, Group, GroupSubscription, Headers, Held, KeyError, Kind, Match, Missed, Overflow,
    Pattern, Publish, RoutingKey, Selective, Subscribe, Subscription, ToAll, Topic, Undecodable,
    Unknown,
};
pub use queue::{
    Cancelled, DeadLetter, DeadLetters, Getter, Job, Producer, Push, Taken, TaskPool, TaskProducer,
    WorkQueue, WorkerPool,
};
pub use retry::RetryPolicy;
pub use running::Running;
pub use server::Server;
pub use service::{BoxFuture, Reply, Request, Service, Tasks};
pub use shutdown::shutdown_signal;
pub use stats::Stats;
pub use status::{Code, Status, UnknownCode};
pub use topology::{Exchange, ExchangeKind, Queue, QueueKind};
pub use value::{Table, Value};
pub use verdict::{Failure, IntoVerdict, JobError, Retry, Verdict, reject, retry, retry_after};
