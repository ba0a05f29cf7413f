//! `check queue`: not too many messages, and enough consumers.

use clap::Args;

use super::report::{Figure, Report};
use crate::app::App;
use crate::exit::Level;
use crate::failure::Failure;
use crate::work_queues::counts;

/// Checks the number of messages that are ready in a queue, and of its consumers
///
/// The broker is asked, so it works with any queue. Critical if there is no such queue.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus check queue resize --warn-ready 100 --max-ready 1000
  lepus check queue resize.dead --max-ready 0
  lepus check queue resize --min-consumers 1")]
pub(super) struct QueueCheck {
    /// The queue
    pub(super) name: String,
    /// The highest number of ready messages without a warning
    #[arg(long, value_name = "N")]
    warn_ready: Option<u32>,
    /// The highest number of ready messages that is not critical
    #[arg(long, value_name = "N")]
    max_ready: Option<u32>,
    /// The least number of consumers that is not critical
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_consumers: u32,
}

impl QueueCheck {
    pub(super) async fn run(&self, app: &App) -> Result<Report, Failure> {
        let connection = app.connect().await?;
        let mut report = Report::new("queue", &self.name);
        let counting = counts(connection, &self.name);
        let (ready, consumers) = match tokio::time::timeout(app.timeout(), counting).await {
            Ok(Ok(Some(counts))) => counts,
            Ok(Ok(None)) => {
                report.problem(Level::Critical, "there is no such queue");
                return Ok(report);
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                report.problem(Level::Unknown, "the broker did not answer in time");
                return Ok(report);
            }
        };
        report.fact(&format!("{ready} messages ready, {consumers} consumers"));
        let is_above = |limit: Option<u32>| limit.filter(|limit| ready > *limit);
        if let Some(limit) = is_above(self.max_ready) {
            report.problem(
                Level::Critical,
                &format!("more than {limit} messages are ready"),
            );
        } else if let Some(limit) = is_above(self.warn_ready) {
            report.problem(
                Level::Warning,
                &format!("more than {limit} messages are ready"),
            );
        }
        if consumers < self.min_consumers {
            let least = self.min_consumers;
            report.problem(Level::Critical, &format!("fewer than {least} consumers"));
        }
        report.figure(Figure {
            name: "ready",
            help: "Messages that are ready in the queue",
            value: ready.into(),
            unit: "",
            warning: self.warn_ready.map(|limit| limit.to_string()),
            critical: self.max_ready.map(|limit| limit.to_string()),
        });
        report.figure(Figure {
            name: "consumers",
            help: "Consumers of the queue",
            value: consumers.into(),
            unit: "",
            warning: None,
            critical: Some(format!("{}:", self.min_consumers)),
        });
        Ok(report)
    }
}
