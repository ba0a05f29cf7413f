//! Serves Fibonacci numbers, and answers the probes of an orchestrator over HTTP: `/live` and `/ready`. The argument
//! is the address for HTTP; port 0 is a free one, which it prints.
//!
//! [`probe`] is all there is to it: it makes the answer of any web framework's handler.

use std::io;

use lepus::control::Health;
use lepus::{Connection, Server};
use lepus_examples::{ExampleError, FibonacciServer, Iterative, logs, shared_uri};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The status and the body of the answer to a probe.
fn probe(health: &Health, path: &str) -> (u16, String) {
    let is_well = match path {
        "/live" => health.live,
        "/ready" => health.ready,
        _ => return (404, "probes are /live and /ready\n".to_owned()),
    };
    let mut body = String::from(if is_well { "well\n" } else { "not well\n" });
    for reason in &health.reasons {
        body.push_str(reason);
        body.push('\n');
    }
    (if is_well { 200 } else { 503 }, body)
}

#[tokio::main]
async fn main() -> Result<(), ExampleError> {
    logs();
    // The probes are answered before the broker is there, which an orchestrator may start later.
    let connection = Connection::builder(&shared_uri())
        .retry_at_start()
        .open()
        .await?;
    let stop = lepus::shutdown_signal();
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:8080")).await?;
    println!(" [*] Probes on {}", listener.local_addr()?);
    tokio::spawn(answer_probes(listener, connection.clone()));
    Server::new(&connection)
        .serve(FibonacciServer::new(Iterative))
        .run(stop)
        .await?;
    connection.close().await;
    Ok(())
}

async fn answer_probes(listener: TcpListener, connection: Connection) {
    while let Ok((stream, _)) = listener.accept().await {
        let health = connection.health();
        // A client that goes away before its answer needs none.
        tokio::spawn(async move { answer(stream, &health).await.ok() });
    }
}

/// Answers one request with just enough HTTP.
async fn answer(stream: TcpStream, health: &Health) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = probe(health, path);
    let answer = format!(
        "HTTP/1.1 {status} \r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // The rest of the request, its headers, is read before the socket is closed.
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
