//! `topology diff`: a file of `topology export`, and what is in use now.

use std::collections::BTreeSet;

use clap::Args;
use lepus::control::DeclaredBinding;
use lepus::{Code, Connection, Error};
use serde::Serialize;

use super::survey::{exchange_exists, survey};
use super::{Document, Exchange, Queue, VERSION};
use crate::app::App;
use crate::documents;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Rows, Tone};
use crate::work_queues::{counts, is_missing};

/// Compares a file of `lepus topology export` with what is in use now
///
/// MISSING is in the file and not on the broker; a binding is missing if the programs that serve its queue now do not
/// declare it. DIFFERENT is another type or other arguments on the broker than in the file. CHANGED is what the programs
/// that run now declare in another way than the file. UNSERVED is a queue without a consumer, of a service, work queue
/// or group of the file. NEW is in use and not in the file. Without a difference the exit code is 0 and nothing is
/// written, and otherwise it is 73.
///
/// The properties on the broker are compared by a declaration as in the file of what exists, which the broker refuses if
/// it differs, and which changes nothing. It needs the permission to configure. Bindings on the broker cannot be seen.
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
    Different,
    Changed,
    Unserved,
    New,
}

#[derive(Serialize)]
struct Difference {
    difference: Kind,
    /// `queue`, `exchange` or `binding`.
    entity: &'static str,
    name: String,
    role: &'static str,
    /// Empty for an exchange.
    of: String,
    /// The broker's words, or both declarations; empty if there is nothing to add.
    reason: String,
}

impl Difference {
    fn of_queue(difference: Kind, queue: &Queue) -> Self {
        Self {
            difference,
            entity: "queue",
            name: queue.name.clone(),
            role: queue.role.as_str(),
            of: queue.of.clone(),
            reason: String::new(),
        }
    }

    fn of_exchange(difference: Kind, exchange: &Exchange) -> Self {
        Self {
            difference,
            entity: "exchange",
            name: exchange.name.clone(),
            role: exchange.role.as_str(),
            of: String::new(),
            reason: String::new(),
        }
    }

    fn of_binding(difference: Kind, binding: &DeclaredBinding) -> Self {
        let arguments = binding.arguments.iter();
        let arguments = arguments.map(|(name, value)| format!(" {name}={value}"));
        Self {
            difference,
            entity: "binding",
            name: format!("{}{}", binding.key, arguments.collect::<String>()),
            role: "binding",
            of: format!(
                "{} -> {}{}",
                binding.exchange, binding.queue, binding.to_exchange
            ),
            reason: String::new(),
        }
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

impl Diff {
    pub(crate) async fn run(self, app: &App) -> Result<Exit, Failure> {
        let expected = read(&self.file)?;
        let connection = app.connect().await?;
        let mut differences = missing(app, connection, &expected).await?;
        let actual = survey(app, &[], &[]).await?;
        differences.extend(changed(&expected, &actual));
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
    let text = documents::read(file)?;
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

/// The entries of the file that the broker does not have, or has with other properties, or that nobody serves.
async fn missing(
    app: &App,
    connection: &Connection,
    expected: &Document,
) -> Result<Vec<Difference>, Failure> {
    let mut differences = Vec::new();
    for exchange in &expected.exchanges {
        let verified = match &exchange.declared {
            Some(declared) => app.within(verified(declared.verify(connection))).await?,
            None => app
                .within(exchange_exists(connection, &exchange.name))
                .await?
                .into(),
        };
        let difference = match verified {
            Verified::Same(()) => continue,
            Verified::Missing => Difference::of_exchange(Kind::Missing, exchange),
            Verified::Different(reason) => {
                Difference::of_exchange(Kind::Different, exchange).because(reason)
            }
        };
        differences.push(difference);
    }
    for queue in &expected.queues {
        let Some((_, consumers)) = app.within(counts(connection, &queue.name)).await? else {
            differences.push(Difference::of_queue(Kind::Missing, queue));
            continue;
        };
        if let Some(declared) = &queue.declared {
            let verified = app.within(verified(declared.verify(connection))).await?;
            if let Verified::Different(reason) = verified {
                let difference = Difference::of_queue(Kind::Different, queue);
                differences.push(difference.because(reason));
            }
        }
        if consumers == 0 && queue.role.is_consumed() {
            differences.push(Difference::of_queue(Kind::Unserved, queue));
        }
    }
    Ok(differences)
}

/// The result of a comparison with the broker.
enum Verified<T> {
    Same(T),
    Missing,
    /// The broker's words.
    Different(String),
}

impl From<bool> for Verified<()> {
    fn from(exists: bool) -> Self {
        match exists {
            true => Self::Same(()),
            false => Self::Missing,
        }
    }
}

async fn verified<T>(
    verifying: impl Future<Output = Result<T, Error>>,
) -> Result<Verified<T>, Error> {
    match verifying.await {
        Ok(same) => Ok(Verified::Same(same)),
        Err(error) if is_missing(&error) => Ok(Verified::Missing),
        Err(error) if error.is_mismatch() => Ok(Verified::Different(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The entries that the programs which run now declare in another way than the file.
fn changed(expected: &Document, actual: &Document) -> Vec<Difference> {
    let mut differences = Vec::new();
    for exchange in &expected.exchanges {
        let now = actual.exchanges.iter().find(|it| it.name == exchange.name);
        let now = now.and_then(|now| now.declared.as_ref());
        if let Some(reason) = change(exchange.declared.as_ref(), now) {
            let difference = Difference::of_exchange(Kind::Changed, exchange);
            differences.push(difference.because(reason));
        }
    }
    let is_served = |name: &str| {
        let mut queues = actual.queues.iter();
        queues.any(|queue| queue.name == name && queue.role.is_consumed())
    };
    for queue in &expected.queues {
        let now = actual.queues.iter().find(|it| it.name == queue.name);
        let now = now.and_then(|now| now.declared.as_ref());
        if let Some(reason) = change(queue.declared.as_ref(), now) {
            let difference = Difference::of_queue(Kind::Changed, queue);
            differences.push(difference.because(reason));
        }
    }
    for binding in &expected.bindings {
        if is_served(&binding.queue) && !actual.bindings.contains(binding) {
            differences.push(Difference::of_binding(Kind::Missing, binding));
        }
    }
    differences
}

/// Both declarations, if they differ. Without one of them there is nothing to compare.
fn change<T: PartialEq + Serialize>(expected: Option<&T>, now: Option<&T>) -> Option<String> {
    let (expected, now) = (expected?, now?);
    let json = |declared: &T| serde_json::to_string(declared).unwrap_or_default();
    (expected != now).then(|| format!("{} in the file, {} now", json(expected), json(now)))
}

/// The entries in use that are not in the file.
fn new(expected: &Document, actual: &Document) -> Vec<Difference> {
    let known: BTreeSet<&str> = expected.exchanges.iter().map(|it| &*it.name).collect();
    let exchanges = actual.exchanges.iter();
    let exchanges = exchanges.filter(|it| !known.contains(&*it.name));
    let exchanges = exchanges.map(|it| Difference::of_exchange(Kind::New, it));
    let known: BTreeSet<&str> = expected.queues.iter().map(|it| &*it.name).collect();
    let queues = actual.queues.iter().filter(|it| !known.contains(&*it.name));
    let queues = queues.map(|it| Difference::of_queue(Kind::New, it));
    let bindings = actual.bindings.iter();
    let bindings = bindings.filter(|it| !expected.bindings.contains(it));
    let bindings = bindings.map(|it| Difference::of_binding(Kind::New, it));
    exchanges.chain(queues).chain(bindings).collect()
}

fn table(differences: &[Difference]) -> Rows {
    let mut rows = Rows::new(&["DIFFERENCE", "ENTITY", "NAME", "ROLE", "OF", "REASON"]);
    for it in differences {
        let (word, tone) = match it.difference {
            Kind::Missing => ("MISSING", Tone::Bad),
            Kind::Different => ("DIFFERENT", Tone::Bad),
            Kind::Changed => ("CHANGED", Tone::Bad),
            Kind::Unserved => ("UNSERVED", Tone::Bad),
            Kind::New => ("NEW", Tone::Doubtful),
        };
        rows.toned([
            (word.to_owned(), Some(tone)),
            (it.entity.to_owned(), None),
            (it.name.clone(), None),
            (it.role.to_owned(), None),
            (it.of.clone(), None),
            (it.reason.clone(), None),
        ]);
    }
    rows
}
