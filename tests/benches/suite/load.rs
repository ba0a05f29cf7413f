//! So many operations at once, each followed by the next: a closed loop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::histogram::Histogram;
use crate::measure::{Figure, Sample, Window};
use crate::task::Task;

const WARM_UP: Duration = Duration::from_millis(400);

/// Does one thing, or as many as `weight` says.
pub struct Operation {
    pub weight: u64,
    once: Box<dyn Fn() -> Once + Send + Sync>,
}

type Once = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Operation {
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        once: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            weight: 1,
            once: Box::new(move || Box::pin(once())),
        }
    }

    pub fn weighing(mut self, weight: u64) -> Self {
        self.weight = weight;
        self
    }
}

pub async fn measure(task: &Task, operation: Operation) -> Sample {
    let operation = Arc::new(operation);
    drive(task, &operation, WARM_UP.min(task.time)).await;
    let window = Window::open(task);
    let (operations, latencies) = drive(task, &operation, task.time).await;
    let mut sample = window.close(operations);
    for (figure, share) in [(Figure::P50Micros, 0.5), (Figure::P99Micros, 0.99)] {
        let nanos = latencies.quantile(share) / operation.weight as f64;
        sample.insert(figure, nanos / 1e3);
    }
    sample
}

async fn drive(task: &Task, operation: &Arc<Operation>, time: Duration) -> (u64, Arc<Histogram>) {
    let latencies = Arc::new(Histogram::new());
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for _ in 0..task.case.flight {
        let (operation, latencies) = (Arc::clone(operation), Arc::clone(&latencies));
        callers.spawn(async move {
            let mut done = 0;
            let mut now = Instant::now();
            while now < until {
                (operation.once)().await;
                let after = Instant::now();
                latencies.record((after - now).as_nanos() as u64);
                done += operation.weight;
                now = after;
            }
            done
        });
    }
    let done = callers.join_all().await.into_iter().sum();
    (done, latencies)
}
