//! Set-up of a subscription on every connection: its exchange, its queue (`queue.declare`) and its
//! bindings; and the report of the time without one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use super::super::binding::Kind;
use super::super::event::{Gap, Missed};
use super::bindings::Bindings;
use crate::error::Error;
use crate::link::{self, ConsumeMode, ConsumerEnd, IdleCheck, Namespace, Session};
use crate::queue;
use crate::random;
use crate::service::BoxFuture;
use crate::sync::lock;
use crate::wire::name::Name;
use crate::wire::reply_code;
use crate::wire::topology::{Queue, Topology};
use crate::worker::Setup;

/// Attempts to declare an exchange and to bind to it: an auto-delete exchange may delete itself in
/// between.
const DECLARE_ATTEMPTS: u32 = 5;

/// The receiver of reports of missed events.
pub(super) type MissedSink = Arc<dyn Fn(Missed) + Send + Sync>;

/// The queue that a subscription consumes from.
#[derive(Clone, Debug)]
pub(super) enum QueueSource {
    /// An exclusive queue of its own, under a new name on every connection: the broker may not
    /// have noticed yet that the connection of the old queue is gone.
    Exclusive { drop_oldest_over: Option<u32> },
    /// The durable queue of a group, which keeps events while no member is connected.
    Group(queue::QueueSpec),
}

impl QueueSource {
    /// Checks the names and options of the queue.
    pub(super) fn check(&self, namespace: &Namespace) -> Result<(), Error> {
        match self {
            Self::Exclusive { .. } => Ok(()),
            Self::Group(spec) => spec.check(namespace),
        }
    }

    /// The queue's name in logs. That of an exclusive queue is another one on each connection.
    pub(super) fn log_name(&self, exchange: &str) -> String {
        match self {
            Self::Exclusive { .. } => exclusive_queue_name(exchange, "*"),
            Self::Group(spec) => spec.name.clone(),
        }
    }
}

/// A time in which a subscription receives nothing.
#[derive(Debug)]
struct Outage {
    since: Instant,
    reason: Option<Error>,
    /// Whether [`Missed::Interrupted`] was reported, which happens once for each outage.
    is_reported: bool,
}

/// The outages of a subscription, and their reports.
struct Outages {
    current: Mutex<Option<Outage>>,
    /// Whether there is a current one, read for every delivery.
    is_out: AtomicBool,
    on_missed: MissedSink,
}

impl Outages {
    /// Begins an outage, unless there is one already.
    fn begin(&self, reason: Option<Error>) -> MutexGuard<'_, Option<Outage>> {
        let mut current = lock(&self.current);
        current.get_or_insert(Outage {
            since: Instant::now(),
            reason,
            is_reported: false,
        });
        self.is_out.store(true, Ordering::Relaxed);
        current
    }

    /// Ends the current outage and reports it, if there is one.
    fn end(&self) {
        if !self.is_out.load(Ordering::Relaxed) {
            return;
        }
        // Reported under the lock: a delivery on the I/O task must not overtake the report that
        // another thread makes of the outage before it.
        let mut current = lock(&self.current);
        if let Some(Outage { since, reason, .. }) = current.take() {
            let away = since.elapsed();
            (self.on_missed)(Missed::Gap(Gap { away, reason }));
        }
        self.is_out.store(false, Ordering::Relaxed);
    }
}

/// Sets up one subscription on each session, and reports the gaps in between.
pub(super) struct SubscriptionSetup<K: Kind> {
    /// The exchange, and those it depends on.
    exchange: Topology,
    exchange_name: String,
    queue: QueueSource,
    mode: ConsumeMode,
    bindings: Bindings<K>,
    namespace: Namespace,
    outages: Arc<Outages>,
}

impl<K: Kind> SubscriptionSetup<K> {
    pub(super) fn new(
        exchange: Topology,
        exchange_name: &str,
        queue: QueueSource,
        mode: ConsumeMode,
        bindings: Bindings<K>,
        namespace: Namespace,
        on_missed: MissedSink,
    ) -> Arc<Self> {
        Arc::new(Self {
            exchange,
            exchange_name: exchange_name.to_owned(),
            queue,
            mode,
            bindings,
            namespace,
            outages: Arc::new(Outages {
                current: Mutex::new(None),
                is_out: AtomicBool::new(false),
                on_missed,
            }),
        })
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
    let is_declared_here = !exchange.exchanges.iter().any(|exchange| exchange.passive);
    let declare = |bindings| {
        let mut topology = exchange;
        topology.queues.extend(others);
        topology.queues.push(own.clone());
        topology.bindings.extend(bindings);
        let (session, namespace) = (Arc::clone(&session), namespace.clone());
        async move {
            let mut attempts = DECLARE_ATTEMPTS;
            loop {
                let declared = link::declare(&session, &topology, &namespace).await;
                let Err(error) = declared else { return Ok(()) };
                if own.exclusive && session.is_up() {
                    // Nobody will consume from the queue, so that `auto_delete` does not delete
                    // it before the connection ends.
                    let _ =
                        link::delete(&session, std::slice::from_ref(own.name()), &namespace).await;
                }
                attempts -= 1;
                if !is_declared_here
                    || error.amqp_code() != Some(reply_code::NOT_FOUND)
                    || attempts == 0
                {
                    return Err(error);
                }
            }
        }
    };
    bindings.declare_with(&session, &name, declare).await?;
    Ok(namespace.scope(name.as_str()))
}

impl<K: Kind> Setup for SubscriptionSetup<K> {
    fn prepare(&self, session: Arc<Session>) -> BoxFuture<Result<String, Error>> {
        let queue = match &self.queue {
            QueueSource::Exclusive { drop_oldest_over } => {
                exclusive_queue(&self.exchange_name, *drop_oldest_over).map(|queue| (queue, vec![]))
            }
            QueueSource::Group(spec) => spec.dead().and_then(|dead| Ok((spec.main()?, vec![dead]))),
        };
        let (exchange, bindings) = (self.exchange.clone(), self.bindings.clone());
        let namespace = self.namespace.clone();
        Box::pin(async move { prepare(exchange, queue?, bindings, namespace, session).await })
    }

    fn mode(&self) -> ConsumeMode {
        match &self.mode {
            ConsumeMode::NoAck(callback) => {
                let (outages, callback) = (Arc::clone(&self.outages), Arc::clone(callback));
                // The first delivery may arrive before the worker calls `started`.
                ConsumeMode::NoAck(Arc::new(move |delivery| {
                    outages.end();
                    callback(delivery);
                }))
            }
            ConsumeMode::ManualAck { prefetch } => ConsumeMode::ManualAck {
                prefetch: *prefetch,
            },
        }
    }

    /// RabbitMQ does not tell subscribers that their exchange is deleted, which takes the bindings away.
    /// If the exchange was declared again by others, this restores them. If it does not exist, this
    /// fails with 404, and the subscription is set up again.
    fn idle_check(&self) -> Option<IdleCheck> {
        let (bindings, of_exchange) = (self.bindings.clone(), self.exchange.bindings.clone());
        Some(Arc::new(move || {
            let (bindings, of_exchange) = (bindings.clone(), of_exchange.clone());
            Box::pin(async move { bindings.restore(of_exchange).await })
        }))
    }

    fn started(&self) {
        self.outages.end();
    }

    fn ended(&self, ended: &ConsumerEnd) {
        let reason = match ended {
            ConsumerEnd::Cancelled => None,
            ConsumerEnd::Lost(error) => Some(error.clone()),
        };
        // The queue of a group keeps the events of the meantime, unless the consumer was cancelled
        // because the queue was deleted.
        if matches!(self.queue, QueueSource::Group(_)) && reason.is_some() {
            return;
        }
        drop(self.outages.begin(reason));
    }

    fn failed(&self, error: &Error) {
        if error.is_disconnected() {
            return;
        }
        // The broker refuses because somebody has changed the exchange or the queue. Events may have
        // been missed even on the queue of a group, which may be another one now.
        let is_first = self
            .outages
            .begin(Some(error.clone()))
            .as_mut()
            .is_some_and(|outage| !std::mem::replace(&mut outage.is_reported, true));
        if is_first {
            (self.outages.on_missed)(Missed::Interrupted(error.clone()));
        }
    }
}

/// The name of a subscription's exclusive queue.
fn exclusive_queue_name(exchange: &str, suffix: &str) -> String {
    // A name is limited to 255 bytes, and the namespace is a prefix of it.
    let exchange: String = exchange.chars().take(40).collect();
    format!("lepus.events.{exchange}.{suffix}")
}

fn exclusive_queue(exchange: &str, drop_oldest_over: Option<u32>) -> Result<Queue, Error> {
    let name = exclusive_queue_name(exchange, &random::identity());
    let mut queue = Queue::exclusive(Name::parse(name)?);
    // The broker deletes it with its consumer, and does not wait for the end of the connection.
    queue.auto_delete = true;
    Ok(match drop_oldest_over {
        None => queue,
        Some(events) => queue.drop_oldest(events),
    })
}
