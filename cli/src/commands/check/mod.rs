//! `check`: one check of a service or of a queue, for monitoring.

mod queue;
mod report;
mod service;

use clap::{Args, Subcommand, ValueEnum};

use crate::app::App;
use crate::exit::{Exit, Level};
use crate::failure::Failure;
use report::Report;

/// Checks a service or a queue, for monitoring: one line, and 0 ok, 1 warning, 2 critical, 3 unknown
///
/// A check that cannot be made, because there is no broker for instance, is unknown.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus check service calculator --min 2 --p95 200ms
  lepus check queue resize --warn-ready 100 --max-ready 1000 --format nagios
  lepus check service calculator --format prometheus > /var/lib/node_exporter/lepus.prom")]
pub(crate) struct Check {
    #[command(subcommand)]
    subject: Subject,
    /// The form of the result
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    format: ReportFormat,
}

#[derive(Subcommand)]
enum Subject {
    Service(service::ServiceCheck),
    Queue(queue::QueueCheck),
}

/// The form of the result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// One line for people
    Text,
    /// One line with performance data, as Nagios and those like it read it
    Nagios,
    /// Gauges for Prometheus's node exporter, which reads them from a file
    Prometheus,
    /// A JSON object
    Json,
}

impl Check {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let (kind, name, checked) = match &self.subject {
            Subject::Service(check) => ("service", &check.name, check.run(app).await),
            Subject::Queue(check) => ("queue", &check.name, check.run(app).await),
        };
        let report = checked.unwrap_or_else(|failure| {
            let mut report = Report::new(kind, name);
            report.problem(Level::Unknown, failure.text());
            report
        });
        app.out.text(&report.render(self.format)?)?;
        Ok(Exit::Check(report.level()))
    }
}
