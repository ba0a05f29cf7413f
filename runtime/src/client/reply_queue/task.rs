//! The task that keeps a reply queue: it declares and consumes one on each session, and replaces the
//! channel for requests if the broker closes it.
//!
//! The channel for requests is no `publish::CachedChannel`, which a caller opens when it finds none. Publishing
//! a request does not wait for a channel: if it is closed, that is an error, and this task opens another one.
//! Its handler, which completes the calls of this reply queue alone, has to be set before the first request.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::in_flight::InFlightCalls;
use super::open_streams::OpenStreams;
use super::queue::{ReplyQueue, ReplyQueueStatus};
use crate::error::{Error, ErrorKind};
use crate::link::{
    self, BurstDetector, Channel, ChannelEvent, ChannelHandler, Connection, ConsumeMode, Consumer,
    ConsumerEnd, DeliveryCallback, Link, Namespace, Session,
};
use crate::policy::backoff::Backoff;
use crate::random::{self, Secret};
use crate::stats::Counters;
use crate::wire::name::Name;
use crate::wire::reply_code;
use crate::wire::topology::{Queue, Topology};

/// The pause before another attempt to open the channel for requests.
const CHANNEL_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Sets up a reply queue on each session of the publishing link.
pub(super) struct ReplyQueueTask {
    link: Link,
    namespace: Namespace,
    backoff: Backoff,
    max_message: usize,
    counters: Arc<Counters>,
}

impl ReplyQueueTask {
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            link: connection.publishing().clone(),
            namespace: connection.namespace().clone(),
            backoff: Backoff::new(connection.backoff()),
            max_message: connection.max_message(),
            counters: connection.counters(),
        }
    }

    /// Runs until the connection is closed.
    pub(super) async fn run(mut self, status: watch::Sender<ReplyQueueStatus>) {
        loop {
            let Ok(session) = self.link.session().await else {
                return;
            };
            match self.set_up(&session).await {
                Ok((queue, consumer)) => {
                    self.backoff.reset();
                    let _guard = FailPendingOnDrop {
                        queue: Arc::clone(&queue),
                        status: &status,
                    };
                    tracing::debug!(queue = queue.name, "consuming the reply queue");
                    status.send_replace(ReplyQueueStatus::Current(Arc::clone(&queue)));
                    let reason = serve(&queue, consumer).await;
                    status.send_replace(ReplyQueueStatus::Absent);
                    queue.fail_all(&reason);
                }
                Err(error) if error.is_closed() => return,
                // The session has ended, and the next one is waited for above.
                Err(error) if error.is_disconnected() => {
                    status.send_replace(ReplyQueueStatus::Absent);
                }
                Err(error) => {
                    // Calls end with this error at once. It needs an operator, and none of their deadlines is
                    // worth waiting for.
                    if error.amqp_code() == Some(reply_code::ACCESS_REFUSED) {
                        status.send_replace(ReplyQueueStatus::Refused(error.clone()));
                    }
                    tracing::warn!(%error, "cannot set up the reply queue, trying again");
                    tokio::time::sleep(self.backoff.next(random::fraction())).await;
                }
            }
        }
    }

    async fn set_up(&self, session: &Arc<Session>) -> Result<(Arc<ReplyQueue>, Consumer), Error> {
        // The name is new in each generation, because the broker may still hold the previous queue for a
        // connection whose end it has not noticed. A server-named queue would have a prefix that tells an
        // operator nothing.
        let name = Name::parse(format!("lepus.reply.{}", random::identity()))?;
        let scoped = self.namespace.scope(name.as_str());
        let topology = Topology::queue(Queue::exclusive(name));
        link::declare(session, &topology, &self.namespace).await?;
        let request_channel = Channel::open(session).await?;
        let queue = Arc::new(ReplyQueue {
            session: Arc::clone(session),
            request_channel: Mutex::new(Arc::clone(&request_channel)),
            name: scoped.clone(),
            secret: Secret::new(),
            in_flight: InFlightCalls::new(Arc::clone(&self.counters)),
            streams: OpenStreams::new(Arc::clone(&self.counters)),
            burst: BurstDetector::default(),
            published: AtomicU64::new(0),
            request_channel_closed: Notify::new(),
            upload_channel: tokio::sync::Mutex::default(),
            max_message: self.max_message,
            counters: Arc::clone(&self.counters),
        });
        request_channel.set_handler(RequestChannelHandler::of(&queue));
        let reply_channel = Channel::open(session).await?;
        reply_channel.limit_bodies(self.max_message);
        // A weak reference: the channel for replies must not keep the channel for requests open.
        let weak_queue = Arc::downgrade(&queue);
        let sink: DeliveryCallback = Arc::new(move |delivery| {
            if let Some(queue) = weak_queue.upgrade() {
                queue.reply_received(delivery.message);
            }
        });
        let consumer =
            Consumer::start(&reply_channel, &scoped, ConsumeMode::NoAck(sink), None).await?;
        Ok((queue, consumer))
    }
}

/// Handles the events of the channel for requests.
struct RequestChannelHandler(Weak<ReplyQueue>);

impl RequestChannelHandler {
    fn of(queue: &Arc<ReplyQueue>) -> Arc<Self> {
        Arc::new(Self(Arc::downgrade(queue)))
    }
}

impl ChannelHandler for RequestChannelHandler {
    fn on_event(&self, event: ChannelEvent) {
        let Some(queue) = self.0.upgrade() else {
            return;
        };
        match event {
            ChannelEvent::Returned(message) => {
                queue.request_returned(message.properties.correlation_id.as_deref());
            }
            ChannelEvent::Closed(reason) => {
                tracing::debug!(%reason, "the channel for requests was closed");
                queue.request_channel_closed.notify_one();
                // Without a reply code, the whole session has ended, and `serve` ends all calls.
                if reason.amqp_code().is_some() {
                    queue.in_flight.channel_refused(&reason);
                }
            }
            ChannelEvent::Confirmed(_) | ChannelEvent::Delivered(_) | ChannelEvent::Cancelled => {}
        }
    }
}

/// Ends all calls of a reply queue when its task is dropped. That happens when the task's runtime ends,
/// while calls may wait on another runtime.
struct FailPendingOnDrop<'a> {
    queue: Arc<ReplyQueue>,
    status: &'a watch::Sender<ReplyQueueStatus>,
}

impl Drop for FailPendingOnDrop<'_> {
    fn drop(&mut self) {
        self.status.send_replace(ReplyQueueStatus::Absent);
        self.queue.fail_all(&Error::new(ErrorKind::Closed));
    }
}

/// Keeps the channels of a reply queue until no more replies can come, and returns the reason. The replies
/// themselves are handled on the I/O task.
async fn serve(queue: &Arc<ReplyQueue>, mut consumer: Consumer) -> Error {
    let keeping = keep_request_channel(queue);
    let granting = queue.keep_streams();
    let consuming = async {
        loop {
            match consumer.next().await {
                // Deliveries of a consumer without acknowledgements go to its sink instead.
                Ok(_) => {}
                Err(ConsumerEnd::Cancelled) => {
                    return Error::new(ErrorKind::Disconnected)
                        .caused_by("the reply queue was deleted");
                }
                Err(ConsumerEnd::Lost(error)) => {
                    return if error.is_disconnected_or_closed() {
                        error
                    } else {
                        Error::new(ErrorKind::Disconnected).caused_by(error)
                    };
                }
            }
        }
    };
    tokio::pin!(keeping, consuming);
    tokio::select! {
        reason = &mut consuming => reason,
        never = granting => match never {},
        // This ends only with the session, and the consumer does then as well.
        () = &mut keeping => consuming.await,
    }
}

/// Opens the channel for requests again when it is closed, for as long as the session lives.
async fn keep_request_channel(queue: &Arc<ReplyQueue>) {
    loop {
        if queue.request_channel().is_open() {
            queue.request_channel_closed.notified().await;
        } else if !queue.session.is_up() {
            return;
        } else {
            match Channel::open(&queue.session).await {
                Ok(channel) => {
                    channel.set_handler(RequestChannelHandler::of(queue));
                    queue.set_request_channel(channel);
                    // Credit may have been lost with the channel before.
                    queue.grant_again();
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot open the channel for requests, trying again");
                    tokio::time::sleep(CHANNEL_RETRY_PAUSE).await;
                }
            }
        }
    }
}
