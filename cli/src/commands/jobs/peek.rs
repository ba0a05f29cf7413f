//! `jobs peek`: the next jobs of a queue, which stay there.

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::message;
use crate::output::{self, Rows};
use crate::work_queues::{about_queue, any_queue};

/// Shows the next jobs of a queue, and leaves them there
///
/// AMQP has no way to look at a message: each job is taken (basic.get) and put back (basic.nack). Nothing is lost if
/// the command is killed meanwhile. What changes:
///
/// - While the command runs, no worker gets these jobs.
/// - They are marked as redelivered, and a worker of Lepus counts that as one of their attempts, because it cannot
///   tell a look from a crash. A job that was looked at as often as it may be tried goes to the dead letters. With
///   quorum queues of RabbitMQ 4.3 and later the look is not counted.
/// - Quorum queues of earlier versions count it towards their delivery limit, which is 20 for those of Lepus.
/// - A classic queue puts them back in their places; a quorum queue may put them behind others.
///
/// So one job is shown unless more are asked for. Looking at dead letters (`lepus dead show`) costs nothing.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus jobs peek mails
  lepus jobs peek images -n 5 -o jsonl | jq .body")]
pub(crate) struct Peek {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The most jobs that are shown
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1)]
    number: u32,
}

#[derive(Serialize)]
struct Peeked {
    id: Option<String>,
    task: Option<String>,
    attempt: u32,
    redelivered: bool,
    pushed_at: Option<String>,
    app: Option<String>,
    exchange: String,
    key: String,
    content_type: Option<String>,
    headers: serde_json::Value,
    body: Option<Box<RawValue>>,
}

impl Peek {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let connection = app.connect().await?;
        let getter = any_queue(&self.queue).getter(connection);
        // Held until all are read, or the first would be read again.
        let mut jobs = Vec::new();
        while jobs.len() < self.number as usize {
            let next = async {
                let next = getter.next().await;
                next.map_err(|error| about_queue(error, &self.queue))
            };
            match app.within(next).await? {
                Some(job) => jobs.push(job),
                None => break,
            }
        }
        let shown: Vec<Peeked> = jobs
            .iter()
            .map(|job| Peeked {
                id: job.message_id().map(str::to_owned),
                task: job.task().map(str::to_owned),
                attempt: job.attempt(),
                redelivered: job.redelivered(),
                pushed_at: job.timestamp().and_then(message::time),
                app: job.app_id().map(str::to_owned),
                exchange: job.exchange().to_owned(),
                key: job.key().to_owned(),
                content_type: job.content_type().map(str::to_owned),
                headers: message::headers(job.headers()),
                body: message::raw(&message::body(job.content_type(), job.bytes())),
            })
            .collect();
        for job in jobs {
            job.requeue();
        }
        app.out.records(&shown, table)?;
        match shown.len() {
            0 => output::note(&format!("`{}` has no job that waits", self.queue)),
            1 => output::note("the job is back in its queue, and marked as redelivered"),
            jobs => output::note(&format!(
                "the {jobs} jobs are back in their queue, and marked as redelivered"
            )),
        }
        Ok(Exit::Ok)
    }
}

fn table(jobs: &[Peeked]) -> Rows {
    let mut rows = Rows::new(&["ID", "TASK", "#ATTEMPT", "PUSHED", "HEADERS", "BODY"]);
    for job in jobs {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.row([
            or_dash(&job.id),
            or_dash(&job.task),
            job.attempt.to_string(),
            or_dash(&job.pushed_at),
            message::headers_line(&job.headers),
            message::body_line(job.body.as_deref()),
        ]);
    }
    rows
}
