//! Lepus, as its users write it.

use bytes::Bytes;
use lepus::middleware::{Next, from_fn};
use lepus::rpc::Request;
use lepus::{Connection, Server, amqp::Io};
use lepus_otel::Telemetry;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

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

/// A layer that does nothing.
async fn pass(request: Request, next: Next) -> lepus::rpc::Reply {
    next.run(request).await
}

pub async fn connect(task: &Task) -> Connection {
    let io = match task.contender {
        Contender::LepusShared => Io::Shared,
        _ => Io::Own,
    };
    let builder = Connection::builder(&task.address)
        .namespace(&task.namespace)
        .io(io);
    let builder = if task.contender == Contender::LepusTraced {
        let tracers = SdkTracerProvider::builder().build();
        // As the book has it for programs in which a call is short.
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracers.tracer("bench"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(LevelFilter::INFO);
        tracing_subscriber::registry().with(spans).init();
        Telemetry::new().without_metrics().attach(builder)
    } else {
        builder
    };
    builder.open().await.expect("a connection")
}

pub async fn serve(task: &Task) -> String {
    let connection = connect(task).await;
    let service = EchoServer::new(Mirror).concurrency(task.case.prefetch);
    let server = Server::new(&connection);
    let server = if task.contender == Contender::LepusLayered {
        server.serve(service.layer(from_fn(pass)))
    } else {
        server.serve(service)
    };
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
    if task.contender == Contender::LepusLayered {
        builder = builder.layer(from_fn(pass));
    }
    let (echo, payload) = (builder.build(), Bytes::from(task.payload()));
    Operation::new(move || {
        let (call, size) = (echo.echo(payload.clone()), payload.len());
        async move { assert_eq!(call.await.expect("a reply").len(), size) }
    })
}
