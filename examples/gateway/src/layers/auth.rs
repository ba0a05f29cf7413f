//! Authentication: the token of a request, job or HTTP request, and the claims that it proves.

use lepus::amqp::Table;
use lepus::middleware::Auth;
use lepus::{Code, Status};

/// The header of the token, on HTTP and on AMQP.
pub const HEADER: &str = "authorization";

// ANCHOR: auth
/// The claims of a token. A handler reads them with `Context::current().get::<Claims>()`.
#[derive(Clone, Copy, Debug)]
pub struct Claims {
    /// The user.
    pub user: &'static str,
    /// The tenants that the user may act for.
    pub tenants: &'static [&'static str],
}

/// The layer, for services and for workers.
#[must_use]
pub fn layer() -> Auth {
    Auth::new(check)
}

/// A real program verifies a signature here.
fn check(headers: &Table) -> Result<Claims, Status> {
    match headers.get(HEADER).and_then(|token| token.as_str()) {
        Some("Bearer carrot") => Ok(Claims {
            user: "Hare",
            tenants: &["meadow", "forest"],
        }),
        Some("Bearer clover") => Ok(Claims {
            user: "Rabbit",
            tenants: &["burrow"],
        }),
        Some(_) => Err(Status::new(
            Code::Unauthenticated,
            "this token is not valid",
        )),
        None => Err(Status::new(Code::Unauthenticated, "a token is needed")),
    }
}
// ANCHOR_END: auth
