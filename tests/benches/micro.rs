//! The costs of the pieces of a call by themselves, without a broker:
//! `cargo bench -p lepus-tests --features bench --bench micro`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput};
use lepus::middleware::{Next, from_fn};
use lepus::rpc::{ClientBuilder, Request};
use lepus::{__bench as inner, Codec, events::Pattern};
use opentelemetry::trace::{SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: String,
    lines: Vec<(String, u32)>,
}

fn order() -> Order {
    Order {
        id: 4711,
        customer: "hare@example.org".into(),
        lines: vec![("carrots".into(), 3), ("clover".into(), 12)],
    }
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for codec in [Codec::MsgPack, Codec::Json] {
        let Ok(bytes) = codec.encode(&order()) else {
            continue;
        };
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{codec:?}/encode"), |bench| {
            let order = order();
            bench.iter(|| codec.encode(black_box(&order)));
        });
        group.bench_function(format!("{codec:?}/decode"), |bench| {
            bench.iter(|| codec.decode::<Order>(black_box(&bytes)));
        });
    }
}

fn envelope(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("envelope");
    group.bench_function("request", |bench| bench.iter(inner::request_head));
    group.bench_function("reply", |bench| bench.iter(inner::reply_head));
}

#[lepus::service]
trait Adder {
    async fn add(&self, a: u64, b: u64) -> u64;
}

struct Sum;

impl Adder for Sum {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }
}

/// From the stub to the handler and back, encoded both ways, without layers and with some that do nothing.
fn dispatch(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return;
    };
    let noop = || from_fn(async |request: Request, next: Next| next.run(request).await);
    let layered = || AdderServer::new(Sum).layer(noop());
    let mut group = criterion.benchmark_group("dispatch");
    for (name, client) in [
        ("local call", ClientBuilder::local(AdderServer::new(Sum))),
        (
            "with a layer of the server",
            ClientBuilder::local(layered()),
        ),
        (
            "with two layers of the server",
            ClientBuilder::local(layered().layer(noop())),
        ),
        (
            "with a layer of the client",
            ClientBuilder::local(AdderServer::new(Sum)).layer(noop()),
        ),
    ] {
        let client: AdderClient = client.build();
        group.bench_function(name, |bench| {
            bench.iter_custom(|calls| {
                runtime.block_on(async {
                    let started = Instant::now();
                    for _ in 0..calls {
                        let _ = black_box(client.add(black_box(40), 2).await);
                    }
                    started.elapsed()
                })
            });
        });
    }
}

/// The attributes that the span of a call gets at its start, besides those that `tracing` knows.
fn address() -> [KeyValue; 3] {
    [
        KeyValue::new("server.address", Arc::<str>::from("echo")),
        KeyValue::new("network.peer.address", Arc::<str>::from("127.0.0.1")),
        KeyValue::new("network.peer.port", 5672_i64),
    ]
}

/// The spans of a call at its client and at its handler, without a call and without Lepus: what `tracing` and
/// `tracing-opentelemetry` take for them.
fn spans(criterion: &mut Criterion) {
    let tracers = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("bench"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(LevelFilter::INFO);
    let _default = tracing_subscriber::registry().with(layer).set_default();
    let end = |span: &Span| {
        span.record("outcome", "ok");
        let context = span.context();
        let code = KeyValue::new("rpc.response.status_code", "OK");
        context.span().set_attribute(code);
    };
    let address = address();
    let mut group = criterion.benchmark_group("span");
    group.bench_function("client", |bench| {
        bench.iter(|| {
            let span = tracing::info_span!(
                "call",
                otel.name = "echo/echo",
                otel.kind = "client",
                rpc.system.name = "lepus",
                rpc.method = "echo/echo",
                messaging.message.id = Empty,
                outcome = Empty,
            );
            span.context().span().set_attributes(address.clone());
            end(&span);
        });
    });
    let parent = tracing::info_span!("parent").context();
    group.bench_function("server", |bench| {
        bench.iter(|| {
            let span = tracing::info_span!(
                "request",
                otel.name = "echo/echo",
                otel.kind = "server",
                rpc.system.name = "lepus",
                rpc.method = "echo/echo",
                messaging.message.id = None::<&str>,
                caller = None::<&str>,
                outcome = Empty,
            );
            let _ = span.set_parent(parent.clone());
            // When its future is made, and when that is polled.
            for _ in 0..2 {
                span.in_scope(|| black_box(()));
            }
            end(&span);
        });
    });
}

/// The same with a tracer of OpenTelemetry.
fn tracer_spans(criterion: &mut Criterion) {
    let tracer = SdkTracerProvider::builder().build().tracer("bench");
    let start = |kind, further: &[KeyValue], parent: &Context| {
        let mut attributes = Vec::with_capacity(7);
        attributes.push(KeyValue::new("rpc.system.name", "lepus"));
        attributes.push(KeyValue::new("rpc.method", "echo/echo"));
        attributes.extend_from_slice(further);
        let span = tracer.span_builder("echo/echo").with_kind(kind);
        let span = span.with_attributes(attributes);
        parent.with_span(tracer.build_with_context(span, parent))
    };
    let end = |context: &Context| {
        let code = KeyValue::new("rpc.response.status_code", "OK");
        let outcome = KeyValue::new("outcome", "ok");
        context.span().set_attributes([code, outcome]);
        context.span().end();
    };
    let address = address();
    let mut group = criterion.benchmark_group("span with a tracer");
    group.bench_function("client", |bench| {
        bench.iter(|| end(&start(SpanKind::Client, &address, &Context::current())));
    });
    let parent = start(SpanKind::Client, &address, &Context::new());
    let remote = parent.span().span_context().clone();
    group.bench_function("server", |bench| {
        bench.iter(|| {
            let parent = Context::new().with_remote_span_context(remote.clone());
            let context = start(SpanKind::Server, &[], &parent);
            // When its future is made, and when that is polled.
            for _ in 0..2 {
                let _current = context.clone().attach();
            }
            end(&context);
        });
    });
}

fn pending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pending");
    for waiting in [0, 64, 10_000] {
        group.bench_function(format!("1000 calls, {waiting} waiting"), |bench| {
            bench.iter_batched_ref(
                || inner::pending(waiting),
                |one| (0..1000).for_each(|_| one()),
                BatchSize::LargeInput,
            );
        });
    }
}

fn settlement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("settlement");
    group.bench_function("decisions", |bench| bench.iter(inner::settlement));
    for (name, newest_first) in [("in order", false), ("newest first", true)] {
        group.bench_function(format!("64 acks, {name}"), |bench| {
            bench.iter_batched_ref(
                || inner::acks(64, newest_first),
                |run| run(),
                BatchSize::SmallInput,
            );
        });
    }
}

fn topic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topic");
    let key = "shop.berlin.orders.created.express";
    for text in [
        "shop.berlin.orders.created.express",
        "shop.*.orders.#",
        "#.a.#.b.#",
    ] {
        if let Ok(pattern) = Pattern::parse(text) {
            group.bench_function(text, |bench| bench.iter(|| pattern.matches(black_box(key))));
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec(&mut criterion);
    envelope(&mut criterion);
    dispatch(&mut criterion);
    pending(&mut criterion);
    settlement(&mut criterion);
    topic(&mut criterion);
    spans(&mut criterion);
    tracer_spans(&mut criterion);
    criterion.final_summary();
}
