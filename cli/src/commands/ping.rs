//! `ping`: signs of life, and the time they take.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use lepus::Discovery;
use lepus::control::{Answer, Pong};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::answers::{collect, narrowed, nobody};
use crate::app::App;
use crate::args::Format;
use crate::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::latency::Summary;
use crate::output::{Rows, note, printable};

/// Asks all instances of a service, or of everything, for a sign of life
///
/// The first round waits until no answer has come for 300 ms. Each later round ends as soon as all that answered before
/// have answered again, and tells which did not.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus ping
  lepus ping calculator -n 10 --every 200ms
  lepus ping calculator -n 1 --expect 3")]
pub(crate) struct Ping {
    /// The service, the work queue, or the queue of the group
    service: Option<String>,
    /// The number of rounds
    #[arg(short = 'n', long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The time from one round to the next
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    every: Duration,
    /// The number of answers of a round after which no more are waited for
    #[arg(long, value_name = "N")]
    expect: Option<usize>,
}

#[derive(Serialize)]
struct Record {
    round: u32,
    name: String,
    instance: String,
    elapsed_ns: u64,
}

impl Ping {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let discovery = Discovery::new(app.connect().await?).limit(app.timeout());
        let mut records: Vec<Record> = Vec::new();
        let mut latencies = Vec::new();
        let mut known: BTreeSet<(String, String)> = BTreeSet::new();
        let mut missed = 0;
        for round in 1..=self.rounds {
            let next = Instant::now() + self.every;
            let expected = self
                .expect
                .or_else(|| (!known.is_empty()).then_some(known.len()));
            let question = narrowed(discovery.ping(), self.service.as_deref(), expected);
            let answers = collect(question.stream().await).await?;
            let answered: BTreeSet<(String, String)> = answers.iter().map(key).collect();
            for (name, id) in known.difference(&answered) {
                missed += 1;
                note(&format!(
                    "warning: {name}, instance {id}, did not answer in round {round}"
                ));
            }
            for answer in answers {
                let record = Record {
                    round,
                    name: answer.name.clone(),
                    instance: answer.id.clone(),
                    elapsed_ns: u64::try_from(answer.elapsed().as_nanos()).unwrap_or(u64::MAX),
                };
                latencies.push(answer.elapsed());
                match app.out.format() {
                    Format::Table => app.out.text(&printable(&line(&record, answer.elapsed())))?,
                    Format::Jsonl => app.out.line(&record)?,
                    Format::Json => {}
                }
                records.push(record);
            }
            known.extend(answered);
            if round < self.rounds {
                sleep_until(next).await;
            }
        }
        if app.out.format() == Format::Json {
            app.out.records(&records, |_| Rows::new(&[]))?;
        }
        let Some(summary) = Summary::of(latencies) else {
            return Err(nobody(self.service.as_deref()));
        };
        let figures = summary.lines().into_iter().next().unwrap_or_default();
        let (answers, instances) = (records.len(), known.len());
        note(&format!(
            "{answers} answers of {instances} instances, {missed} missed: {figures}"
        ));
        Ok(match missed {
            0 => Exit::Ok,
            _ => Exit::Unserved,
        })
    }
}

fn key(answer: &Answer<Pong>) -> (String, String) {
    (answer.name.clone(), answer.id.clone())
}

fn line(record: &Record, elapsed: Duration) -> String {
    let Record {
        round,
        name,
        instance,
        ..
    } = record;
    format!(
        "{name} {instance} round={round} time={}",
        duration::show(elapsed).replace(' ', "")
    )
}
