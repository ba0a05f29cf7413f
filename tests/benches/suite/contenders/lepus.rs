//! Lepus, as its users write it.

use bytes::Bytes;
use lepus::amqp::{ConnectionBuilder, Io};
use lepus::middleware::{Next, from_fn};
use lepus::rpc::Request;
use lepus::{Connection, Server};
use lepus_otel::Telemetry;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::load::Operation;
use crate::task::{Contender, Spans, Task};

/// The most calls that share a message.
const COALESCED: usize = 256;

/// A trace that a caller sets without spans.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

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
    let builder = match task.contender.spans() {
        Some(spans) => traced(builder, spans),
        None => builder,
    };
    builder.open().await.expect("a connection")
}

/// Sets up tracing without an exporter, as the book has it for programs in which a call is short.
fn traced(builder: ConnectionBuilder, spans: Spans) -> ConnectionBuilder {
    let tracer = SdkTracerProvider::builder().build().tracer("bench");
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer.clone())
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    let taken = Targets::new().with_default(LevelFilter::INFO);
    let telemetry = Telemetry::new().without_metrics();
    let (taken, telemetry) = match spans {
        Spans::Layer => (taken, telemetry),
        Spans::Tracer => (
            taken.with_target("lepus::span", LevelFilter::OFF),
            telemetry.tracer(tracer),
        ),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(taken))
        .init();
    telemetry.attach(builder)
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
    if task.contender.is_coalesced() {
        builder = builder.coalesce(COALESCED);
    }
    if task.contender == Contender::LepusLayered {
        builder = builder.layer(from_fn(pass));
    }
    let (echo, payload) = (builder.build(), Bytes::from(task.payload()));
    let has_header = task.contender.has_header();
    Operation::new(move || {
        let (mut call, size) = (echo.echo(payload.clone()), payload.len());
        if has_header {
            call = call.header("traceparent", TRACEPARENT);
        }
        async move { assert_eq!(call.await.expect("a reply").len(), size) }
    })
}
