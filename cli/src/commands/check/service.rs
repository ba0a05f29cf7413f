//! `check service`: enough instances that serve, and quick enough.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use lepus::Discovery;
use lepus::control::HealthStatus;
use tokio::time::{Instant, sleep_until};

use super::report::{Figure, Report};
use crate::answers::collect;
use crate::app::App;
use crate::duration;
use crate::exit::Level;
use crate::failure::Failure;
use crate::figures::{Estimate, add, since};

/// Checks that instances of a service are serving
///
/// Critical with too few that serve, or if they are too slow; a warning if others do not serve, or if one has a reason
/// to complain.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus check service calculator
  lepus check service calculator --min 2 --p95 200ms --format nagios
  lepus check service calculator --p95 200ms --window 30s

The window is 5 s unless given: less than the 10 s after which NRPE ends a plugin. Of a service with few requests a
longer one tells more. Without a request in it, the time is not checked.")]
pub(super) struct ServiceCheck {
    /// The service, the work queue, or the queue of the group
    pub(super) name: String,
    /// The least number of instances that serve
    #[arg(long, value_name = "N", default_value_t = 1)]
    min: u64,
    /// The highest 95th percentile of the time in handlers, of the requests in a window of time, estimated from histograms
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    p95: Option<Duration>,
    /// The window of --p95: the figures are asked for twice, with this time in between
    #[arg(long, value_name = "TIME", default_value = "5s", requires = "p95", value_parser = window)]
    window: Duration,
}

/// Parses a window. A shorter one would end before all have answered.
fn window(text: &str) -> Result<Duration, String> {
    let window = duration::parse(text)?;
    if window < Duration::from_millis(100) {
        return Err("the shortest window is 100ms".to_owned());
    }
    Ok(window)
}

/// The histograms of the handlers' times, by instance and by method with its queue.
struct Latencies {
    asked_at: Instant,
    by_method: BTreeMap<(String, String, String), Vec<u64>>,
}

impl Latencies {
    async fn ask(discovery: &Discovery, name: &str) -> Result<Self, Failure> {
        let asked_at = Instant::now();
        let mut by_method = BTreeMap::new();
        for answer in collect(discovery.stats(name).stream().await).await? {
            for endpoint in &answer.endpoints {
                let (method, queue) = (endpoint.name.clone(), endpoint.queue_group.clone());
                let key = (answer.id.clone(), method, queue);
                by_method.insert(key, endpoint.data.latency.clone());
            }
        }
        Ok(Self {
            asked_at,
            by_method,
        })
    }

    /// The sum of the histograms since an earlier answer, of those who have answered then as well: another one counts
    /// from its start, which may be long ago.
    fn since(&self, before: &Self) -> Vec<u64> {
        let mut sum = Vec::new();
        for (key, now) in &self.by_method {
            if let Some(before) = before.by_method.get(key) {
                add(&mut sum, &since(before, now));
            }
        }
        sum
    }
}

impl ServiceCheck {
    pub(super) async fn run(&self, app: &App) -> Result<Report, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let before = match self.p95 {
            Some(_) => Some(Latencies::ask(&discovery, &self.name).await?),
            None => None,
        };
        let answers = collect(discovery.health().of(&self.name).stream().await).await?;
        let mut report = Report::new("service", &self.name);
        let is_serving = answers
            .iter()
            .filter(|it| it.status == HealthStatus::Serving);
        let serving = is_serving.count() as u64;
        let instances = answers.len() as u64;
        report.fact(&match instances == serving {
            true => format!("{serving} instances serving"),
            false => format!("{serving} of {instances} instances serving"),
        });
        if serving < self.min {
            report.problem(
                Level::Critical,
                &format!("fewer than {} instances serve", self.min),
            );
        }
        for answer in &answers {
            for reason in &answer.reasons {
                report.problem(Level::Warning, &format!("{}: {reason}", answer.id));
            }
            if answer.status != HealthStatus::Serving && answer.reasons.is_empty() {
                report.problem(Level::Warning, &format!("{} is not serving", answer.id));
            }
        }
        report.figure(Figure {
            name: "instances",
            help: "Instances that are serving",
            value: serving as f64,
            unit: "",
            warning: None,
            critical: Some(format!("{}:", self.min)),
        });
        if let (Some(limit), Some(before)) = (self.p95, before.filter(|_| instances > 0)) {
            sleep_until(before.asked_at + self.window).await;
            let now = Latencies::ask(&discovery, &self.name).await?;
            check_latency(limit, &before, &now, &mut report);
        }
        Ok(report)
    }
}

/// Checks the 95th percentile of the requests between two answers.
fn check_latency(limit: Duration, before: &Latencies, now: &Latencies, report: &mut Report) {
    let elapsed = now.asked_at.duration_since(before.asked_at);
    let latency = now.since(before);
    let requests = latency
        .iter()
        .fold(0, |sum: u64, count| sum.saturating_add(*count));
    report.figure(Figure {
        name: "requests_per_second",
        help: "Requests a second in the window",
        value: requests as f64 / elapsed.as_secs_f64(),
        unit: "",
        warning: None,
        critical: None,
    });
    let elapsed = duration::show(elapsed);
    let Some(p95) = Estimate::of(&latency, 0.95) else {
        report.fact(&format!("no request in {elapsed}"));
        return;
    };
    report.fact(&format!(
        "p95 {} of {requests} requests in {elapsed}",
        p95.text()
    ));
    let is_above = match p95 {
        // The bound of the bucket: all that is known is that the quantile is below it.
        Estimate::Below(_) => false,
        Estimate::About(p95) | Estimate::Above(p95) => p95 > limit,
    };
    if is_above {
        let limit = duration::show(limit);
        report.problem(Level::Critical, &format!("p95 is above {limit}"));
    }
    report.figure(Figure {
        name: "p95_seconds",
        help: "The 95th percentile of the time in handlers",
        value: p95.duration().as_secs_f64(),
        unit: "s",
        warning: None,
        critical: Some(limit.as_secs_f64().to_string()),
    });
}
