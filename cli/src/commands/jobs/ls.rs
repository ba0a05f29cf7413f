//! `jobs ls`: how many jobs wait in work queues.

use std::collections::BTreeSet;

use clap::Args;
use lepus::control::ServedKind;
use serde::Serialize;

use crate::app::App;
use crate::commands::ls::kind_name;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, Tone};
use crate::work_queues::{self, counts};

/// Lists work queues with the numbers of their jobs, workers and dead letters
///
/// Those that living workers serve are found. AMQP has no list of queues: name those without a worker.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus jobs ls
  lepus jobs ls mails images
  lepus jobs ls -o json | jq '.[] | select(.ready > 1000)'

READY are the jobs that wait; those that workers have, and those with a delay, are not counted.
CONSUMERS are those of all programs, INSTANCES the processes of Lepus that serve the queue.")]
pub(crate) struct Ls {
    /// Queues; all that are served, unless given
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    /// `None` if nobody serves it.
    kind: Option<ServedKind>,
    ready: u32,
    consumers: u32,
    /// `None` if there is no queue of dead letters.
    dead: Option<u32>,
    instances: usize,
}

impl Ls {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let connection = app.connect().await?;
        let served = work_queues::served(app, connection).await?;
        let names: BTreeSet<&String> = if self.queues.is_empty() {
            served.keys().collect()
        } else {
            self.queues.iter().collect()
        };
        let mut listed = Vec::new();
        let mut missing = Vec::new();
        for name in names {
            let Some((ready, consumers)) = app.within(counts(connection, name)).await? else {
                missing.push(name.clone());
                continue;
            };
            let served = served.get(name);
            let dead_queue = served.map_or_else(
                || work_queues::default_dead_queue(name),
                |served| served.dead_queue.clone(),
            );
            let dead = app.within(counts(connection, &dead_queue)).await?;
            listed.push(Listed {
                name: name.clone(),
                kind: served.map(|served| served.kind),
                ready,
                consumers,
                dead: dead.map(|(ready, _)| ready),
                instances: served.map_or(0, |served| served.instances),
            });
        }
        app.out.records(&listed, table)?;
        match missing.as_slice() {
            [] => Ok(Exit::Ok),
            [queue] => Err(work_queues::missing(queue)),
            queues => {
                let queues = queues.join("`, `");
                let text = format!("there are no queues `{queues}`");
                Err(Failure::new(Exit::Unserved, text))
            }
        }
    }
}

fn table(listed: &[Listed]) -> Rows {
    let mut rows = Rows::new(&[
        "QUEUE",
        "KIND",
        "#READY",
        "#CONSUMERS",
        "#INSTANCES",
        "#DEAD",
    ]);
    for it in listed {
        let is_stuck = it.ready > 0 && it.consumers == 0;
        let dead = it.dead.map_or("-".to_owned(), |dead| dead.to_string());
        rows.toned([
            (it.name.clone(), None),
            (it.kind.map_or("-", kind_name).to_owned(), None),
            (it.ready.to_string(), is_stuck.then_some(Tone::Bad)),
            (it.consumers.to_string(), is_stuck.then_some(Tone::Bad)),
            (it.instances.to_string(), None),
            (
                dead,
                it.dead.filter(|dead| *dead > 0).map(|_| Tone::Doubtful),
            ),
        ]);
    }
    rows
}
