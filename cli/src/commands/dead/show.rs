//! `dead show`: dead letters, with the reasons why they are there.

use clap::Args;

use super::letter::{self, Letter};
use super::{Choice, Source};
use crate::app::App;
use crate::args::Format;
use crate::condition;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// Shows dead letters, and leaves them in their queue
///
/// They are taken and put back (basic.get, basic.nack), and are marked as redelivered then, which has no consequence
/// for a dead letter. While the command reads, others do not see the letters. A quorum queue may put those that were
/// read behind the others.
#[derive(Args)]
#[command(after_help = format!("Examples:
  lepus dead show mails
  lepus dead show mails --id 5Bk2RfWqC9mE1sYtUz3aXv
  lepus dead show mails --where 'reason==attempts && age<1h' -n 100 -o jsonl | jq .error

{}", condition::HELP))]
pub(crate) struct Show {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    choice: Choice,
    /// The most letters that are shown
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    number: usize,
}

impl Show {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let Self {
            source,
            choice,
            number,
        } = self;
        let letters = source.letters(app.connect().await?);
        let opening = async {
            letters
                .reader()
                .await
                .map_err(|error| source.failure(error))
        };
        let mut reader = app.within(opening).await?;
        let mut shown: Vec<Letter> = Vec::new();
        let mut has_more = false;
        // With ids, all of them are looked for.
        let read = loop {
            if !choice.ids.is_empty() && shown.len() >= choice.ids.len() {
                break Ok(());
            }
            let next = async { reader.next().await.map_err(|error| source.failure(error)) };
            match app.within(next).await {
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
                Ok(Some(letter)) => {
                    let letter = Letter::new(&letter);
                    if !choice.has(&letter) {
                        continue;
                    }
                    if shown.len() >= number {
                        has_more = true;
                        break Ok(());
                    }
                    shown.push(letter);
                }
            }
        };
        // If the broker does not answer, it puts the letters back when the connection ends.
        let _ = tokio::time::timeout(app.timeout(), reader.close()).await;
        read?;
        match (app.out.format(), shown.as_slice()) {
            (Format::Table, [only]) if !choice.ids.is_empty() => {
                app.out.record(only, letter::details)?;
            }
            _ => app.out.records(&shown, letter::table)?,
        }
        if has_more {
            output::note(&format!("there are more than {number}; -n shows more"));
        }
        let found = shown.iter().filter_map(Letter::id).map(str::to_owned);
        choice.check_found(&found.collect::<Vec<_>>())?;
        Ok(Exit::Ok)
    }
}
