//! Work queues by their names: which there are, and how many jobs wait.

use std::collections::{BTreeMap, BTreeSet};

use lepus::control::{ServedKind, ServiceInfo};
use lepus::{Connection, Discovery, Error, WorkQueue};
use serde::de::IgnoredAny;

use crate::answers::collect;
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;

/// AMQP's NOT_FOUND.
const NOT_FOUND: u16 = 404;

/// A work queue that a command reads from: it exists already, and its jobs may be of any type.
pub(crate) type AnyQueue = WorkQueue<IgnoredAny>;

/// The work queue of this name, as it is.
pub(crate) fn any_queue(name: &str) -> AnyQueue {
    WorkQueue::new(name).passive()
}

/// The number of messages that wait in a queue, and of its consumers. `None` if it does not exist.
///
/// # Errors
/// The connection was lost or closed, or the broker refuses.
pub(crate) async fn counts(
    connection: &Connection,
    queue: &str,
) -> Result<Option<(u32, u32)>, Error> {
    match any_queue(queue).count(connection).await {
        Ok(counts) => Ok(Some((counts.messages, counts.consumers))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the broker does not have what was asked for.
pub(crate) fn is_missing(error: &Error) -> bool {
    error.amqp_code() == Some(NOT_FOUND)
}

/// The failure of an error about a queue; one text for all if it does not exist.
pub(crate) fn about_queue(error: Error, queue: &str) -> Failure {
    if is_missing(&error) {
        missing(queue)
    } else {
        error.into()
    }
}

/// The failure of a command whose queue does not exist.
pub(crate) fn missing(queue: &str) -> Failure {
    Failure::new(Exit::Unserved, format!("there is no queue `{queue}`"))
}

/// A work queue that living instances serve.
#[derive(Debug)]
pub(crate) struct ServedQueue {
    pub(crate) kind: ServedKind,
    pub(crate) instances: usize,
    /// The queue of its dead letters.
    pub(crate) dead_queue: String,
}

/// The queue of the dead letters of a work queue or a group: the other one that an instance declares with it, or that of
/// the default name.
pub(crate) fn dead_queue_of(info: &ServiceInfo, queue: &str) -> String {
    let declared = info.topology.queues.iter();
    let mut others = declared.filter(|it| it.name != queue);
    let other = others.next().map(|it| it.name.clone());
    other.unwrap_or_else(|| default_dead_queue(queue))
}

/// The queue of the dead letters of a work queue that nobody serves.
pub(crate) fn default_dead_queue(queue: &str) -> String {
    format!("{queue}.dead")
}

/// The work queues that are served now, by name: AMQP has no list of queues, so that those without a worker are not
/// found.
///
/// # Errors
/// As those of a question of [`Discovery`].
pub(crate) async fn served(
    app: &App,
    connection: &Connection,
) -> Result<BTreeMap<String, ServedQueue>, Failure> {
    let discovery = Discovery::new(connection).limit(app.timeout());
    let mut served: BTreeMap<String, ServedQueue> = BTreeMap::new();
    for answer in collect(discovery.services().stream().await).await? {
        if let ServedKind::Queue | ServedKind::Tasks | ServedKind::Group = answer.kind {
            // A set of tasks may have the name of its trait, and another queue.
            let endpoints = answer.endpoints.iter();
            let queues: BTreeSet<&String> = endpoints.map(|it| &it.queue_group).collect();
            for queue in queues {
                let queue = served.entry(queue.clone()).or_insert(ServedQueue {
                    kind: answer.kind,
                    instances: 0,
                    dead_queue: dead_queue_of(&answer, queue),
                });
                queue.instances += 1;
            }
        }
    }
    Ok(served)
}
