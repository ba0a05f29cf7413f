//! `bench`: rates and latencies of calls and of jobs.

mod jobs;
mod rpc;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use lepus::Connection;
use lepus::amqp::Io;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::app::App;
use crate::args::Format;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::latency::Summary;
use crate::progress::Progress;

/// Measures calls or jobs over the broker: rate, latency, and a histogram
///
/// Without a method, `bench rpc` calls a service of its own, which returns what it gets. It and the queue of `bench jobs`
/// have a namespace of their own, which is deleted at the end; a bench that is killed leaves it behind.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus bench rpc
  lepus bench rpc -c 1 --calls 1000
  lepus bench rpc calculator.divide dividend=84 divisor=2
  lepus bench jobs --jobs 20000 --size 1024")]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Rpc(rpc::RpcBench),
    Jobs(jobs::JobsBench),
}

impl Bench {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let stop = lepus::shutdown_signal();
        let bed = Bed::open(app).await?;
        let measuring = async {
            match &self.what {
                What::Rpc(bench) => bench.run(app, &bed).await,
                What::Jobs(bench) => bench.run(app, &bed).await,
            }
        };
        // Its queues are deleted after a signal too.
        let result = tokio::select! {
            biased;
            result = measuring => result,
            () = stop => Ok(Exit::Interrupted),
        };
        bed.close().await;
        result
    }
}

/// A connection with a namespace of its own.
struct Bed {
    connection: Connection,
    namespace: String,
}

impl Bed {
    async fn open(app: &App) -> Result<Self, Failure> {
        // A RandomState is seeded at random.
        let id = RandomState::new().hash_one(std::process::id());
        let bench = format!("lepus-bench-{id:016x}");
        let namespace = match app.namespace() {
            Some(outer) => format!("{outer}.{bench}"),
            None => bench,
        };
        let builder = app.builder()?.namespace(&namespace).control(false);
        let connection = app.open(builder.io(Io::Own)).await?;
        Ok(Self {
            connection,
            namespace,
        })
    }

    /// Another connection with the same namespace.
    async fn other(&self, app: &App) -> Result<Connection, Failure> {
        let builder = app.builder()?.namespace(&self.namespace);
        app.open(builder.io(Io::Own)).await
    }

    /// Deletes what was declared, and closes the connection.
    async fn close(self) {
        if let Err(error) = self.connection.delete_namespace().await {
            crate::output::note(&format!(
                "warning: queues of {} are left: {error}",
                self.namespace
            ));
        }
        self.connection.close().await;
    }
}

/// The result of a bench.
#[derive(Serialize)]
struct Measured {
    what: String,
    count: u64,
    seconds: f64,
    per_second: f64,
    /// By the text of the failure.
    failures: BTreeMap<String, u64>,
    latency: Option<Summary>,
}

impl Measured {
    fn new(what: String, ends: Vec<End>, elapsed: Duration) -> Self {
        let (mut latencies, mut failures) = (Vec::new(), BTreeMap::new());
        for end in ends {
            match end {
                End::Done(latency) => latencies.push(latency),
                End::Failed(name) => *failures.entry(name).or_default() += 1,
            }
        }
        let (count, seconds) = (latencies.len() as u64, elapsed.as_secs_f64());
        Self {
            what,
            count,
            seconds,
            per_second: count as f64 / seconds,
            failures,
            latency: Summary::of(latencies),
        }
    }

    fn text(&self) -> String {
        let Self {
            what,
            count,
            seconds,
            per_second,
            ..
        } = self;
        let mut lines = vec![format!(
            "{count} {what} in {seconds:.3} s, {per_second:.0} a second"
        )];
        for (name, count) in &self.failures {
            lines.push(format!("{count} failed: {name}"));
        }
        if let Some(latency) = &self.latency {
            lines.extend(latency.lines());
        }
        lines.join("\n")
    }
}

/// Performs an operation so many times, so many at a time. Returns its ends, and the time of all.
async fn perform<F, R>(
    (count, unit): (u64, &'static str),
    concurrency: u16,
    operation: F,
) -> (Vec<End>, Duration)
where
    F: Fn() -> R + Clone + Send + 'static,
    R: Future<Output = Result<(), lepus::Error>> + Send,
{
    let (ended, mut ends) = mpsc::unbounded_channel();
    let left = Arc::new(AtomicU64::new(count));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..concurrency {
        let (operation, left, ended) = (operation.clone(), Arc::clone(&left), ended.clone());
        tasks.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let began = Instant::now();
                let end = match operation().await {
                    Ok(()) => End::Done(began.elapsed()),
                    Err(error) => End::Failed(Exit::of_error(&error).name()),
                };
                // Nobody receives it when the program ends.
                let _ = ended.send(end);
            }
        });
    }
    drop(ended);
    let mut progress = Progress::new(unit, count);
    let mut all = Vec::new();
    while let Some(end) = ends.recv().await {
        all.push(end);
        progress.at(all.len() as u64);
    }
    (all, started.elapsed())
}

/// The end of one call or push.
enum End {
    Done(Duration),
    Failed(String),
}

fn show(app: &App, measured: &Measured) -> Result<(), Failure> {
    match app.out.format() {
        Format::Table => app.out.text(&measured.text()),
        Format::Json => app.out.json(measured),
        Format::Jsonl => app.out.line(measured),
    }
}
