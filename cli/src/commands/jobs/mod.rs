//! `jobs`: jobs of work queues.

mod ls;
mod peek;
mod push;

use clap::{Args, Subcommand};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Pushes jobs, and looks at work queues
#[derive(Args)]
#[command(after_help = "Examples:
  lepus jobs push images.resize '{\"id\": 7, \"width\": 640}'
  lepus jobs ls
  lepus jobs peek images")]
pub(crate) struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Push(push::Push),
    Ls(ls::Ls),
    Peek(peek::Peek),
}

impl Jobs {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        match self.command {
            Command::Push(push) => push.run(app).await,
            Command::Ls(ls) => ls.run(app).await,
            Command::Peek(peek) => peek.run(app).await,
        }
    }
}
