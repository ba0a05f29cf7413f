//! Traces over several hops, with spans of messages by `tracing-opentelemetry`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod scenarios;

use lepus_otel::Telemetry;
use opentelemetry_sdk::trace::SdkTracer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// All spans go to OpenTelemetry through `tracing`.
fn set_up(tracer: SdkTracer) -> Telemetry {
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(spans).init();
    Telemetry::new()
}
