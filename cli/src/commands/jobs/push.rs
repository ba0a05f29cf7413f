//! `jobs push`: a job, or one for each line of stdin.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use clap::Args;
use lepus::jobs::Producer;
use lepus::{Codec, Connection, Error, WorkQueue};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::app::App;
use crate::args::Format;
use crate::documents::{self, Documents};
use crate::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::work_queues;

/// Pushes a job, and writes its id when the broker has stored it
///
/// The queue has to exist: it is not declared here, because its properties are those of its program. JSON is read by
/// all workers of Lepus, whatever their own codec is.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus jobs push mails '\"hare@example.org\"'
  lepus jobs push images.resize '{\"id\": 7, \"width\": 640}' --delay 5m
  lepus jobs push images --task resize @job.json
  lepus jobs push task_queue --text 'a text for any consumer'
  jq -c '.[]' jobs.json | lepus jobs push images.resize -

If there is no queue `images.resize`, the job is the task `resize` of the queue `images`.
Jobs from stdin (-, one a line) are pushed one after the other, each when the one before is stored.")]
pub(crate) struct Push {
    /// The queue, and the task if its jobs are methods of a trait
    #[arg(value_name = "QUEUE[.TASK]")]
    queue: String,
    /// The payload, or the arguments of the task: JSON, @FILE, or - for a line of stdin each
    #[arg(value_name = "JSON")]
    payload: String,
    /// The task, if the name of the queue is all of QUEUE
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// The earliest time of its delivery: 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    delay: Option<Duration>,
    /// The queue is a classic one, so that a queue for the delay is made as one
    #[arg(long, requires = "delay")]
    classic: bool,
    /// The priority, on a queue that has them
    #[arg(long, value_name = "NUMBER")]
    priority: Option<u8>,
    /// The id of the message, by which a handler knows a job again
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A header for the handler
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = documents::header)]
    headers: Vec<(String, lepus::amqp::Value)>,
    /// The payload is a text and not JSON, and is sent as it is (text/plain)
    #[arg(long)]
    text: bool,
}

#[derive(Serialize)]
struct Pushed<'a> {
    id: &'a str,
    queue: &'a str,
    task: Option<&'a str>,
}

impl Push {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let mut documents = Documents::open(&self.payload)?;
        if self.id.is_some() && self.payload == "-" {
            return Err(Failure::usage(
                "--id is that of one job, and not of several",
            ));
        }
        if !self.text {
            documents.check()?;
        }
        let connection = app.connect().await?;
        let (queue, task) = app.within(self.target(connection)).await?;
        let pusher = Pusher::new(connection, &queue);
        let mut pushed = 0_u64;
        loop {
            let stored = self.next(app, &pusher, &mut documents, (&queue, task.as_deref()));
            match stored.await {
                Ok(true) => pushed += 1,
                Ok(false) => return Ok(Exit::Ok),
                Err(failure) => {
                    if pushed > 0 {
                        output::note(&format!("{pushed} jobs were pushed before"));
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Pushes the next job. `false` if there is none.
    async fn next(
        &self,
        app: &App,
        pusher: &Pusher<'_>,
        documents: &mut Documents,
        (queue, task): (&str, Option<&str>),
    ) -> Result<bool, Failure> {
        let payload = if self.text {
            documents.next_text().await?.map(Payload::Text)
        } else {
            documents.next().await?.map(Payload::Json)
        };
        let Some(payload) = payload else {
            return Ok(false);
        };
        let id = self.id.clone().unwrap_or_else(random_id);
        let push = || {
            let mut push = pusher.prepare(&payload).message_id(&id);
            push = push.timeout(app.timeout());
            push = push.headers(self.headers.iter().cloned().collect());
            if let Some(task) = task {
                push = push.task(task);
            }
            if let Some(delay) = self.delay {
                push = push.delay(delay);
            }
            if let Some(priority) = self.priority {
                push = push.priority(priority);
            }
            push
        };
        match (push().await, self.delay) {
            (Ok(()), _) => {}
            // Nobody has used this delay before.
            (Err(error), Some(delay)) if error.is_unroutable() => {
                pusher.declare_delay_queue(delay, self.classic).await?;
                push().await?;
            }
            (Err(error), _) => return Err(error.into()),
        }
        let pushed = Pushed {
            id: &id,
            queue,
            task,
        };
        match app.out.format() {
            Format::Table => app.out.text(&id)?,
            Format::Json | Format::Jsonl => app.out.line(&pushed)?,
        }
        Ok(true)
    }

    /// The queue and the task.
    async fn target(&self, connection: &Connection) -> Result<(String, Option<String>), Failure> {
        let exists = async |queue: &str| -> Result<bool, Failure> {
            Ok(work_queues::counts(connection, queue).await?.is_some())
        };
        if exists(&self.queue).await? {
            return Ok((self.queue.clone(), self.task.clone()));
        }
        let Some((queue, task)) = self.queue.rsplit_once('.').filter(|_| self.task.is_none())
        else {
            return Err(work_queues::missing(&self.queue));
        };
        if queue.is_empty() || task.is_empty() || !exists(queue).await? {
            return Err(Failure::new(
                Exit::Unserved,
                format!("there is no queue `{}`, and no queue `{queue}`", self.queue),
            ));
        }
        Ok((queue.to_owned(), Some(task.to_owned())))
    }
}

enum Payload {
    Json(Box<RawValue>),
    Text(String),
}

/// Pushes to a queue that exists.
struct Pusher<'a> {
    connection: &'a Connection,
    queue: &'a str,
    json: Producer<Box<RawValue>>,
    text: Producer<String>,
}

impl<'a> Pusher<'a> {
    fn new(connection: &'a Connection, queue: &'a str) -> Self {
        let json = WorkQueue::new(queue).codec(Codec::Json).passive();
        let text = WorkQueue::text(queue).passive();
        Self {
            connection,
            queue,
            json: json.producer(connection),
            text: text.producer(connection),
        }
    }

    fn prepare(&self, payload: &Payload) -> lepus::jobs::Push {
        match payload {
            Payload::Json(value) => self.json.push(value),
            Payload::Text(text) => self.text.push(text),
        }
    }

    async fn declare_delay_queue(&self, delay: Duration, is_classic: bool) -> Result<(), Error> {
        let queue = WorkQueue::<IgnoredAny>::new(self.queue);
        let queue = if is_classic { queue.classic() } else { queue };
        queue.declare_delay_queue(self.connection, delay).await
    }
}

/// An id that no other message has: 32 hexadecimal digits.
fn random_id() -> String {
    // Each has new keys.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}
