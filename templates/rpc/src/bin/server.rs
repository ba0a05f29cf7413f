//! Serves greetings until Ctrl-C or SIGTERM.

use std::error::Error;

use lepus::{Connection, Server};

use {{crate_name}}::{GreeterServer, GreeterService, broker_uri, logs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logs();
    let connection = Connection::open(&broker_uri()).await?;
    // Up to eight requests at once. Start as many servers as you like: they share the requests.
    let service = GreeterServer::new(GreeterService).concurrency(8);
    let server = Server::new(&connection).serve(service);
    println!("serving");
    server.run(lepus::shutdown_signal()).await?;
    connection.close().await;
    Ok(())
}
