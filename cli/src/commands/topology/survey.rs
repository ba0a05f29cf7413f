//! A survey of what is in use now: asked of the running instances, and looked up on the broker.

use std::collections::{BTreeMap, BTreeSet};

use lepus::control::{ServedKind, ServiceInfo};
use lepus::{Connection, Direct, Discovery, Error};
use serde::de::IgnoredAny;

use super::{Document, Exchange, ExchangeRole, Queue, QueueRole, VERSION};
use crate::app::App;
use crate::failure::Failure;
use crate::work_queues::{counts, is_missing};

/// The exchange that carries the questions of discovery.
const CONTROL: &str = "lepus.control";

/// The queues and exchanges that living instances use. Those in `queues` and `exchanges` are added, if they exist.
///
/// # Errors
/// As those of a question of [`Discovery`], and of a passive declaration.
pub(super) async fn survey(
    app: &App,
    queues: &[String],
    exchanges: &[String],
) -> Result<Document, Failure> {
    let connection = app.connect().await?;
    let discovery = Discovery::new(connection).limit(app.timeout());
    let infos = discovery.services().await?;
    let mut used = Used::default();
    for info in &infos {
        used.add(info);
    }
    for name in queues {
        let queue = Queue {
            name: name.clone(),
            role: QueueRole::Named,
            of: String::new(),
        };
        used.queues.entry(name.clone()).or_insert(queue);
    }
    used.exchanges
        .extend([(CONTROL.to_owned(), ExchangeRole::Control)]);
    for name in exchanges {
        used.exchanges
            .entry(name.clone())
            .or_insert(ExchangeRole::Named);
    }
    let mut document = Document {
        lepus_topology: VERSION,
        ..Document::default()
    };
    for (name, role) in used.exchanges {
        if app.within(exchange_exists(connection, &name)).await? {
            document.exchanges.push(Exchange { name, role });
        }
    }
    for (name, queue) in used.queues {
        if app.within(counts(connection, &name)).await?.is_some() {
            document.queues.push(queue);
        }
    }
    Ok(document)
}

/// Whether an exchange of this name exists, whatever its type.
pub(super) async fn exchange_exists(connection: &Connection, name: &str) -> Result<bool, Error> {
    let exchange = Direct::<IgnoredAny>::new(name).passive();
    match exchange.declare(connection).await {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The queues and exchanges of instances, by name.
#[derive(Default)]
struct Used {
    exchanges: BTreeMap<String, ExchangeRole>,
    queues: BTreeMap<String, Queue>,
}

impl Used {
    fn add(&mut self, info: &ServiceInfo) {
        let pairs = info.endpoints.iter();
        let pairs: BTreeSet<(&str, &str)> = pairs
            .map(|endpoint| (&*endpoint.queue_group, &*endpoint.subject))
            .collect();
        for (queue, subject) in pairs {
            match info.kind {
                ServedKind::Service => self.queue(queue, QueueRole::Service, &info.name),
                ServedKind::Queue | ServedKind::Tasks => {
                    self.queue(queue, QueueRole::Work, &info.name);
                    self.dead_queue(queue);
                }
                ServedKind::Group => {
                    self.exchanges
                        .insert(subject.to_owned(), ExchangeRole::Events);
                    self.queue(queue, QueueRole::Group, subject);
                    self.dead_queue(queue);
                }
                _ => {}
            }
        }
    }

    fn dead_queue(&mut self, of: &str) {
        self.queue(&format!("{of}.dead"), QueueRole::Dead, of);
    }

    fn queue(&mut self, name: &str, role: QueueRole, of: &str) {
        let (name, of) = (name.to_owned(), of.to_owned());
        let queue = Queue {
            name: name.clone(),
            role,
            of,
        };
        self.queues.insert(name, queue);
    }
}
