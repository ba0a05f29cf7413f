//! Samples of figures, taken again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lepus::control::{ServedKind, ServiceStats};
use lepus::{Connection, Discovery, Error};
use tokio::sync::mpsc;

use crate::work_queues::{counts, default_dead_queue};

/// The figures at one time.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// The figures of each thing that is served, by its name and the instance.
    pub(super) served: BTreeMap<(String, String), Figures>,
    /// The work queues, by name.
    pub(super) queues: BTreeMap<String, Depth>,
}

/// The figures of what an instance serves, since it was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) kind: ServedKind,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) in_flight: u64,
    pub(super) latency: Vec<u64>,
}

/// The messages of a work queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    /// `None` if the queue does not exist.
    pub(super) ready: Option<u32>,
    pub(super) consumers: u32,
    /// `None` if there is no queue of dead letters.
    pub(super) dead: Option<u32>,
}

/// Takes samples.
pub(super) struct Sampler {
    connection: Connection,
    /// The queues that the user has named.
    queues: Vec<String>,
    interval: Duration,
}

impl Sampler {
    pub(super) fn new(connection: Connection, queues: Vec<String>, interval: Duration) -> Self {
        Self {
            connection,
            queues,
            interval,
        }
    }

    /// Takes samples in a task, until nobody receives them any more. An error is one of this sample, and others follow.
    pub(super) fn start(self) -> mpsc::Receiver<Result<Sample, Error>> {
        let (sender, samples) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(self.interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let sample = self.take().await;
                if sender.send(sample).await.is_err() {
                    break;
                }
            }
        });
        samples
    }

    async fn take(&self) -> Result<Sample, Error> {
        // Whoever does not answer in an interval is not shown.
        let discovery = Discovery::new(&self.connection).limit(self.interval);
        let mut served: BTreeMap<(String, String), Figures> = BTreeMap::new();
        let mut names: BTreeSet<String> = self.queues.iter().cloned().collect();
        let answers = discovery.all_stats().await?;
        let at = Instant::now();
        for answer in &answers {
            if answer.kind != ServedKind::Service {
                let endpoints = answer.endpoints.iter();
                names.extend(endpoints.map(|it| it.queue_group.clone()));
            }
            let of_name = served.entry((answer.name.clone(), answer.id.clone()));
            of_name.or_default().add(answer);
        }
        let mut queues = BTreeMap::new();
        for name in names {
            let counted = counts(&self.connection, &name).await?;
            let dead = counts(&self.connection, &default_dead_queue(&name)).await?;
            let depth = Depth {
                ready: counted.map(|(ready, _)| ready),
                consumers: counted.map_or(0, |(_, consumers)| consumers),
                dead: dead.map(|(ready, _)| ready),
            };
            queues.insert(name, depth);
        }
        Ok(Sample { at, served, queues })
    }
}

impl Figures {
    fn add(&mut self, stats: &ServiceStats) {
        self.kind = stats.kind;
        for endpoint in &stats.endpoints {
            self.requests = self.requests.saturating_add(endpoint.num_requests);
            self.errors = self.errors.saturating_add(endpoint.num_errors);
            self.in_flight = self.in_flight.saturating_add(endpoint.data.in_flight);
            crate::figures::add(&mut self.latency, &endpoint.data.latency);
        }
    }
}
