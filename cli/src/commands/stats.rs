//! `stats`: the figures of services, by method or by instance, once or again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lepus::Discovery;
use lepus::control::{Answer, EndpointStats, ServiceStats};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::answers::{collect, narrowed, nobody};
use crate::app::App;
use crate::args::Format;
use crate::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::figures::{Estimate, add};
use crate::output::{Rows, note};

/// Shows the figures of a service, or of everything: requests, errors, latency, time in the queue
///
/// They count from the start of each instance. Quantiles are estimated from the buckets of histograms; those up to 5 ms
/// are not told apart.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus stats
  lepus stats calculator --by instance
  lepus stats calculator --watch 1s
  lepus stats calculator --watch 10s -o jsonl >> figures.jsonl")]
pub(crate) struct Stats {
    /// The service, the work queue, or the queue of the group
    service: Option<String>,
    /// A row for each method, or for each instance
    #[arg(long, value_name = "WHAT", default_value = "method")]
    by: By,
    /// Shows them again after this time, with the rate of requests since the last time, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    watch: Option<Duration>,
    /// The number of answers after which no more are waited for
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Method,
    Instance,
}

/// The sum of the figures of a method or of an instance.
#[derive(Clone, Default, Serialize)]
struct Figures {
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    instances: usize,
    requests: u64,
    /// Requests a second since the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    errors: u64,
    errors_by_code: BTreeMap<String, u64>,
    in_flight: u64,
    expired: u64,
    redelivered: u64,
    retried: u64,
    dead_lettered: u64,
    processing_time_ns: u64,
    mean_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p95_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_wait_p95_ns: Option<u64>,
    #[serde(skip)]
    latency: Vec<u64>,
    #[serde(skip)]
    queue_wait: Vec<u64>,
}

/// A service, and a method or an instance.
type Key = (String, String);

impl Stats {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let mut last: Option<(Instant, BTreeMap<Key, Figures>)> = None;
        loop {
            let asked_at = Instant::now();
            match self.ask(&discovery).await {
                Ok(answers) if answers.is_empty() => {
                    let failure = nobody(self.service.as_deref());
                    self.pass_over(failure, last.is_some())?;
                }
                Ok(answers) => {
                    let mut figures = figures(&answers, self.by);
                    if let Some((before, last)) = &last {
                        let elapsed = asked_at.duration_since(*before);
                        for (key, figures) in &mut figures {
                            figures.rate = rate(last.get(key), figures, elapsed);
                        }
                    }
                    self.show(app, figures.values().cloned().collect())?;
                    last = Some((asked_at, figures));
                }
                Err(failure) => self.pass_over(failure, last.is_some())?,
            }
            match self.watch {
                Some(pause) => sleep_until(asked_at + pause.max(Duration::from_millis(100))).await,
                None => return Ok(Exit::Ok),
            }
        }
    }

    /// Tells a failure of a later look: the connection may come back, and the service too. The figures stay as they are.
    fn pass_over(&self, failure: Failure, has_figures: bool) -> Result<(), Failure> {
        if self.watch.is_none() || !has_figures {
            return Err(failure);
        }
        note(&format!("warning: {}", failure.text()));
        Ok(())
    }

    async fn ask(&self, discovery: &Discovery) -> Result<Vec<Answer<ServiceStats>>, Failure> {
        let question = narrowed(discovery.all_stats(), self.service.as_deref(), self.expect);
        collect(question.stream().await).await
    }

    fn show(&self, app: &App, figures: Vec<Figures>) -> Result<(), Failure> {
        let is_watched = self.watch.is_some();
        if is_watched && app.out.format() == Format::Table {
            if app.out.is_terminal() {
                // To the first place, and the rest of the screen empty.
                app.out.bytes(b"\x1b[H\x1b[2J")?;
            }
            app.out
                .records(&figures, |figures| table(figures, self.by, true))?;
            return if app.out.is_terminal() {
                Ok(())
            } else {
                app.out.text("")
            };
        }
        app.out
            .records(&figures, |figures| table(figures, self.by, is_watched))
    }
}

fn figures(answers: &[Answer<ServiceStats>], by: By) -> BTreeMap<Key, Figures> {
    let mut sums: BTreeMap<Key, Figures> = BTreeMap::new();
    for answer in answers {
        for endpoint in &answer.endpoints {
            let (method, instance, part) = match by {
                By::Method => (Some(endpoint.name.clone()), None, &endpoint.name),
                By::Instance => (None, Some(answer.id.clone()), &answer.id),
            };
            let sum = sums
                .entry((answer.name.clone(), part.clone()))
                .or_insert_with(|| Figures {
                    service: answer.name.clone(),
                    method,
                    instance,
                    ..Figures::default()
                });
            sum.instances = match by {
                By::Method => sum.instances + 1,
                By::Instance => 1,
            };
            sum.add(endpoint);
        }
    }
    for sum in sums.values_mut() {
        sum.finish();
    }
    sums
}

impl Figures {
    fn add(&mut self, endpoint: &EndpointStats) {
        let data = &endpoint.data;
        let counters = [
            (&mut self.requests, endpoint.num_requests),
            (&mut self.errors, endpoint.num_errors),
            (&mut self.processing_time_ns, endpoint.processing_time),
            (&mut self.in_flight, data.in_flight),
            (&mut self.expired, data.expired),
            (&mut self.redelivered, data.redelivered),
            (&mut self.retried, data.retried),
            (&mut self.dead_lettered, data.dead_lettered),
        ];
        for (sum, count) in counters {
            *sum = sum.saturating_add(count);
        }
        for (code, count) in &data.errors {
            let sum = self.errors_by_code.entry(code.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        add(&mut self.latency, &data.latency);
        add(&mut self.queue_wait, &data.queue_wait);
    }

    /// Computes what follows from the sums.
    fn finish(&mut self) {
        let ended: u64 = self
            .latency
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count));
        self.mean_ns = self.processing_time_ns.checked_div(ended).unwrap_or(0);
        self.p95_ns = Estimate::of(&self.latency, 0.95).map(Estimate::nanos);
        self.queue_wait_p95_ns = Estimate::of(&self.queue_wait, 0.95).map(Estimate::nanos);
    }
}

/// Requests a second. `None` if there was nothing before. If an instance has gone, the sum may be less than before.
fn rate(before: Option<&Figures>, now: &Figures, elapsed: Duration) -> Option<f64> {
    let requests = now.requests.saturating_sub(before?.requests);
    let seconds = elapsed.as_secs_f64();
    (seconds > 0.0).then(|| requests as f64 / seconds)
}

fn table(figures: &[Figures], by: By, is_watched: bool) -> Rows {
    let part = match by {
        By::Method => "METHOD",
        By::Instance => "INSTANCE",
    };
    let mut columns = vec![
        "SERVICE",
        part,
        "#REQUESTS",
        "#ERRORS",
        "#IN FLIGHT",
        "#MEAN",
        "#P95",
        "#QUEUE P95",
        "ERRORS BY CODE",
    ];
    if is_watched {
        columns.insert(3, "#PER SECOND");
    }
    let mut rows = Rows::new(&columns);
    for it in figures {
        let quantile = |buckets: &[u64]| match Estimate::of(buckets, 0.95) {
            Some(estimate) => estimate.text(),
            None => "-".to_owned(),
        };
        let mean = match it.p95_ns {
            Some(_) => duration::show(Duration::from_nanos(it.mean_ns)),
            None => "-".to_owned(),
        };
        let by_code = it.errors_by_code.iter();
        let by_code = by_code.map(|(code, count)| format!("{code}={count}"));
        let part = it.method.as_ref().or(it.instance.as_ref());
        let mut cells = vec![
            it.service.clone(),
            part.cloned().unwrap_or_default(),
            it.requests.to_string(),
            it.errors.to_string(),
            it.in_flight.to_string(),
            mean,
            quantile(&it.latency),
            quantile(&it.queue_wait),
            by_code.collect::<Vec<_>>().join(" "),
        ];
        if is_watched {
            cells.insert(
                3,
                it.rate.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
            );
        }
        rows.row(cells);
    }
    rows
}
