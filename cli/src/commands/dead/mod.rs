//! `dead`: the dead letters of work queues.

mod letter;
mod ls;
mod purge;
mod replay;
mod show;

use clap::{Args, Subcommand};
use lepus::Connection;
use lepus::jobs::DeadLetters;
use serde::de::IgnoredAny;

use crate::app::App;
use crate::condition::Condition;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::work_queues::{any_queue, default_dead_queue};
use letter::Letter;

/// Shows, replays and removes dead letters: the jobs that were given up
#[derive(Args)]
#[command(after_help = "Examples:
  lepus dead ls
  lepus dead show mails
  lepus dead replay mails --where 'error~\"busy\"' --dry-run")]
pub(crate) struct Dead {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ls(ls::Ls),
    Show(show::Show),
    Replay(replay::Replay),
    Purge(purge::Purge),
}

impl Dead {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        match self.command {
            Command::Ls(ls) => ls.run(app).await,
            Command::Show(show) => show.run(app).await,
            Command::Replay(replay) => replay.run(app).await,
            Command::Purge(purge) => purge.run(app).await,
        }
    }

    /// Whether the command stops by itself at a signal.
    pub(crate) fn handles_signals(&self) -> bool {
        matches!(self.command, Command::Replay(_))
    }
}

/// The work queue whose dead letters are meant.
#[derive(Args)]
struct Source {
    /// The work queue, not that of its dead letters
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The queue of its dead letters, if it is not QUEUE.dead
    #[arg(long, value_name = "NAME")]
    dead_queue: Option<String>,
}

impl Source {
    /// The name of the queue of the dead letters.
    fn dead_queue(&self) -> String {
        let given = self.dead_queue.clone();
        given.unwrap_or_else(|| default_dead_queue(&self.queue))
    }

    fn letters(&self, connection: &Connection) -> DeadLetters<IgnoredAny> {
        any_queue(&self.queue)
            .dead_letter_queue(&self.dead_queue())
            .dead_letters(connection)
    }

    fn failure(&self, error: lepus::Error) -> Failure {
        crate::work_queues::about_queue(error, &self.dead_queue())
    }
}

/// The letters that are meant, of all.
#[derive(Args)]
struct Choice {
    /// The id of a message; may be given several times
    #[arg(long = "id", value_name = "ID", conflicts_with = "condition")]
    ids: Vec<String>,
    /// A condition, such as 'reason==attempts && error~"busy"'; see below
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<Condition>,
}

impl Choice {
    fn has(&self, letter: &Letter) -> bool {
        let is_named = self.ids.is_empty() || letter.id().is_some_and(|id| self.names(id));
        let condition = self.condition.as_ref();
        is_named && condition.is_none_or(|it| it.holds(&|field| letter.field(field)))
    }

    fn names(&self, id: &str) -> bool {
        self.ids.iter().any(|named| named == id)
    }

    /// The failure if none of the letters has one of the ids. `found` are those of letters that were read.
    fn check_found(&self, found: &[String]) -> Result<(), Failure> {
        let missing: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let missing: Vec<&str> = missing
            .into_iter()
            .filter(|id| !found.iter().any(|found| found == id))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join("`, `");
        Err(Failure::new(
            Exit::Status(lepus::Code::NotFound),
            format!("there is no dead letter `{missing}`"),
        ))
    }
}
