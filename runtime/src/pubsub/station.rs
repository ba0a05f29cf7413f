//! A subscription's place on the broker: its queue and bindings, made anew on every connection.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use super::bindings::Bindings;
use super::event::{Gap, Missed};
use super::kind::Kind;
use crate::error::Error;
use crate::link::{self, ConsumeMode, ConsumerEnd, Namespace, Session};
use crate::queue;
use crate::random;
use crate::service::BoxFuture;
use crate::sync::lock;
use crate::wire::name::Name;
use crate::wire::topology::{Queue, Topology};
use crate::worker::Setup;

/// An exchange that deletes itself may do so between its declaration and the first binding.
const TRIES: u32 = 5;

/// Whom to tell of what was missed.
pub(super) type Tell = Arc<dyn Fn(Missed) + Send + Sync>;

/// Which queue a subscription has.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Its own, exclusive, under a fresh name on every connection: the broker may not have
    /// noticed yet that the last one's owner is gone.
    Own { max_length: Option<u32> },
    /// A group's, durable; it keeps events while nobody is connected.
    Group(queue::QueueSpec),
}

#[derive(Debug)]
struct Away {
    since: Instant,
    reason: Option<Error>,
    /// Whether it was told that the broker refuses: once is enough.
    told: bool,
}

/// How a subscription is set up, and what happened to it.
pub(super) struct Station<K: Kind> {
    /// The exchange, and what that needs.
    exchange: Topology,
    label: String,
    place: Place,
    mode: ConsumeMode,
    bindings: Bindings<K>,
    namespace: Namespace,
    tell: Tell,
    /// While nothing is delivered.
    away: Mutex<Option<Away>>,
}

impl<K: Kind> Station<K> {
    pub(super) fn new(
        exchange: Topology,
        label: &str,
        place: Place,
        mode: ConsumeMode,
        bindings: Bindings<K>,
        namespace: Namespace,
        tell: Tell,
    ) -> Arc<Self> {
        Arc::new(Self {
            exchange,
            label: label.to_owned(),
            place,
            mode,
            bindings,
            namespace,
            tell,
            away: Mutex::new(None),
        })
    }
}

impl<K: Kind> Station<K> {
    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        lock(&self.away)
    }
}

async fn prepare<K: Kind>(
    exchange: Topology,
    queue: (Queue, Vec<Queue>),
    bindings: Bindings<K>,
    namespace: Namespace,
    session: Arc<Session>,
) -> Result<String, Error> {
    let (own, others) = queue;
    let name = own.name().clone();
    let is_ours = !exchange.exchanges.iter().any(|exchange| exchange.passive);
    let declare = |wanted| {
        let mut topology = exchange;
        topology.queues.extend(others);
        topology.queues.push(own.clone());
        topology.bindings.extend(wanted);
        let (session, namespace) = (Arc::clone(&session), namespace.clone());
        async move {
            let mut tries = TRIES;
            loop {
                let declared = link::declare(&session, &topology, &namespace).await;
                let Err(error) = declared else { return Ok(()) };
                if own.exclusive && session.is_up() {
                    // Nobody will consume it, so it would not go before the connection does.
                    let _ = link::delete(&session, &own, &namespace).await;
                }
                tries -= 1;
                if !is_ours || error.amqp_code() != Some(404) || tries == 0 {
                    return Err(error);
                }
            }
        }
    };
    bindings.with(&session, &name, declare).await?;
    Ok(namespace.scope(name.as_str()))
}

impl<K: Kind> Setup for Station<K> {
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>> {
        let queue = match &self.place {
            Place::Own { max_length } => own_queue(&self.label, *max_length).map(|q| (q, vec![])),
            Place::Group(spec) => spec.dead().and_then(|dead| Ok((spec.main()?, vec![dead]))),
        };
        let (exchange, bindings) = (self.exchange.clone(), self.bindings.clone());
        let namespace = self.namespace.clone();
        Box::pin(async move { prepare(exchange, queue?, bindings, namespace, session).await })
    }

    fn mode(&self) -> ConsumeMode {
        self.mode.clone()
    }

    fn started(&self) {
        let away = self.away().take();
        if let Some(Away { since, reason, .. }) = away {
            let away = since.elapsed();
            (self.tell)(Missed::Gap(Gap { away, reason }));
        }
    }

    fn ended(&self, ended: &ConsumerEnd) {
        let reason = match ended {
            ConsumerEnd::Cancelled => None,
            ConsumerEnd::Lost(error) => Some(error.clone()),
        };
        // A group's queue keeps what comes meanwhile, unless it was the queue that went.
        if matches!(self.place, Place::Group(_)) && reason.is_some() {
            return;
        }
        self.away().get_or_insert(Away {
            since: Instant::now(),
            reason,
            told: false,
        });
    }

    fn failed(&self, error: &Error) {
        if error.is_disconnected() {
            return;
        }
        let first = {
            let mut away = self.away();
            // What the broker refuses was changed by somebody: a group's queue may have been, too.
            let away = away.get_or_insert_with(|| Away {
                since: Instant::now(),
                reason: Some(error.clone()),
                told: false,
            });
            !std::mem::replace(&mut away.told, true)
        };
        if first {
            (self.tell)(Missed::Interrupted(error.clone()));
        }
    }
}

/// The name of a subscription's own queue, with this at its end.
pub(super) fn own_name(exchange: &str, end: &str) -> String {
    // A name has 255 bytes, and a namespace may take some of them.
    let exchange: String = exchange.chars().take(40).collect();
    format!("lepus.events.{exchange}.{end}")
}

fn own_queue(exchange: &str, max_length: Option<u32>) -> Result<Queue, Error> {
    let name = own_name(exchange, &random::identity());
    let mut queue = Queue::exclusive(Name::parse(name)?);
    // It goes with its consumer, and does not wait for the connection to end.
    queue.auto_delete = true;
    Ok(match max_length {
        None => queue,
        Some(events) => queue.drop_oldest(events),
    })
}
