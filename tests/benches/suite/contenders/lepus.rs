//! Lepus, as its users write it.

use bytes::Bytes;
use lepus::{Connection, Server, amqp::Io};

use crate::load::Operation;
use crate::task::{Contender, Task};

/// The most calls that share a message.
const COALESCED: usize = 256;

#[lepus::service(name = "echo", codec = "bytes")]
pub trait Echo {
    #[rpc(params = "bare", timeout = "60s")]
    async fn echo(&self, payload: Bytes) -> Bytes;
}

pub struct Mirror;

impl Echo for Mirror {
    async fn echo(&self, payload: Bytes) -> Bytes {
        payload
    }
}

pub async fn connect(task: &Task) -> Connection {
    let io = match task.contender {
        Contender::LepusShared => Io::Shared,
        _ => Io::Own,
    };
    Connection::builder(&task.address)
        .namespace(&task.namespace)
        .io(io)
        .open()
        .await
        .expect("a connection")
}

pub async fn serve(task: &Task) -> String {
    let connection = connect(task).await;
    let service = EchoServer::new(Mirror).concurrency(task.case.prefetch);
    let server = Server::new(&connection).serve(service);
    // It serves for as long as the process lives.
    std::mem::forget(server.start().await.expect("a server"));
    String::new()
}

pub async fn client(task: &Task) -> Operation {
    let connection = connect(task).await;
    let mut builder = EchoClient::builder(&connection);
    if task.contender == Contender::LepusCoalesced {
        builder = builder.coalesce(COALESCED);
    }
    let (echo, payload) = (builder.build(), Bytes::from(task.payload()));
    Operation::new(move || {
        let (call, size) = (echo.echo(payload.clone()), payload.len());
        async move { assert_eq!(call.await.expect("a reply").len(), size) }
    })
}
