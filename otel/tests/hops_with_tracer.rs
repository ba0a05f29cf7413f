//! Traces over several hops, with spans of messages that are made with a tracer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod scenarios;

use std::sync::OnceLock;

use lepus::Server;
use lepus_otel::Telemetry;
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt as _, TraceContextExt as _, Tracer as _};
use opentelemetry_sdk::trace::SdkTracer;
use scenarios::{Fixture, in_trace, spans_of, tree};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The spans of the program go to OpenTelemetry through `tracing`, and those of Lepus to the log alone.
fn set_up(tracer: SdkTracer) -> Telemetry {
    TRACER.get_or_init(|| tracer.clone());
    let of_program = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("lepus::span", LevelFilter::OFF);
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer.clone())
        .with_filter(of_program);
    let lines = tracing_subscriber::fmt::layer()
        .with_test_writer()
        .with_filter(LevelFilter::INFO);
    tracing_subscriber::registry()
        .with(spans)
        .with(lines)
        .init();
    Telemetry::new().tracer(tracer)
}

#[lepus::service]
trait Stock {
    async fn count(&self) -> u32;
    /// Counts in a task of its own, with the context of Lepus.
    async fn count_in_a_task(&self) -> u32;
}

struct StockService(StockClient);

impl Stock for StockService {
    async fn count(&self) -> u32 {
        7
    }

    async fn count_in_a_task(&self) -> u32 {
        let stock = self.0.clone();
        let counting = lepus::Context::current().scope(async move { stock.count().await });
        tokio::spawn(counting).await.unwrap().unwrap()
    }
}

async fn stock(fixture: &Fixture) -> (StockClient, lepus::Running) {
    let stock = StockClient::new(&fixture.connection);
    let service = StockServer::new(StockService(stock.clone())).concurrency(2);
    let server = Server::new(&fixture.connection).serve(service);
    (stock, server.start().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_belongs_to_the_current_context_of_opentelemetry() {
    let fixture = Fixture::new().await;
    let (stock, server) = stock(&fixture).await;
    let root = TRACER.get().unwrap().start("by hand");
    let root = Context::new().with_span(root);
    let trace = root.span().span_context().trace_id();
    let counted = async { stock.count().await }.with_context(root.clone());
    assert_eq!(counted.await.unwrap(), 7);
    root.span().end();
    let expected = [
        "by hand (Internal)",
        "stock/count (Client) < by hand (Internal)",
        "stock/count (Server) < stock/count (Client)",
    ];
    assert_eq!(tree(&spans_of(trace, 3).await), expected);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_of_lepus_carries_the_trace_into_another_task() {
    let fixture = Fixture::new().await;
    let (stock, server) = stock(&fixture).await;
    let (counted, trace) = in_trace(async { stock.count_in_a_task().await }).await;
    assert_eq!(counted.unwrap(), 7);
    let expected = [
        "root (Internal)",
        // The task has the trace of the request, whose span is that of the caller.
        "stock/count (Client) < stock/count_in_a_task (Client)",
        "stock/count (Server) < stock/count (Client)",
        "stock/count_in_a_task (Client) < root (Internal)",
        "stock/count_in_a_task (Server) < stock/count_in_a_task (Client)",
    ];
    assert_eq!(tree(&spans_of(trace, 5).await), expected);
    server.stop().await.unwrap();
}
