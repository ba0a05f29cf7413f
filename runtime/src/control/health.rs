//! Health of a connection: whether all that was asked for is consumed, and the reasons if it is not.

use super::answer::{HealthStatus, ServedKind};
use super::instance::{Instance, Served};
use crate::link::{Connection, ConnectionState};
use crate::worker::{ConsumerStatus, ConsumerView, Consumers};

/// The health of a connection at one moment, for the probes of an orchestrator.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether the connection is not closed. A connection that is lost is live: it is opened again, and a restart
    /// of the process would not help.
    pub live: bool,
    /// Whether the connection is up, and every consumer that was started is consuming. If the broker has blocked
    /// the connection because of an alarm, it is still ready if it has consumers: they work, and they end the
    /// alarm. Without consumers, it is not ready then.
    pub ready: bool,
    /// The services, work queues, tasks and groups that were started and are not stopped.
    pub services: Vec<ServedStatus>,
    /// The consumers that were started and are not stopped, those of broadcast subscriptions included.
    pub consumers: Vec<ConsumerStatus>,
    /// The reasons why it is not ready, and whether it is blocked; for people.
    pub reasons: Vec<String>,
}

/// Something that a connection serves, and whether it does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedStatus {
    /// The name of the service, work queue, set of tasks, or group.
    pub name: String,
    /// Which of them it is.
    pub kind: ServedKind,
    /// Serving, if all of its consumers are consuming; otherwise not serving.
    pub status: HealthStatus,
}

// In this file, because `Connection` is on a lower floor than what it serves.
impl Connection {
    /// The health of this connection and of all that is consumed over it, at this moment. It asks nobody, and does
    /// not wait.
    ///
    /// ```no_run
    /// # async fn example(connection: lepus::Connection) {
    /// let health = connection.health();
    /// if !health.ready {
    ///     // For instance: queue `calculator` is waiting for 3.2 s: the connection to the broker was lost
    ///     println!("not ready: {}", health.reasons.join("; "));
    /// }
    /// # }
    /// ```
    ///
    /// A connection that has no consumers yet, because a server is still to be started, is ready as soon as it is
    /// connected. Consumers count from the start of a server, pool or subscription on, even while that waits for
    /// the broker.
    #[must_use]
    pub fn health(&self) -> Health {
        let consumers = Consumers::of(self).statuses();
        let state = self.state().borrow().clone();
        let mut reasons: Vec<String> = reason_of(&state).into_iter().collect();
        let idle = consumers
            .iter()
            .filter(|consumer| !consumer.state.is_consuming());
        reasons.extend(idle.map(ToString::to_string));
        let services = Instance::of(self).served();
        Health {
            live: !matches!(state, ConnectionState::Closed),
            ready: is_ready(&state, &consumers),
            services: services.iter().map(|served| status_of(served)).collect(),
            consumers,
            reasons,
        }
    }
}

fn is_ready(state: &ConnectionState, consumers: &[ConsumerStatus]) -> bool {
    let is_up = match state {
        ConnectionState::Connected => true,
        ConnectionState::Blocked { .. } => !consumers.is_empty(),
        ConnectionState::Reconnecting { .. } | ConnectionState::Closed => false,
    };
    is_up
        && consumers
            .iter()
            .all(|consumer| consumer.state.is_consuming())
}

fn status_of(served: &Served) -> ServedStatus {
    ServedStatus {
        name: served.name.clone(),
        kind: served.kind,
        status: status(served),
    }
}

/// Whether all consumers of it are consuming.
pub(super) fn status(served: &Served) -> HealthStatus {
    let mut consumers = served.consumers.iter().map(ConsumerView::status);
    if consumers.all(|consumer| consumer.state.is_consuming()) {
        HealthStatus::Serving
    } else {
        HealthStatus::NotServing
    }
}

/// The reason why a connection in this state is not ready, or would not be without consumers.
pub(super) fn reason_of(state: &ConnectionState) -> Option<String> {
    match state {
        ConnectionState::Connected => None,
        ConnectionState::Blocked { reason, .. } => {
            let reason = crate::escape::Escaped(reason);
            Some(format!("the broker takes no messages: {reason}"))
        }
        ConnectionState::Reconnecting { since, error } => {
            let seconds = since.elapsed().as_secs_f64();
            Some(format!("not connected for {seconds:.1} s: {error}"))
        }
        ConnectionState::Closed => Some("the connection is closed".to_owned()),
    }
}
