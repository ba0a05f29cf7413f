//! The embedded broker beside RabbitMQ, in one run: `AMQP_URL=amqp://… cargo bench -p
//! lepus-broker`. Without `AMQP_URL` the embedded broker runs alone.
//!
//! The thin client writes frames encoded beforehand and looks at little of what it reads,
//! so that the broker is what is measured. `lapin` shows what is left of it in an
//! application. `ROUNDS` (default 3) rounds alternate between the brokers; medians are
//! printed, and the ratio embedded to RabbitMQ.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod lapin_client;
mod thin;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use lepus_broker::Broker;
use thin::Thin;

const KIB: usize = 1024;

/// One broker under test.
#[derive(Clone)]
struct Target {
    name: &'static str,
    uri: String,
    address: SocketAddr,
}

/// A scenario: what it is called, its unit, and a run that gives a figure.
struct Scenario {
    name: &'static str,
    run: fn(&Target) -> f64,
}

const SCENARIOS: [Scenario; 8] = [
    Scenario {
        name: "publish + consume 1 KiB, msg/s",
        run: |t| stream(t, KIB, 200_000),
    },
    Scenario {
        name: "publish + consume 16 B, msg/s",
        run: |t| stream(t, 16, 200_000),
    },
    Scenario {
        name: "confirmed publish 1 KiB, msg/s",
        run: |t| confirmed(t, KIB, 100_000),
    },
    Scenario {
        name: "RPC 16 B, 1 in flight, calls/s",
        run: |t| rpc(t, 1, 5_000),
    },
    Scenario {
        name: "RPC 16 B, 64 in flight, calls/s",
        run: |t| rpc(t, 64, 100_000),
    },
    Scenario {
        name: "RPC 16 B, 256 in flight, calls/s",
        run: |t| rpc(t, 256, 100_000),
    },
    Scenario {
        name: "lapin: publish + consume 1 KiB, msg/s",
        run: |t| lapin_client::stream(&t.uri, KIB, 50_000),
    },
    Scenario {
        name: "lapin: RPC 16 B, 64 in flight, calls/s",
        run: |t| lapin_client::rpc(&t.uri, 64, 30_000),
    },
];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let broker = runtime.block_on(Broker::start()).unwrap();
    let mut targets = vec![Target {
        name: "embedded",
        uri: broker.uri(),
        address: broker.address(),
    }];
    if let Ok(uri) = std::env::var("AMQP_URL") {
        let authority = uri.rsplit('@').next().unwrap().split('/').next().unwrap();
        let address = authority
            .parse()
            .expect("AMQP_URL with an IP address and a port");
        targets.push(Target {
            name: "RabbitMQ",
            uri,
            address,
        });
    }
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    println!(
        "{:<40} {:>12} {:>12} {:>7}",
        "", "embedded", "RabbitMQ", "ratio"
    );
    // First, while this process is still small.
    backlog(&targets);
    for scenario in &SCENARIOS {
        let mut figures = vec![Vec::new(); targets.len()];
        for _ in 0..rounds {
            for (target, figures) in targets.iter().zip(&mut figures) {
                figures.push((scenario.run)(target));
            }
        }
        print_line(scenario.name, figures.into_iter().map(median).collect());
    }
}

/// 100,000 messages queued and drained, and the memory they take meanwhile.
fn backlog(targets: &[Target]) {
    let (mut queued, mut drained, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for target in targets {
        let count = 100_000;
        let mut client = Thin::connect(target.address);
        let queue = client.temporary_queue();
        let before = resident(target.name);
        let start = Instant::now();
        client.confirm_select();
        client.publish_all(&queue, &[7; KIB], count, 1000);
        queued.push(rate(count, start.elapsed()));
        memory.push((resident(target.name) - before) / 1e6);
        let start = Instant::now();
        client.consume(&queue, 1000);
        client.receive_and_ack(count, 200);
        drained.push(rate(count, start.elapsed()));
    }
    print_line("100,000 × 1 KiB queued, msg/s", queued);
    print_line("100,000 × 1 KiB drained, msg/s", drained);
    print_line("memory they took, MB", memory);
}

/// A publisher and a consumer at full speed, nothing confirmed, acks in batches.
fn stream(target: &Target, size: usize, count: usize) -> f64 {
    let mut consumer = Thin::connect(target.address);
    let queue = consumer.temporary_queue();
    consumer.consume(&queue, 1000);
    let address = target.address;
    let start = Instant::now();
    let publisher = std::thread::spawn(move || {
        let mut publisher = Thin::connect(address);
        publisher.publish_unconfirmed(&queue, &vec![7; size], count);
        publisher
    });
    consumer.receive_and_ack(count, 100);
    let elapsed = start.elapsed();
    publisher.join().unwrap();
    rate(count, elapsed)
}

/// A publisher that waits for confirms, at most 500 behind.
fn confirmed(target: &Target, size: usize, count: usize) -> f64 {
    let mut client = Thin::connect(target.address);
    let queue = client.temporary_queue();
    client.confirm_select();
    let start = Instant::now();
    client.publish_all(&queue, &vec![7; size], count, 500);
    rate(count, start.elapsed())
}

/// Calls through a request queue and an exclusive reply queue, `window` in flight.
fn rpc(target: &Target, window: usize, count: usize) -> f64 {
    let address = target.address;
    let mut server = Thin::connect(address);
    let requests = server.temporary_queue();
    server.consume(&requests, u16::try_from(window).unwrap());
    let mut client = Thin::connect(address);
    let replies = client.temporary_queue();
    client.consume_without_ack(&replies);
    let serving = std::thread::spawn(move || server.echo(&replies, count));
    let start = Instant::now();
    client.call(&requests, &[7; 16], count, window);
    let elapsed = start.elapsed();
    serving.join().unwrap();
    rate(count, elapsed)
}

fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn print_line(name: &str, figures: Vec<f64>) {
    match figures[..] {
        [ours, theirs] => println!(
            "{name:<40} {ours:>12.0} {theirs:>12.0} {:>7.2}",
            ours / theirs
        ),
        [ours, ..] => println!("{name:<40} {ours:>12.0}"),
        [] => {}
    }
}

/// Resident memory in bytes: of this process, or of the Erlang machine on this one.
fn resident(name: &str) -> f64 {
    let of = |status: String| {
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let kilobytes = if name == "embedded" {
        std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(of)
    } else {
        std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .find_map(|entry| {
                let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
                status.starts_with("Name:\tbeam.smp").then(|| of(status))?
            })
    };
    kilobytes.unwrap_or(f64::NAN) * 1024.0
}
