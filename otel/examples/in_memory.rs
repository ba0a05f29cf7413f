//! The spans of a call as data, for a test of your own: an exporter that keeps them in memory.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use lepus::{Connection, Server};
use lepus_otel::Telemetry;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[lepus::service]
trait Calculator {
    async fn double(&self, number: u32) -> u32;
}

struct CalculatorService;

impl Calculator for CalculatorService {
    async fn double(&self, number: u32) -> u32 {
        number * 2
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let exporter = InMemorySpanExporter::default();
    let tracers = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let spans = tracing_opentelemetry::layer().with_tracer(tracers.tracer("calculator"));
    tracing_subscriber::registry().with(spans).init();

    let broker = lepus_broker::Broker::start().await?;
    let builder = Telemetry::new()
        .without_metrics()
        .attach(Connection::builder(&broker.uri()));
    let connection = builder.open().await?;
    let server = Server::new(&connection)
        .serve(CalculatorServer::new(CalculatorService))
        .start()
        .await?;
    println!("{}", CalculatorClient::new(&connection).double(21).await?);
    server.stop().await?;
    connection.close().await;

    let spans = exporter.get_finished_spans()?;
    let call = spans
        .iter()
        .find(|span| span.span_kind == opentelemetry::trace::SpanKind::Client);
    for span in &spans {
        let is_child = call.is_some_and(|call| call.span_context.span_id() == span.parent_span_id);
        let parent = if is_child { ", child of the call" } else { "" };
        println!("{:?} {}{parent}", span.span_kind, span.name);
    }
    Ok(())
}
