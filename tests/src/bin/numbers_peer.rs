//! Serves or reads streams of numbers as a process of its own, for tests that kill it.
//!
//! `numbers_peer serve URI NAMESPACE` prints `ready` and serves until it is killed.
//! `numbers_peer read URI NAMESPACE` opens a stream of numbers and one without items, prints `read 0`, and reads no further.

use lepus::{Connection, Server};
use lepus_tests::numbers::{NumbersClient, NumbersServer, NumbersSubject};

type Failure = Box<dyn std::error::Error>;

async fn serve(connection: &Connection) -> Result<(), Failure> {
    let service = NumbersServer::new(NumbersSubject::default());
    let _server = Server::new(connection).serve(service).start().await?;
    println!("ready");
    std::future::pending().await
}

async fn read(connection: &Connection) -> Result<(), Failure> {
    let numbers = NumbersClient::new(connection);
    let _quiet = numbers.quiet().await?;
    let mut forever = numbers.forever().window(4).await?;
    let first = forever.next().await.ok_or("an item")??;
    println!("read {first}");
    std::future::pending().await
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, uri, namespace] = arguments.as_slice() else {
        return Err("usage: numbers_peer serve|read URI NAMESPACE".into());
    };
    let connection = Connection::builder(uri).namespace(namespace).open().await?;
    match role.as_str() {
        "serve" => serve(&connection).await,
        _ => read(&connection).await,
    }
}
