//! A survey of what is in use now: asked of the running instances, and looked up on the broker.

use std::collections::{BTreeMap, BTreeSet};

use lepus::control::{DeclaredBinding, ServedKind, ServiceInfo};
use lepus::{Connection, Direct, Discovery, Error};
use serde::de::IgnoredAny;

use super::{Document, Exchange, ExchangeRole, Queue, QueueRole, VERSION};
use crate::answers::collect;
use crate::app::App;
use crate::failure::Failure;
use crate::work_queues::{counts, dead_queue_of, is_missing};

/// The exchange that carries the questions of discovery.
const CONTROL: &str = "lepus.control";

/// The queues, exchanges and bindings that living instances use, with their declarations. Those in `queues` and
/// `exchanges` are added, if they exist.
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
    let infos = collect(discovery.services().stream().await).await?;
    let mut used = Used::default();
    for info in &infos {
        used.add(info);
    }
    for name in queues {
        used.queue(name, QueueRole::Named, "");
    }
    used.exchange(CONTROL, ExchangeRole::Control);
    for name in exchanges {
        used.exchange(name, ExchangeRole::Named);
    }
    let mut document = Document {
        lepus_topology: VERSION,
        bindings: used.bindings.into_iter().collect(),
        ..Document::default()
    };
    for exchange in used.exchanges.into_values() {
        if app
            .within(exchange_exists(connection, &exchange.name))
            .await?
        {
            document.exchanges.push(exchange);
        }
    }
    for queue in used.queues.into_values() {
        if app.within(counts(connection, &queue.name)).await?.is_some() {
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

/// The queues and exchanges of instances, by name, and their bindings.
#[derive(Default)]
struct Used {
    exchanges: BTreeMap<String, Exchange>,
    queues: BTreeMap<String, Queue>,
    bindings: BTreeSet<DeclaredBinding>,
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
                    self.dead_queue(info, queue);
                }
                ServedKind::Group => {
                    self.exchange(subject, ExchangeRole::Events);
                    self.queue(queue, QueueRole::Group, subject);
                    self.dead_queue(info, queue);
                }
                _ => {}
            }
        }
        self.add_declarations(info);
    }

    /// Adds the declarations of an instance. Two instances that differ in one cannot both run: the broker refuses the
    /// second.
    fn add_declarations(&mut self, info: &ServiceInfo) {
        for declared in &info.topology.exchanges {
            self.exchange(&declared.name, ExchangeRole::Events);
            if let Some(exchange) = self.exchanges.get_mut(&declared.name) {
                exchange.declared = Some(declared.clone());
            }
        }
        for declared in &info.topology.queues {
            if let Some(queue) = self.queues.get_mut(&declared.name) {
                queue.declared = Some(declared.clone());
            }
        }
        self.bindings.extend(info.topology.bindings.iter().cloned());
    }

    fn dead_queue(&mut self, info: &ServiceInfo, of: &str) {
        self.queue(&dead_queue_of(info, of), QueueRole::Dead, of);
    }

    /// Adds a queue. One that is known keeps its role.
    fn queue(&mut self, name: &str, role: QueueRole, of: &str) {
        let queue = || Queue {
            name: name.to_owned(),
            role,
            of: of.to_owned(),
            declared: None,
        };
        self.queues.entry(name.to_owned()).or_insert_with(queue);
    }

    /// Adds an exchange. One that is known keeps its role.
    fn exchange(&mut self, name: &str, role: ExchangeRole) {
        let exchange = || Exchange {
            name: name.to_owned(),
            role,
            declared: None,
        };
        self.exchanges
            .entry(name.to_owned())
            .or_insert_with(exchange);
    }
}
