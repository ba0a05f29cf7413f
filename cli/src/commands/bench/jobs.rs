//! `bench jobs`: pushes of jobs with their confirms, and then their handling.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use lepus::{Job, WorkQueue};
use tokio::sync::mpsc;

use super::{Bed, Measured, perform, show};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Progress;

/// Measures jobs: pushes them to a queue of its own, each with its confirm, and then handles them
#[derive(Args)]
#[command(after_help = "Examples:
  lepus bench jobs
  lepus bench jobs --jobs 50000 --size 1024 -c 256
  lepus bench jobs --classic -o json")]
pub(super) struct JobsBench {
    /// The number of jobs
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
    /// The pushes and the handlers at a time
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// The bytes of each job
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    size: u32,
    /// Uses a classic queue, instead of a quorum queue
    #[arg(long)]
    classic: bool,
}

impl JobsBench {
    pub(super) async fn run(&self, app: &App, bed: &Bed) -> Result<Exit, Failure> {
        let mut queue = WorkQueue::<String>::new("jobs");
        if self.classic {
            queue = queue.classic();
        }
        queue.declare(&bed.connection).await?;
        let pushed = self.push(app, bed, &queue).await?;
        show(app, &pushed)?;
        let handled = self.handle(bed, &queue, pushed.count).await?;
        show(app, &handled)?;
        Ok(match pushed.failures.is_empty() {
            true => Exit::Ok,
            false => Exit::Status(lepus::Code::Unknown),
        })
    }

    async fn push(
        &self,
        app: &App,
        bed: &Bed,
        queue: &WorkQueue<String>,
    ) -> Result<Measured, Failure> {
        let producer = queue.producer(&bed.connection).timeout(app.timeout());
        let job = Arc::new("x".repeat(self.size as usize));
        let operation = move || {
            let push = producer.push(&job);
            async move { push.await.map(drop) }
        };
        let pushes = (self.jobs, "pushes");
        let (all, elapsed) = perform(pushes, self.concurrency, operation).await;
        let what = format!("pushes, {} at a time,", self.concurrency);
        Ok(Measured::new(what, all, elapsed))
    }

    async fn handle(
        &self,
        bed: &Bed,
        queue: &WorkQueue<String>,
        count: u64,
    ) -> Result<Measured, Failure> {
        let (done, mut jobs) = mpsc::unbounded_channel();
        let started = Instant::now();
        let handler = move |_: Job<String>| {
            // Nobody receives it when the program ends.
            let _ = done.send(());
            std::future::ready(())
        };
        let pool = queue.worker(&bed.connection).concurrency(self.concurrency);
        let running = pool.start(handler).await?;
        let mut progress = Progress::new("jobs", count);
        let mut handled = 0;
        while handled < count && jobs.recv().await.is_some() {
            handled += 1;
            progress.at(handled);
        }
        let elapsed = started.elapsed();
        drop(progress);
        running.stop().await?;
        let what = format!("jobs handled, {} at a time,", self.concurrency);
        let mut measured = Measured::new(what, Vec::new(), elapsed);
        measured.count = handled;
        measured.per_second = handled as f64 / elapsed.as_secs_f64();
        Ok(measured)
    }
}
