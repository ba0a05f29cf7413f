//! `check service`: enough instances that serve, and quick enough.

use std::time::Duration;

use clap::Args;
use lepus::Discovery;
use lepus::control::HealthStatus;

use super::report::{Figure, Report};
use crate::answers::collect;
use crate::app::App;
use crate::duration;
use crate::exit::Level;
use crate::failure::Failure;
use crate::figures::{Estimate, add};

/// Checks that instances of a service are serving
///
/// Critical with too few that serve, or if they are too slow; a warning if others do not serve, or if one has a reason
/// to complain.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus check service calculator
  lepus check service calculator --min 2 --p95 200ms --format nagios")]
pub(super) struct ServiceCheck {
    /// The service, the work queue, or the queue of the group
    pub(super) name: String,
    /// The least number of instances that serve
    #[arg(long, value_name = "N", default_value_t = 1)]
    min: u64,
    /// The highest 95th percentile of the time in handlers, since their start, as estimated from histograms
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    p95: Option<Duration>,
}

impl ServiceCheck {
    pub(super) async fn run(&self, app: &App) -> Result<Report, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
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
        if instances > 0 {
            self.latency(&discovery, &mut report).await?;
        }
        Ok(report)
    }

    async fn latency(&self, discovery: &Discovery, report: &mut Report) -> Result<(), Failure> {
        let Some(limit) = self.p95 else {
            return Ok(());
        };
        let answers = collect(discovery.stats(&self.name).stream().await).await?;
        let mut latency = Vec::new();
        for endpoint in answers.iter().flat_map(|answer| &answer.endpoints) {
            add(&mut latency, &endpoint.data.latency);
        }
        let Some(p95) = Estimate::of(&latency, 0.95) else {
            report.fact("no request yet");
            return Ok(());
        };
        report.fact(&format!("p95 {}", p95.text()));
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
        Ok(())
    }
}
