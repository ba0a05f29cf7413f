//! Messages to servers about calls that were given up (`lepus.cancel/1` on the exchange `lepus.control`).
//!
//! Ids are gathered as calls are in [`coalesce`](super::coalesce): without a timer, as long as other tasks add some.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::reply_queue::ReplyQueue;
use super::request::CallRequest;
use crate::control::ControlRefusal;
use crate::error::Error;
use crate::link::{
    self, Channel, ChannelEvent, ChannelHandler, CloseGate, CloseGuard, Connection, Flush, Link,
    Namespace, Session,
};
use crate::publish::CachedChannel;
use crate::wire::batch::{MAX_CANCELLED_IDS, encode_cancelled};
use crate::wire::envelope::{CONTROL_EXCHANGE, CancelHead, queue_key};
use crate::wire::message::Outgoing;
use crate::wire::name::Name;
use crate::wire::reply_code;
use crate::wire::topology::{Exchange, ExchangeKind, Topology};

/// The time for which nothing is sent when the exchange was not there. A broker logs an error for each attempt.
const PAUSE_WITHOUT_EXCHANGE: Duration = Duration::from_secs(10);

/// Tells servers which calls of a connection were given up.
#[derive(Debug)]
pub(super) struct Canceller {
    given_up: mpsc::UnboundedSender<GivenUp>,
    close_gate: CloseGate,
}

/// A call that was given up.
struct GivenUp {
    /// The queue of its request, without the namespace.
    service_queue: &'static str,
    reply_queue: Arc<ReplyQueue>,
    /// The id by which its server knows it.
    id: Vec<u8>,
    deadline: Instant,
    /// The connection is not closed before the message is written.
    _close_guard: CloseGuard,
}

impl Canceller {
    /// The canceller of a connection. `None` if its control plane is off.
    pub(super) fn of(connection: &Connection) -> Option<Arc<Self>> {
        connection.has_control().then(|| {
            let refusal = connection.shared(ControlRefusal::default);
            connection.shared(|| {
                let (given_up, received) = mpsc::unbounded_channel();
                let task = CancelTask {
                    link: connection.publishing().clone(),
                    namespace: connection.namespace().clone(),
                    channel: CachedChannel::default(),
                    refusal,
                    paused_until: None,
                };
                connection.tasks().spawn(task.run(received));
                Self {
                    given_up,
                    close_gate: connection.close_gate().clone(),
                }
            })
        })
    }

    /// Tells the servers of a call's queue that it was given up.
    pub(super) fn cancel(&self, request: &CallRequest, reply_queue: &Arc<ReplyQueue>, id: Vec<u8>) {
        let own = request.method().own_queue();
        let given_up = GivenUp {
            service_queue: own.unwrap_or_else(|| request.service.queue_name()),
            reply_queue: Arc::clone(reply_queue),
            id,
            deadline: request.deadline,
            _close_guard: self.close_gate.hold(),
        };
        // An error means that the broker refuses the control plane, or that the runtime has ended.
        let _ = self.given_up.send(given_up);
    }
}

/// The task that sends the messages of a connection.
struct CancelTask {
    link: Link,
    namespace: Namespace,
    /// A channel of its own, because the broker closes it over a missing permission.
    channel: CachedChannel<Channel>,
    refusal: Arc<ControlRefusal>,
    paused_until: Option<Instant>,
}

/// Reports why the broker has closed the channel.
struct CancelChannel(mpsc::UnboundedSender<Error>);

impl ChannelHandler for CancelChannel {
    fn on_event(&self, event: ChannelEvent) {
        if let ChannelEvent::Closed(reason) = event {
            // An error means that the task has ended.
            let _ = self.0.send(reason);
        }
    }
}

impl CancelTask {
    /// Runs until the connection is dropped or closed, or until the broker refuses.
    async fn run(mut self, mut received: mpsc::UnboundedReceiver<GivenUp>) {
        let (closed, mut reasons) = mpsc::unbounded_channel();
        let mut calls = Vec::new();
        loop {
            let error = tokio::select! {
                count = received.recv_many(&mut calls, usize::MAX) => {
                    if count == 0 {
                        return;
                    }
                    gather(&mut received, &mut calls).await;
                    match self.send(std::mem::take(&mut calls), &closed).await {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Some(reason) = reasons.recv() => reason,
                () = self.link.closed() => return,
            };
            if error.is_closed() {
                return;
            }
            if ControlRefusal::is(&error) {
                self.refusal.report(&error);
                return;
            }
            // No server has declared the exchange yet.
            if error.amqp_code() == Some(reply_code::NOT_FOUND) {
                self.paused_until = Some(Instant::now() + PAUSE_WITHOUT_EXCHANGE);
            }
            tracing::debug!(%error, "servers are not told of calls that were given up");
        }
    }

    /// Sends the ids of calls whose replies could still come.
    ///
    /// # Errors
    /// The broker refuses the exchange or has none, or the connection was lost. These calls are not sent again.
    async fn send(
        &self,
        calls: Vec<GivenUp>,
        closed: &mpsc::UnboundedSender<Error>,
    ) -> Result<(), Error> {
        if self.paused_until.is_some_and(|end| end > Instant::now()) {
            return Ok(());
        }
        let open = |session: Arc<Session>, _| async move {
            // Passive, so that a caller needs no permission to configure it.
            let mut exchange = Exchange::new(Name::parse(CONTROL_EXCHANGE)?, ExchangeKind::Direct);
            exchange.passive = true;
            let topology = Topology {
                exchanges: vec![exchange],
                ..Topology::default()
            };
            link::declare(&session, &topology, &self.namespace).await?;
            let channel = Channel::open(&session).await?;
            channel.set_handler(Arc::new(CancelChannel(closed.clone())));
            Ok(channel)
        };
        let channel = self.channel.get_or_open_on(&self.link, open).await?;
        let now = Instant::now();
        let mut groups: Vec<Vec<GivenUp>> = Vec::new();
        for call in calls {
            if call.deadline <= now || !call.reply_queue.is_up() {
                continue;
            }
            let accepts = |group: &&mut Vec<GivenUp>| {
                group.len() < MAX_CANCELLED_IDS
                    && group.first().is_some_and(|first| first.is_like(&call))
            };
            // From the latest to the earliest, because the earlier ones are mostly full.
            match groups.iter_mut().rev().find(accepts) {
                Some(group) => group.push(call),
                None => groups.push(vec![call]),
            }
        }
        for group in groups {
            if let Some(message) = self.message(&group, now)? {
                channel.publish(&message, Flush::Deferred)?;
                tracing::debug!(
                    queue = message.routing_key,
                    calls = group.len(),
                    "told servers of calls that were given up"
                );
            }
        }
        channel.flush(Flush::Inline);
        Ok(())
    }

    /// The message about calls of one queue. `None` if its routing key is too long, so that no instance is bound by
    /// it.
    fn message(&self, calls: &[GivenUp], now: Instant) -> Result<Option<Outgoing>, Error> {
        let Some(first) = calls.first() else {
            return Ok(None);
        };
        let routing_key = queue_key(first.service_queue);
        if Name::parse(routing_key.as_str()).is_err() {
            return Ok(None);
        }
        let latest = calls.iter().map(|call| call.deadline).max();
        let head = CancelHead {
            reply_to: first.reply_queue.name().to_owned(),
            time_left: latest.unwrap_or(now).saturating_duration_since(now),
        };
        let body = encode_cancelled(calls.iter().map(|call| call.id.as_slice()));
        Ok(Some(Outgoing {
            exchange: self.namespace.scope(CONTROL_EXCHANGE),
            routing_key,
            mandatory: false,
            properties: head.into_properties(),
            body: body.map_err(|error| Error::invalid("ids of calls").caused_by(error))?,
        }))
    }
}

impl GivenUp {
    /// Whether the servers of this call and another are told by one message.
    fn is_like(&self, other: &Self) -> bool {
        self.service_queue == other.service_queue
            && Arc::ptr_eq(&self.reply_queue, &other.reply_queue)
    }
}

/// Receives more calls as long as other tasks that are ready give some up. They run when this task yields.
async fn gather(received: &mut mpsc::UnboundedReceiver<GivenUp>, calls: &mut Vec<GivenUp>) {
    loop {
        tokio::task::yield_now().await;
        let before = calls.len();
        while let Ok(call) = received.try_recv() {
            calls.push(call);
        }
        if calls.len() == before || calls.len() >= MAX_CANCELLED_IDS {
            return;
        }
    }
}
