//! The request id: on every log line of a service, the access log included.

use lepus::Context;
use lepus::middleware::Next;
use lepus::rpc::{Reply, Request};
use tracing::Instrument;

/// The header of the request id. The gateway makes one for each HTTP request that has none.
pub const HEADER: &str = "x-request-id";

/// Runs a request in a span that names its id.
pub async fn layer(request: Request, next: Next) -> Reply {
    let context = request.context();
    let span = tracing::info_span!("served", request_id = of(&context));
    next.run(request).instrument(span).await
}

/// The id in the headers of a context.
#[must_use]
pub fn of(context: &Context) -> Option<&str> {
    context.header(HEADER)?.as_str()
}
