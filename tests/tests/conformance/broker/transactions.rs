//! Transactions, the shared prefetch, routing by several keys, and the history of the dead, frame
//! by frame: the embedded broker answers as RabbitMQ does.

#[path = "../../../../broker/tests/scenarios/mod.rs"]
mod scenarios;

use lepus_tests::{Env, conformance};
use scenarios::Site;

/// The same conversations as in the broker's own tests.
macro_rules! conversations {
    ($($module:ident: $($scenario:ident),+ $(,)?;)+) => {
        $(mod $module {
            use super::{Env, conformance, scenarios, site};

            conformance!($($scenario),+);

            $(async fn $scenario(env: Env) {
                scenarios::$module::$scenario(site(env).await).await;
            })+
        })+
    };
}

async fn site(env: Env) -> Site {
    Site {
        address: address(&env.uri).await,
        name: Box::new(move |what| env.name(what)),
    }
}

async fn address(uri: &str) -> std::net::SocketAddr {
    let authority = uri.rsplit('@').next().expect("user info");
    let host = authority.split('/').next().expect("a host");
    let mut addresses = tokio::net::lookup_host(host).await.expect("a known host");
    addresses.next().expect("an address")
}

scenarios::with_every_conversation!(conversations);
