//! Authentication: a function from the headers of a request to the claims of its caller.

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use super::from_fn::{Middleware, layers};
use super::message::Message;
use super::operation::Next;
use crate::context::Context;
use crate::policy::verdict::Verdict;
use crate::service::{BoxFuture, Reply, Request};
use crate::wire::status::Status;
use crate::wire::value::Table;

type Check = dyn Fn(Context) -> Result<Context, Status> + Send + Sync;

/// A layer of a server, a worker pool or a subscription that checks the headers of each request, job or event. The
/// claims that it finds become an extension of the context, which the handler reads with
/// `Context::current().get::<Claims>()`. Without claims, a request is answered with the status; a job, or an event
/// of a group, goes to the dead-letter queue with the status as its error.
///
/// For a check that has to wait, for instance for a database, write a function of your own
/// ([`from_fn`](super::from_fn)) and use [`Request::with`] or [`Message::with`].
///
/// ```
/// use lepus::middleware::Auth;
/// use lepus::{Code, Context, Status, amqp::Table, rpc::Client};
///
/// struct Claims {
///     tenant: String,
/// }
///
/// fn check(headers: &Table) -> Result<Claims, Status> {
///     match headers.get("authorization").and_then(|token| token.as_str()) {
///         Some("Bearer carrot") => Ok(Claims { tenant: "meadow".to_owned() }),
///         Some(_) => Err(Status::new(Code::PermissionDenied, "this token is not valid")),
///         None => Err(Status::new(Code::Unauthenticated, "a token is needed")),
///     }
/// }
///
/// #[lepus::service]
/// trait Tenants {
///     async fn mine(&self) -> Option<String>;
/// }
///
/// struct TenantsService;
///
/// impl Tenants for TenantsService {
///     async fn mine(&self) -> Option<String> {
///         Some(Context::current().get::<Claims>()?.tenant.clone())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lepus::CallError> {
/// let service = TenantsServer::new(TenantsService).layer(Auth::new(check));
/// let tenants = TenantsClient::from(Client::local(service));
/// let mine = tenants.mine().header("authorization", "Bearer carrot").await?;
/// assert_eq!(mine.as_deref(), Some("meadow"));
/// let refused = tenants.mine().await;
/// assert!(refused.is_err_and(|error| error.code() == Some(Code::Unauthenticated)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Auth(Arc<Check>);

impl Auth {
    /// Checks headers with this function.
    #[must_use]
    pub fn new<C, F>(check: F) -> Self
    where
        C: Send + Sync + 'static,
        F: Fn(&Table) -> Result<C, Status> + Send + Sync + 'static,
    {
        Self(Arc::new(move |context| {
            let claims = check(context.headers())?;
            Ok(context.with(claims))
        }))
    }
}

layers!(Auth);

impl Middleware for Auth {
    fn handle(&self, request: Request, next: Next) -> BoxFuture<Reply> {
        match (self.0)(request.context()) {
            Ok(context) => next.run(request.with_context(context)),
            Err(status) => Box::pin(ready(status.into())),
        }
    }
}

impl Middleware<Message> for Auth {
    fn handle(&self, message: Message, next: Next<Message>) -> BoxFuture<Verdict> {
        match (self.0)(message.context()) {
            Ok(context) => next.run(message.with_context(context)),
            Err(status) => Box::pin(ready(Verdict::of_status(&status))),
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}
