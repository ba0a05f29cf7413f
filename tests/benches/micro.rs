//! The costs of the pieces of a call by themselves, without a broker:
//! `cargo bench -p lepus-tests --features bench --bench micro`.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput};
use lepus::middleware::{Next, from_fn};
use lepus::rpc::{ClientBuilder, Request};
use lepus::{__bench as inner, Codec, events::Pattern};
use serde::{Deserialize, Serialize};

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
    criterion.final_summary();
}
