//! The gateway and its services in one process.
//!
//! ```console
//! $ cargo run -p lepus-gateway
//! $ curl -i localhost:3000/orders --json '{"item": "carrot", "count": 1}' \
//!     -H 'authorization: Bearer carrot' -H 'x-tenant: meadow'
//! ```

use std::time::Duration;

use lepus_examples::{ExampleBroker, ExampleError};
use lepus_gateway::{connect, http, orders, stock};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    let filter = EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "warn,lepus::access=info,lepus_gateway=info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:3000");

    let broker = ExampleBroker::start().await?;
    let programs = [
        stock::start(&broker.uri).await?,
        orders::start(&broker.uri).await?,
    ];
    let connection = connect(&broker.uri, "gateway").await?;

    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let router = http::router(&connection, Duration::from_secs(5));
    axum::serve(listener, router)
        .with_graceful_shutdown(lepus::shutdown_signal())
        .await?;

    for program in programs {
        program.stop().await?;
    }
    connection.close().await;
    Ok(())
}
