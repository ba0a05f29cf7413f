//! The tenant: named by a header, allowed by the claims, read by handlers.

use lepus::middleware::{Message, Next, Verdict};
use lepus::rpc::{Reply, Request};
use lepus::{Code, Context, Status, reject};

use super::auth::Claims;

/// The header of the tenant, on HTTP and on AMQP.
pub const HEADER: &str = "x-tenant";

// ANCHOR: tenant
/// A tenant that the user may act for. A handler reads it with `Context::current().get::<Tenant>()`.
#[derive(Clone, Debug)]
pub struct Tenant(pub String);

/// Answers requests that name no tenant, or one that is not theirs.
pub async fn layer(request: Request, next: Next) -> Reply {
    match check(&request.context()) {
        Ok(tenant) => next.run(request.with(tenant)).await,
        Err(status) => status.into(),
    }
}

/// The same for jobs, which become dead letters.
pub async fn job_layer(message: Message, next: Next<Message>) -> Verdict {
    match check(&message.context()) {
        Ok(tenant) => next.run(message.with(tenant)).await,
        Err(status) => reject(status).into(),
    }
}

fn check(context: &Context) -> Result<Tenant, Status> {
    let named = context.header(HEADER).and_then(|name| name.as_str());
    let named = named.ok_or_else(|| Status::new(Code::InvalidArgument, "a tenant is needed"))?;
    match context.get::<Claims>() {
        Some(claims) if claims.tenants.contains(&named) => Ok(Tenant(named.to_owned())),
        _ => {
            let text = format!("`{named}` is not one of your tenants");
            Err(Status::new(Code::PermissionDenied, text))
        }
    }
}
// ANCHOR_END: tenant
