//! From a stretch of time to figures.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::process;
use crate::task::Task;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Operations a second.
    Rate,
    P50Micros,
    P99Micros,
    /// CPU time for one operation, by process.
    ClientCpuMicros,
    ServerCpuMicros,
    BrokerCpuMicros,
    /// Peak memory, by process.
    ClientBytes,
    ServerBytes,
    /// The memory of the client that one more operation in flight takes.
    BytesInFlight,
    /// The same of the server.
    ServerBytesInFlight,
}

pub type Sample = BTreeMap<Figure, f64>;

/// A stretch of time, over the three processes of a task.
pub struct Window<'a> {
    task: &'a Task,
    started: Instant,
    cpu: [Option<f64>; 3],
}

impl<'a> Window<'a> {
    pub fn open(task: &'a Task) -> Self {
        Self {
            task,
            cpu: cpu(task),
            started: Instant::now(),
        }
    }

    pub fn close(self, operations: u64) -> Sample {
        let operations = operations.max(1) as f64;
        let elapsed = self.started.elapsed().as_secs_f64();
        let mut sample = Sample::from([(Figure::Rate, operations / elapsed)]);
        let names = [
            Figure::ClientCpuMicros,
            Figure::ServerCpuMicros,
            Figure::BrokerCpuMicros,
        ];
        for ((name, before), after) in names.into_iter().zip(self.cpu).zip(cpu(self.task)) {
            if let (Some(before), Some(after)) = (before, after) {
                sample.insert(name, (after - before) * 1e6 / operations);
            }
        }
        if let Some(bytes) = process::peak(std::process::id()) {
            sample.insert(Figure::ClientBytes, bytes);
        }
        if let Some(bytes) = self.task.server.and_then(process::peak) {
            sample.insert(Figure::ServerBytes, bytes);
        }
        sample
    }
}

fn cpu(task: &Task) -> [Option<f64>; 3] {
    [Some(std::process::id()), task.server, task.broker].map(|pid| pid.and_then(process::cpu))
}
