//! The concerns that all services share, each in one file, and the order in which a message meets them.

pub mod auth;
pub mod request_id;
pub mod tenant;

use lepus::middleware::{AccessLog, Layered, Service, from_fn};

/// The headers that flow on from a request to the calls and jobs of its handler.
pub const PROPAGATED: [&str; 3] = [request_id::HEADER, tenant::HEADER, auth::HEADER];

// ANCHOR: around
/// Puts the layers around a service. A request meets the first one first.
pub fn around(service: impl Service) -> Layered {
    Layered::new(service).layer((
        from_fn(request_id::layer),
        AccessLog::new(),
        auth::layer(),
        from_fn(tenant::layer),
    ))
}
// ANCHOR_END: around
