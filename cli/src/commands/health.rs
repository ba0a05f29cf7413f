//! `health`: whether what runs is well, and the reasons if it is not.

use clap::Args;
use lepus::control::{HealthStatus, ServiceHealth};
use lepus::{Code, Discovery};

use crate::answers::{collect, narrowed, nobody};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, Tone};

/// Shows whether the instances of a service, or of everything, are serving, and the reasons if not
///
/// Ends with 78 (64 and gRPC's `unavailable`) if one is not serving, and with 4 if there is none.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus health
  lepus health calculator
  lepus health calculator --expect 3 -o json")]
pub(crate) struct Health {
    /// The service, the work queue, or the queue of the group
    service: Option<String>,
    /// The number of answers after which no more are waited for
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
}

impl Health {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let question = narrowed(discovery.health(), self.service.as_deref(), self.expect);
        let answers = collect(question.stream().await).await?;
        if answers.is_empty() {
            return Err(nobody(self.service.as_deref()));
        }
        let healths: Vec<&ServiceHealth> = answers.iter().map(|answer| &**answer).collect();
        app.out.records(&healths, table)?;
        let is_serving = |it: &&ServiceHealth| it.status == HealthStatus::Serving;
        Ok(match healths.iter().all(is_serving) {
            true => Exit::Ok,
            false => Exit::Status(Code::Unavailable),
        })
    }
}

fn table(healths: &[&ServiceHealth]) -> Rows {
    let mut rows = Rows::new(&["NAME", "INSTANCE", "STATUS", "QUEUES", "REASONS"]);
    for health in healths {
        let tone = match (health.status, health.reasons.is_empty()) {
            (HealthStatus::Serving, true) => Tone::Good,
            (HealthStatus::Serving, false) => Tone::Doubtful,
            _ => Tone::Bad,
        };
        let queues = health.consumers.iter();
        let queues = queues.map(|it| format!("{} ({})", it.queue, it.state));
        rows.toned([
            (health.name.clone(), None),
            (health.id.clone(), None),
            (health.status.to_string(), Some(tone)),
            (queues.collect::<Vec<_>>().join(", "), None),
            (health.reasons.join("; "), None),
        ]);
    }
    rows
}
