//! `topology diff`: a file of `topology export`, and what is in use now.

use std::collections::BTreeSet;
use std::fs;

use clap::Args;
use lepus::{Code, Connection};
use serde::Serialize;

use super::survey::{exchange_exists, survey};
use super::{Document, VERSION};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, Tone};
use crate::work_queues::counts;

/// Compares a file of `lepus topology export` with what is in use now
///
/// MISSING is in the file and not on the broker. UNSERVED is a queue without a consumer, of a service, work queue or
/// group of the file. NEW is in use and not in the file. Without a difference the exit code is 0 and nothing is
/// written, and otherwise it is 73.
#[derive(Args)]
#[command(after_help = "Examples:
  lepus topology diff topology.json
  lepus topology diff topology.json -o json | jq '.[] | select(.difference == \"missing\")'")]
pub(crate) struct Diff {
    /// The file
    #[arg(value_name = "FILE")]
    file: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Missing,
    Unserved,
    New,
}

#[derive(Serialize)]
struct Difference {
    difference: Kind,
    /// `queue` or `exchange`.
    entity: &'static str,
    name: String,
    role: &'static str,
    /// Empty for an exchange.
    of: String,
}

impl Diff {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let expected = read(&self.file)?;
        let connection = app.connect().await?;
        let mut differences = missing(app, connection, &expected).await?;
        let actual = survey(app, &[], &[]).await?;
        differences.extend(new(&expected, &actual));
        if !differences.is_empty() || app.out.format() == crate::args::Format::Json {
            app.out.records(&differences, table)?;
        }
        Ok(match differences.is_empty() {
            true => Exit::Ok,
            false => Exit::Status(Code::FailedPrecondition),
        })
    }
}

fn read(file: &str) -> Result<Document, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{file} cannot be read: {error}")))?;
    let document: Document = serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!(
            "{file} is no file of `lepus topology export`: {error}"
        ))
    })?;
    if document.lepus_topology != VERSION {
        return Err(Failure::usage(format!(
            "{file} has version {} of its form, and this program reads version {VERSION}",
            document.lepus_topology
        )));
    }
    Ok(document)
}

/// The entries of the file that the broker does not have, or that nobody serves.
async fn missing(
    app: &App,
    connection: &Connection,
    expected: &Document,
) -> Result<Vec<Difference>, Failure> {
    let mut differences = Vec::new();
    for exchange in &expected.exchanges {
        if !app
            .within(exchange_exists(connection, &exchange.name))
            .await?
        {
            differences.push(Difference {
                difference: Kind::Missing,
                entity: "exchange",
                name: exchange.name.clone(),
                role: exchange.role.as_str(),
                of: String::new(),
            });
        }
    }
    for queue in &expected.queues {
        let difference = match app.within(counts(connection, &queue.name)).await? {
            None => Kind::Missing,
            Some((_, 0)) if queue.role.is_consumed() => Kind::Unserved,
            Some(_) => continue,
        };
        differences.push(Difference {
            difference,
            entity: "queue",
            name: queue.name.clone(),
            role: queue.role.as_str(),
            of: queue.of.clone(),
        });
    }
    Ok(differences)
}

/// The entries in use that are not in the file.
fn new(expected: &Document, actual: &Document) -> Vec<Difference> {
    let known: BTreeSet<&str> = expected.exchanges.iter().map(|it| &*it.name).collect();
    let exchanges = actual
        .exchanges
        .iter()
        .filter(|it| !known.contains(&*it.name));
    let exchanges = exchanges.map(|exchange| Difference {
        difference: Kind::New,
        entity: "exchange",
        name: exchange.name.clone(),
        role: exchange.role.as_str(),
        of: String::new(),
    });
    let known: BTreeSet<&str> = expected.queues.iter().map(|it| &*it.name).collect();
    let queues = actual.queues.iter().filter(|it| !known.contains(&*it.name));
    let queues = queues.map(|queue| Difference {
        difference: Kind::New,
        entity: "queue",
        name: queue.name.clone(),
        role: queue.role.as_str(),
        of: queue.of.clone(),
    });
    exchanges.chain(queues).collect()
}

fn table(differences: &[Difference]) -> Rows {
    let mut rows = Rows::new(&["DIFFERENCE", "ENTITY", "NAME", "ROLE", "OF"]);
    for it in differences {
        let (word, tone) = match it.difference {
            Kind::Missing => ("MISSING", Tone::Bad),
            Kind::Unserved => ("UNSERVED", Tone::Bad),
            Kind::New => ("NEW", Tone::Doubtful),
        };
        rows.toned([
            (word.to_owned(), Some(tone)),
            (it.entity.to_owned(), None),
            (it.name.clone(), None),
            (it.role.to_owned(), None),
            (it.of.clone(), None),
        ]);
    }
    rows
}
