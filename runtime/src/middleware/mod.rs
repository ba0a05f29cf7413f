//! Layers around servers, clients, workers, subscriptions, producers and publishers: code that sees every request,
//! job and event, and may change or answer it.
//!
//! A concern that many methods share, such as request ids, authentication, limits or an access log, is written
//! once, as a layer, and not in every handler. Every layer is a [`Middleware`] of an [`Operation`]: it gets the
//! operation and the [`Next`] part, and returns the output. [`from_fn`] makes one of a function:
//!
//! ```
//! use lepus::middleware::{AccessLog, Auth, Next, from_fn};
//! use lepus::{Code, Context, Status, rpc::{Client, Reply, Request}};
//!
//! #[lepus::service]
//! trait Notes {
//!     async fn add(&self, text: String) -> String;
//! }
//!
//! struct NotesService;
//!
//! impl Notes for NotesService {
//!     async fn add(&self, text: String) -> String {
//!         // A layer has put the user there.
//!         let context = Context::current();
//!         let name = context.get::<User>().map_or("nobody", |user| &user.name);
//!         format!("{name}: {text}")
//!     }
//! }
//!
//! struct User {
//!     name: String,
//! }
//!
//! /// Replies carry the id of their request.
//! async fn request_id(request: Request, next: Next) -> Reply {
//!     let id = request.context().header("x-request-id").cloned();
//!     let reply = next.run(request).await;
//!     match id {
//!         Some(id) => reply.with_header("x-request-id", id),
//!         None => reply,
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), lepus::CallError> {
//! let auth = Auth::new(|headers| match headers.get("authorization").and_then(|it| it.as_str()) {
//!     Some("Bearer carrot") => Ok(User { name: "Hare".to_owned() }),
//!     _ => Err(Status::new(Code::Unauthenticated, "who are you?")),
//! });
//! let service = NotesServer::new(NotesService)
//!     .layer(auth)
//!     .layer((AccessLog::new(), from_fn(request_id)));
//!
//! // `Server::new(&connection).serve(service)` serves it; here, without a broker.
//! let notes = NotesClient::from(Client::local(service));
//! let error = notes.add("carrots".to_owned()).await.unwrap_err();
//! assert_eq!(error.code(), Some(Code::Unauthenticated));
//! let added = notes.add("carrots".to_owned()).header("authorization", "Bearer carrot");
//! assert_eq!(added.await?, "Hare: carrots");
//! # Ok(())
//! # }
//! ```
//!
//! # Order
//!
//! Each `.layer(…)` wraps what is there already, so the layer that was added last sees a request first and its
//! reply last. Of a tuple of layers, `.layer((first, second))`, the first sees the request first. Services and clients
//! take tuples; workers, subscriptions, producers and publishers do not.
//!
//! # Layers of a server
//!
//! They are added to the service: `CalculatorServer::new(x).layer(…)`, or [`Layered::new`] for a [`Service`] that is
//! written by hand. A layer sees
//!
//! - the request: the [method](Request::descriptor), the encoded [arguments](Request::body) and the
//!   [context](Request::context) with headers, deadline, trace and extensions. What it adds to the context with
//!   [`Request::with`] and [`Request::with_header`], the handler reads by
//!   [`Context::current`](crate::Context::current);
//! - the reply: its [outcome](Reply::outcome) as a [`ReplyOutcome`], its [body](Reply::body) and its
//!   [headers](Reply::headers), to which it may add some.
//!
//! A handler that panics or is stopped at its deadline ends below the layers: they see [`ReplyOutcome::Panicked`] and
//! [`ReplyOutcome::TimedOut`], and may log and count them. After a missed deadline, a layer should return the reply at
//! once, because the request's time is over. A request that is cancelled, for instance because the server's grace period
//! is over, is dropped together with the futures of the layers; a value that they hold can notice it in its `Drop`.
//!
//! A layer that panics, or that itself takes longer than the deadline, ends like a handler without layers does.
//! Calls that share a message ([`coalesce`](crate::rpc::ClientBuilder::coalesce)) pass the layers one by one. Requests that
//! reach no handler, because they are expired, too large, of an unknown method, or not run again after a redelivery, do
//! not pass them.
//!
//! # Layers of a client
//!
//! They are added to its builder: [`ClientBuilder::layer`](crate::rpc::ClientBuilder::layer). They are the same layers, with
//! the same types. The context of the request is what is going to be sent; [`Request::with_header`] adds to it. A call
//! that fails without a reply has the outcome [`ReplyOutcome::Failed`], and a layer makes such a reply by
//! `Reply::from(error)`. Retries of idempotent calls happen below the layers. The caller's own context, with its
//! extensions, is [`Context::current`](crate::Context::current).
//!
//! # Layers of workers and subscriptions
//!
//! They are added to the builders: [`WorkerPool::layer`](crate::jobs::WorkerPool::layer),
//! [`TaskPool::layer`](crate::jobs::TaskPool::layer), [`Subscribe::layer`](crate::events::Subscribe::layer). A layer
//! sees a [`Message`] with its source, type, headers, body and context, and a [`Verdict`], whose
//! [outcome](Verdict::outcome) is a [`VerdictOutcome`]: done, failed, stopped at the deadline, panicked, given back to its
//! queue, or of a task that the worker does not have. [`Attempts::disposition`] tells the consequence: acknowledged, given
//! back, tried again, or a dead letter with its reason. A layer
//! that returns a verdict of its own decides so in place of the handler.
//!
//! ```
//! use lepus::middleware::{Disposition, Message, Next, Verdict};
//!
//! async fn observe(message: Message, next: Next<Message>) -> Verdict {
//!     let (id, attempts) = (message.message_id().map(str::to_owned), message.attempts());
//!     let verdict = next.run(message).await;
//!     if let Disposition::DeadLettered { reason } = attempts.disposition(&verdict) {
//!         eprintln!("{id:?} is a dead letter ({reason}): {:?}", verdict.error());
//!     }
//!     verdict
//! }
//! # let _ = lepus::middleware::from_fn(observe);
//! ```
//!
//! A payload that does not decode is rejected below the layers. A job that is not run because its worker went away too
//! often does not pass them. Streams of events have no handler, and no layers.
//!
//! # Layers of producers and publishers
//!
//! They are added with [`Producer::layer`](crate::jobs::Producer::layer),
//! [`TaskProducer::layer`](crate::jobs::TaskProducer::layer) and
//! [`EventPublisher::layer`](crate::events::EventPublisher::layer). A layer sees a [`Publication`] with its destination,
//! type, headers and body, and the result of the push or the publish; it may add headers, and may return a result
//! without sending. The caller's context is [`Context::current`](crate::Context::current). The layers end with the
//! deadline of the push.
//!
//! # Other stacks
//!
//! Layers of services and clients are composed by the crate `tower-layer`: `.layer(…)` takes any [`Layer`] that wraps a
//! [`Service`] in another one, and every ready layer and function is one. The feature `tower` has adapters for
//! stacks of the crate `tower`: `FromTower` puts one around a service or a client, `ToTower` makes a tower layer of a
//! layer, and `TowerService` a tower service of a service.
//!
//! # Cost
//!
//! Without layers, nothing is paid for them. Each layer costs an allocation for its future, and the first one some more:
//! about a twentieth of the instructions of a server and of a client for a call. In a client, a layer that changes the
//! context of a request, for instance by a header, makes it another request, which costs some more.
//!
//! # Ready layers
//!
//! | | | requests | messages | publications |
//! |---|---|---|---|---|
//! | [`Timeout`] | a shorter deadline | yes | yes | yes |
//! | [`ConcurrencyLimit`] | at most so many at once; others wait | yes | yes | yes |
//! | [`LoadShed`] | at most so many at once; others get `resource_exhausted` | yes | | |
//! | [`RateLimit`] | at most so many in a time; its clones share the limit | yes | yes | yes |
//! | [`Auth`] | a function from headers to claims, or to a status | yes | yes | |
//! | [`AccessLog`] | a line for each | yes | yes | yes |
//!
//! There is none that catches panics: a panic of a handler never ends more than the handler, layers see it as
//! [`ReplyOutcome::Panicked`] or [`VerdictOutcome::Panicked`], and the caller gets `internal`.

// Requests have a trait of their own, `Service`, because generated servers, servers by hand and layers of tower-layer
// implement it, and because it carries the description and the options of a service. A message and a publication have
// neither. So one trait of layers, `Middleware`, is generic over the operation, and its `Next` part is a `Service` for
// a request and an (internal) `Handle` for the others. A common trait of all three, with the output as an associated
// type, would have made every service name its operation and gained tuples of layers for jobs, and nothing else.

mod access_log;
mod auth;
mod from_fn;
mod layered;
mod layers;
mod limit;
mod message;
mod operation;
mod publication;
mod rate_limit;
mod timeout;
#[cfg(feature = "tower")]
mod tower;

pub use tower_layer::Layer;

#[cfg(feature = "tower")]
pub use self::tower::{FromTower, ToTower, TowerService};
pub use crate::policy::settle::{Attempts, Disposition};
pub use crate::policy::verdict::{Verdict, VerdictOutcome};
pub use crate::service::{DynService, Reply, ReplyOutcome, Request, Service};
pub use access_log::AccessLog;
pub use auth::Auth;
pub use from_fn::{Around, FromFn, Middleware, from_fn};
pub use layered::Layered;
pub use limit::{ConcurrencyLimit, LoadShed};
pub use message::Message;
pub use operation::{Next, Operation};
pub use publication::Publication;
pub use rate_limit::RateLimit;
pub use timeout::Timeout;

pub(crate) use layers::MessageLayers;
pub(crate) use operation::Handle;
