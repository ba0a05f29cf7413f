//! `dead ls`: how many dead letters there are.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, Tone};
use crate::work_queues::{self, counts};

/// Lists the queues of dead letters, with the numbers of their letters
///
/// Those of the work queues that living workers serve are found. AMQP has no list of queues: name the work queues
/// without a worker.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus dead ls
  lepus dead ls mails images")]
pub(crate) struct Ls {
    /// Work queues; all that are served, unless given
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
}

#[derive(Serialize)]
struct Listed {
    queue: String,
    dead_queue: String,
    letters: u32,
}

impl Ls {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let connection = app.connect().await?;
        let is_given = !self.queues.is_empty();
        let mut served = work_queues::served(app, connection).await?;
        let queues: BTreeSet<String> = match is_given {
            true => self.queues.into_iter().collect(),
            false => served.keys().cloned().collect(),
        };
        let (mut listed, mut missing) = (Vec::new(), None);
        for queue in queues {
            let dead_queue = match served.remove(&queue) {
                Some(served) => served.dead_queue,
                None => work_queues::default_dead_queue(&queue),
            };
            match app.within(counts(connection, &dead_queue)).await? {
                Some((letters, _)) => listed.push(Listed {
                    queue,
                    dead_queue,
                    letters,
                }),
                None => missing = missing.or(Some(dead_queue)),
            }
        }
        app.out.records(&listed, |listed| {
            let mut rows = Rows::new(&["QUEUE", "DEAD QUEUE", "#LETTERS"]);
            for it in listed {
                rows.toned([
                    (it.queue.clone(), None),
                    (it.dead_queue.clone(), None),
                    (
                        it.letters.to_string(),
                        (it.letters > 0).then_some(Tone::Doubtful),
                    ),
                ]);
            }
            rows
        })?;
        // A queue of events that nobody dead-letters has none, which is no failure.
        match missing.filter(|_| is_given) {
            Some(queue) => Err(work_queues::missing(&queue)),
            None => Ok(Exit::Ok),
        }
    }
}
