//! `events`: events of exchanges.

mod publish;
mod tail;

use clap::{Args, Subcommand};
use lepus::Error;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::work_queues::is_missing;

/// Shows the events of an exchange as they come, and publishes events
#[derive(Args)]
#[command(after_help = "Examples:
  lepus events tail logs --bind 'kern.*'
  lepus events publish logs kern.critical '\"no more memory\"'")]
pub(crate) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Tail(tail::Tail),
    Publish(publish::Publish),
}

impl Events {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        match self.command {
            Command::Tail(tail) => tail.run(app).await,
            Command::Publish(publish) => publish.run(app).await,
        }
    }
}

/// The failure of an error about an exchange.
fn about_exchange(error: Error, exchange: &str) -> Failure {
    if is_missing(&error) {
        return Failure::new(Exit::Unserved, format!("there is no exchange `{exchange}`"));
    }
    error.into()
}
