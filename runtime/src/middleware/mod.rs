//! Layers around servers and clients: code that sees every request, and may change or answer it.
//!
//! A concern that many methods share, such as request ids, authentication, limits or an access log, is written
//! once, as a layer, and not in every handler. A layer is any [`Layer`] of the crate `tower-layer` that wraps a
//! [`Service`] in another one. [`from_fn`] makes one of a function:
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
//! reply last. Of a tuple of layers, `.layer((first, second))`, the first one does.
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
//! [`ReplyOutcome::TimedOut`], may log and count them, and should return that reply at once, because the request's
//! time is over. A request that is cancelled, for instance because the server's grace period is over, is dropped
//! together with the futures of the layers; a value that they hold can notice it in its `Drop`.
//!
//! A layer that panics, or that itself takes longer than the deadline, ends like a handler without layers does.
//! Calls that share a message ([`coalesce`](crate::rpc::ClientBuilder::coalesce)) pass the layers one by one. Requests that
//! reach no handler, because they are expired, too large or of an unknown method, do not pass them.
//!
//! # Layers of a client
//!
//! They are added to its builder: [`ClientBuilder::layer`](crate::rpc::ClientBuilder::layer). They are the same layers, with
//! the same types. The context of the request is what is going to be sent; [`Request::with_header`] adds to it. A call
//! that fails without a reply has the outcome [`ReplyOutcome::Failed`], and a layer makes such a reply by
//! `Reply::from(error)`. Retries of idempotent calls happen below the layers. The caller's own context, with its
//! extensions, is [`Context::current`](crate::Context::current).
//!
//! # Cost
//!
//! A service or a client without layers pays nothing for them. Each layer costs an allocation for its future.
//!
//! # Ready layers
//!
//! | | |
//! |---|---|
//! | [`Timeout`] | a shorter deadline for each request |
//! | [`ConcurrencyLimit`] | at most so many requests at once; others wait |
//! | [`LoadShed`] | at most so many requests at once; others get `resource_exhausted` |
//! | [`RateLimit`] | at most so many requests in a time; its clones share the limit |
//! | [`Auth`] | a function from headers to claims, or to a status |
//! | [`AccessLog`] | a line for each request |

mod access_log;
mod auth;
mod from_fn;
mod layered;
mod limit;
mod rate_limit;
mod timeout;

pub use tower_layer::Layer;

pub use crate::service::{DynService, Reply, ReplyOutcome, Request, Service};
pub use access_log::AccessLog;
pub use auth::Auth;
pub use from_fn::{Around, FromFn, Middleware, Next, from_fn};
pub use layered::Layered;
pub use limit::{ConcurrencyLimit, LoadShed};
pub use rate_limit::RateLimit;
pub use timeout::Timeout;
