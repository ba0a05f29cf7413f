//! `dead purge`: dead letters are removed for good.

use clap::Args;

use super::Source;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// Removes all dead letters of a work queue for good, and writes their number
#[derive(Args)]
#[command(after_help = "Examples:
  lepus dead purge mails          says how many there are, and removes none
  lepus dead purge mails --yes")]
pub(crate) struct Purge {
    #[command(flatten)]
    source: Source,
    /// Removes them; without it, nothing is done
    #[arg(long)]
    yes: bool,
}

impl Purge {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let letters = self.source.letters(app.connect().await?);
        let failure = |error| self.source.failure(error);
        if !self.yes {
            let counting = async { letters.count().await.map_err(failure) };
            let count = app.within(counting).await?;
            let queue = self.source.dead_queue();
            return Err(Failure::usage(format!(
                "`{queue}` has {count} dead letters, which --yes would remove for good"
            )));
        }
        let purging = async { letters.purge().await.map_err(failure) };
        let purged = app.within(purging).await?;
        app.out.text(&purged.to_string())?;
        Ok(Exit::Ok)
    }
}
