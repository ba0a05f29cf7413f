//! `dead replay`: dead letters go back to their work queue.

use clap::Args;
use lepus::Error;
use serde::Serialize;
use tokio::task::JoinSet;

use super::letter::Letter;
use super::{Choice, Source};
use crate::app::App;
use crate::condition;
use crate::exit::Exit;
use crate::failure::{Failure, with_causes};
use crate::output::{self, Rows};
use crate::progress::Progress;

/// The most letters in hand: their copies are on their way to the broker. If the process is killed, these may be doubled.
const IN_HAND: usize = 64;

/// Returns dead letters to their work queue, where they start with their first attempt
///
/// All that are there when it begins, unless --id or --where choose some. A letter is removed from the dead letters
/// when the broker has stored its copy in the work queue: whatever happens meanwhile, also if this process is killed,
/// none is lost. Those in hand, 64 at the most, of which the copy was stored and the letter not yet removed, may then be in
/// both queues. A letter that the broker refuses stays, and is reported.
///
/// Letters that are left are held until the end, and then put back. The broker ends a replay that takes longer than
/// its consumer_timeout (30 minutes unless configured otherwise): the command fails then, and can be repeated.
#[derive(Args)]
#[command(after_help = format!("Examples:
  lepus dead replay mails --id 5Bk2RfWqC9mE1sYtUz3aXv
  lepus dead replay mails --where 'reason==attempts && error~\"busy\"' --dry-run
  lepus dead replay mails --where 'reason==attempts && error~\"busy\"' --limit 100
  lepus dead replay mails

{}", condition::HELP))]
pub(crate) struct Replay {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    choice: Choice,
    /// The most letters that are replayed
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Replays nothing, and tells what would be replayed
    #[arg(long)]
    dry_run: bool,
}

/// The result of a replay.
#[derive(Default, Serialize)]
struct Replayed {
    /// Those that were replayed, or would be.
    replayed: u64,
    /// Those that were read and stay.
    kept: u64,
    refused: Vec<Refused>,
    is_dry_run: bool,
    is_interrupted: bool,
    #[serde(skip)]
    found: Vec<String>,
}

/// A letter that the broker refused, and that stays.
#[derive(Serialize)]
struct Refused {
    id: Option<String>,
    error: String,
    #[serde(skip)]
    exit: Exit,
}

impl Replay {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let mut replayed = Replayed {
            is_dry_run: self.dry_run,
            ..Replayed::default()
        };
        let result = self.replay(app, &mut replayed).await;
        if let Err(failure) = result {
            if replayed.replayed > 0 {
                output::note(&format!(
                    "{} letters were replayed before",
                    replayed.replayed
                ));
            }
            return Err(failure);
        }
        app.out.record(&replayed, table)?;
        if replayed.is_interrupted {
            return Ok(Exit::Interrupted);
        }
        for refused in &replayed.refused {
            let id = refused.id.as_deref().unwrap_or("without id");
            output::note(&format!("refused: letter {id}: {}", refused.error));
        }
        match replayed.refused.first() {
            Some(refused) => Ok(refused.exit),
            None => {
                self.choice.check_found(&replayed.found)?;
                Ok(Exit::Ok)
            }
        }
    }

    async fn replay(&self, app: &App, replayed: &mut Replayed) -> Result<(), Failure> {
        // From the beginning, so that a signal is not missed.
        let stop = lepus::shutdown_signal();
        tokio::pin!(stop);
        let connection = tokio::select! {
            connection = app.connect() => connection?,
            () = &mut stop => {
                replayed.is_interrupted = true;
                return Ok(());
            }
        };
        let letters = self.source.letters(connection);
        let failure = |error| self.source.failure(error);
        let opening = async { letters.reader().await.map_err(failure) };
        let mut reader = app.within(opening).await?;
        let counting = async { letters.count().await.map_err(failure) };
        let count = app.within(counting).await?;
        let total = self.limit.unwrap_or(u64::MAX).min(count.into());
        let mut progress = Progress::new("letters replayed", total);
        let mut in_hand = InHand::default();
        let mut chosen = 0;
        let mut result = loop {
            let has_all_ids =
                !self.choice.ids.is_empty() && replayed.found.len() >= self.choice.ids.len();
            if chosen >= self.limit.unwrap_or(u64::MAX) || has_all_ids {
                break Ok(());
            }
            let next = tokio::select! {
                biased;
                () = &mut stop => {
                    replayed.is_interrupted = true;
                    break Ok(());
                }
                next = app.within(async { reader.next().await.map_err(failure) }) => next,
            };
            let letter = match next {
                Ok(Some(letter)) => Letter::new(&letter),
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            };
            if !self.choice.has(&letter) {
                replayed.kept += 1;
                continue;
            }
            if let Some(id) = letter.id().filter(|_| !self.choice.ids.is_empty()) {
                replayed.found.push(id.to_owned());
            }
            chosen += 1;
            if self.dry_run {
                replayed.replayed += 1;
                continue;
            }
            let (id, replay) = (letter.id().map(str::to_owned), reader.replay());
            in_hand.replays.spawn(async move { (id, replay.await) });
            if let Err(error) = in_hand.wait_until(IN_HAND - 1, replayed).await {
                break Err(failure(error));
            }
            progress.at(replayed.replayed);
        };
        // Those in hand are finished, whatever has happened, so that none is doubled.
        let finished = in_hand.wait_until(0, replayed).await;
        result = result.and(finished.map_err(failure));
        drop(progress);
        // If the broker does not answer, it puts the letters back when the connection ends.
        let _ = tokio::time::timeout(app.timeout(), reader.close()).await;
        result
    }
}

/// The letters whose copies are not confirmed yet.
#[derive(Default)]
struct InHand {
    replays: JoinSet<(Option<String>, Result<(), Error>)>,
}

impl InHand {
    /// Waits until no more than so many are in hand.
    ///
    /// # Errors
    /// One that concerns all letters.
    async fn wait_until(&mut self, most: usize, replayed: &mut Replayed) -> Result<(), Error> {
        let mut result = Ok(());
        while self.replays.len() > most {
            let Some(joined) = self.replays.join_next().await else {
                break;
            };
            // A task ends without its result only with the runtime.
            let Ok((id, outcome)) = joined else { continue };
            match outcome {
                Ok(()) => replayed.replayed += 1,
                Err(error) if concerns_all(&error) => result = result.and(Err(error)),
                Err(error) => {
                    replayed.kept += 1;
                    replayed.refused.push(Refused {
                        id,
                        error: with_causes(&error),
                        exit: Exit::of_error(&error),
                    });
                }
            }
        }
        result
    }
}

/// Whether no other letter can be replayed either.
fn concerns_all(error: &Error) -> bool {
    let is_about_one = error.is_rejected() || error.is_too_large() || error.amqp_code().is_some();
    !is_about_one || error.amqp_code() == Some(403)
}

fn table(replayed: &Replayed) -> Rows {
    let name = match replayed.is_dry_run {
        true => "#WOULD BE REPLAYED",
        false => "#REPLAYED",
    };
    let mut rows = Rows::new(&[name, "#KEPT", "#REFUSED"]);
    rows.row([
        replayed.replayed.to_string(),
        replayed.kept.to_string(),
        replayed.refused.len().to_string(),
    ]);
    rows
}
