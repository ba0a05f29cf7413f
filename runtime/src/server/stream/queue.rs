//! The queue of a connection's streams (`lepus.stream.<id>`), to which clients send credit, probes and cancellations,
//! and the channel that their items are published on.
//!
//! The queue is declared with the first stream of a session, and is gone with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::sender::{CloseReason, ServerStream};
use crate::error::{Error, ErrorKind};
use crate::link::{
    self, BurstDetector, Channel, ChannelEvent, ChannelHandler, Connection, ConsumeMode, Consumer,
    ConsumerEnd, DeliveryCallback, Flush, Namespace, Session,
};
use crate::random;
use crate::server::limits::BrokerLimits;
use crate::server::sent_replies::ReplyRefusal;
use crate::stats::Counters;
use crate::sync::lock;
use crate::wire::batch::{decode_cancelled, decode_credit};
use crate::wire::envelope::{
    CancelHead, ReplyForm, ReplyHead, ReplyStatus, StreamHead, StreamMessage,
};
use crate::wire::message::{Incoming, Outgoing};
use crate::wire::name::Name;
use crate::wire::status::{Code, Status};
use crate::wire::topology::{Queue, Topology};

/// A stream of which nothing was sent for this long gets a probe.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The largest message of a client about a stream, in bytes: a cancellation with many ids.
const MAX_MESSAGE: usize = 64 * 1024;

/// The current stream queue of a connection.
#[derive(Debug, Default)]
pub(in crate::server) struct StreamQueues {
    current: tokio::sync::Mutex<Option<Arc<StreamQueue>>>,
}

impl StreamQueues {
    /// The stream queue of this session, which is declared if there is none.
    ///
    /// # Errors
    /// The broker refuses, or the session was lost.
    pub(super) async fn of(
        &self,
        settings: &StreamSettings,
        session: &Arc<Session>,
    ) -> Result<Arc<StreamQueue>, Error> {
        let mut current = self.current.lock().await;
        let usable = current
            .as_ref()
            .filter(|queue| queue.session.generation() == session.generation() && queue.is_open());
        if let Some(queue) = usable {
            return Ok(Arc::clone(queue));
        }
        let queue = StreamQueue::set_up(settings, session).await?;
        *current = Some(Arc::clone(&queue));
        Ok(queue)
    }
}

/// The settings of a connection that its stream queues need.
pub(in crate::server) struct StreamSettings {
    namespace: Namespace,
    limits: Arc<BrokerLimits>,
    counters: Arc<Counters>,
    app_id: Option<String>,
    tasks: Handle,
}

impl StreamSettings {
    pub(in crate::server) fn new(connection: &Connection) -> Self {
        Self {
            namespace: connection.namespace().clone(),
            limits: connection.shared(BrokerLimits::default),
            counters: connection.counters(),
            app_id: connection.given_name().map(str::to_owned),
            tasks: connection.tasks().clone(),
        }
    }
}

/// Streams by the reply queue and the correlation id of their requests.
type Streams = HashMap<Vec<u8>, Arc<ServerStream>>;

/// The key of a stream in [`Streams`].
pub(super) fn stream_key(reply_to: &str, correlation_id: &[u8]) -> Vec<u8> {
    // A queue's name has no zero byte.
    [reply_to.as_bytes(), b"\0", correlation_id].concat()
}

/// The stream queue of one session, and the channel of the items.
pub(super) struct StreamQueue {
    pub(super) session: Arc<Session>,
    /// The channel that items and ends are published on.
    channel: Arc<Channel>,
    /// The channel for the ends of streams whose channel was closed.
    spare: OnceCell<Arc<Channel>>,
    /// The queue's name on the broker.
    pub(super) name: String,
    /// `None` once the queue is lost.
    streams: Mutex<Option<Streams>>,
    burst: BurstDetector,
    limits: Arc<BrokerLimits>,
    counters: Arc<Counters>,
    pub(super) app_id: Option<String>,
}

impl StreamQueue {
    async fn set_up(settings: &StreamSettings, session: &Arc<Session>) -> Result<Arc<Self>, Error> {
        let name = Name::parse(format!("lepus.stream.{}", random::identity()))?;
        let scoped = settings.namespace.scope(name.as_str());
        let topology = Topology::queue(Queue::exclusive(name));
        link::declare(session, &topology, &settings.namespace).await?;
        let queue = Arc::new(Self {
            session: Arc::clone(session),
            channel: Channel::open(session).await?,
            spare: OnceCell::new(),
            name: scoped.clone(),
            streams: Mutex::new(Some(HashMap::new())),
            burst: BurstDetector::default(),
            limits: Arc::clone(&settings.limits),
            counters: Arc::clone(&settings.counters),
            app_id: settings.app_id.clone(),
        });
        queue
            .channel
            .set_handler(Arc::new(ItemsHandler(Arc::downgrade(&queue))));
        let channel = Channel::open(session).await?;
        channel.limit_bodies(MAX_MESSAGE);
        let weak = Arc::downgrade(&queue);
        let sink: DeliveryCallback = Arc::new(move |delivery| {
            if let Some(queue) = weak.upgrade() {
                queue.message_received(delivery.message);
            }
        });
        let consumer = Consumer::start(&channel, &scoped, ConsumeMode::NoAck(sink), None).await?;
        tracing::debug!(queue = scoped, "consuming the queue of streams");
        settings.tasks.spawn(keep(Arc::downgrade(&queue), consumer));
        Ok(queue)
    }

    fn streams(&self) -> MutexGuard<'_, Option<Streams>> {
        lock(&self.streams)
    }

    fn is_open(&self) -> bool {
        self.channel.is_open() && self.streams().is_some()
    }

    /// Adds a stream. `false` if there is one of this key, or if the queue is lost.
    pub(super) fn insert(&self, key: &[u8], stream: &Arc<ServerStream>) -> bool {
        let mut streams = self.streams();
        let Some(streams) = streams.as_mut().filter(|all| !all.contains_key(key)) else {
            return false;
        };
        streams.insert(key.to_owned(), Arc::clone(stream));
        self.counters.open_streams.add();
        true
    }

    pub(super) fn remove(&self, key: &[u8]) {
        let mut streams = self.streams();
        let removed = streams.as_mut().and_then(|streams| streams.remove(key));
        if removed.is_some() {
            self.counters.open_streams.remove();
        }
    }

    fn get(&self, key: &[u8]) -> Option<Arc<ServerStream>> {
        self.streams().as_ref()?.get(key).cloned()
    }

    fn all(&self) -> Vec<Arc<ServerStream>> {
        let streams = self.streams();
        streams
            .iter()
            .flat_map(HashMap::values)
            .map(Arc::clone)
            .collect()
    }

    /// Ends all streams. None can be added after this.
    fn close_all(&self, reason: &CloseReason) {
        let streams = self.streams().take();
        for stream in streams.into_iter().flat_map(HashMap::into_values) {
            self.counters.open_streams.remove();
            stream.close(reason.clone());
        }
    }

    /// Appends a message to the write buffer; [`flush`](Self::flush) writes it.
    ///
    /// # Errors
    /// The channel is closed.
    pub(super) fn append(&self, message: &Outgoing) -> Result<(), Error> {
        self.channel.publish(message, Flush::Deferred).map(drop)
    }

    pub(super) fn flush(&self) {
        self.channel.flush(self.burst.next());
    }

    /// Publishes the end of a stream whose channel was closed.
    pub(super) async fn publish_on_spare(&self, message: &Outgoing) -> Result<(), Error> {
        let open = || Channel::open(&self.session);
        let channel = self.spare.get_or_try_init(open).await?;
        channel.publish(message, Flush::Inline).map(drop)
    }

    /// Handles a message of a client. Runs on the I/O task.
    fn message_received(&self, message: Incoming) {
        let properties = message.properties;
        if CancelHead::is_in(&properties) {
            let head = CancelHead::from_properties(properties);
            let ids = decode_cancelled(&message.body).unwrap_or_default();
            for (head, id) in head
                .iter()
                .flat_map(|head| ids.iter().map(move |id| (head, id)))
            {
                if let Some(stream) = self.get(&stream_key(&head.reply_to, id)) {
                    stream.close(CloseReason::Cancelled);
                }
            }
            return;
        }
        let Some(head) = StreamHead::from_properties(properties) else {
            tracing::debug!("message on the queue of streams is of no known type, dropped");
            return;
        };
        let key = stream_key(&head.reply_to, &head.correlation_id);
        let stream = self
            .get(&key)
            .filter(|stream| stream.is_run(&head.position.run));
        match (head.kind, stream) {
            (StreamMessage::Credit, Some(stream)) => match decode_credit(&message.body) {
                Some(total) => stream.grant(total),
                None => tracing::debug!("credit of a stream does not decode, dropped"),
            },
            // A client that does not know of the stream's end asks for ever.
            (StreamMessage::Probe, None) => self.refuse_probe(head),
            _ => {}
        }
    }

    /// Tells a client that its stream is not open here.
    fn refuse_probe(&self, head: StreamHead) {
        let status = Status::new(Code::Aborted, "the stream is not open any more");
        let reply = ReplyHead {
            status: ReplyStatus::Failed(status),
            form: ReplyForm::Single,
            correlation_id: Some(head.correlation_id),
            content_type: None,
            server: self.app_id.clone(),
            headers: crate::wire::value::Table::new(),
        };
        let message = Outgoing {
            exchange: String::new(),
            routing_key: head.reply_to,
            mandatory: false,
            properties: reply.into_properties(),
            body: bytes::Bytes::new(),
        };
        if let Err(error) = self.channel.publish(&message, Flush::IoTask) {
            tracing::debug!(%error, "a client was not told that its stream is not open");
        }
    }

    /// Notes that the broker has closed the channel of the items, or that the session was lost.
    fn channel_closed(&self, reason: &Error) {
        let Some(refusal) = ReplyRefusal::of(reason) else {
            return self.close_all(&CloseReason::Lost);
        };
        tracing::error!(queue = self.name, error = %reason, "the broker closed the channel of streams");
        match refusal {
            ReplyRefusal::TooLarge { limit } => self.limits.set_max_body(limit),
            ReplyRefusal::NotPermitted => self.limits.write_refused(tokio::time::Instant::now()),
            ReplyRefusal::Unrelated | ReplyRefusal::Unknown => {}
        }
        self.close_all(&CloseReason::ChannelClosed(reason.to_string()));
    }
}

/// Handles the events of the channel of the items.
struct ItemsHandler(Weak<StreamQueue>);

impl ChannelHandler for ItemsHandler {
    fn on_event(&self, event: ChannelEvent) {
        let Some(queue) = self.0.upgrade() else {
            return;
        };
        match event {
            ChannelEvent::Returned(message) => {
                let id = message.properties.correlation_id.unwrap_or_default();
                match queue.get(&stream_key(&message.routing_key, &id)) {
                    Some(stream) => stream.close(CloseReason::ClientGone),
                    // The end of a stream.
                    None => queue.counters.returned_replies.add(),
                }
            }
            ChannelEvent::Closed(reason) => queue.channel_closed(&reason),
            ChannelEvent::Confirmed(_) | ChannelEvent::Delivered(_) | ChannelEvent::Cancelled => {}
        }
    }
}

/// Keeps the consumer of a stream queue, and sends probes, until the queue is lost.
async fn keep(queue: Weak<StreamQueue>, mut consumer: Consumer) {
    let mut probes = tokio::time::interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            // Deliveries go to the callback instead.
            next = consumer.next() => next.err(),
            _ = probes.tick() => {
                let Some(queue) = queue.upgrade() else { return };
                for stream in queue.all() {
                    stream.probe();
                }
                None
            }
        };
        let reason = match ended {
            None => continue,
            Some(ConsumerEnd::Cancelled) => {
                CloseReason::ChannelClosed("the queue of streams was deleted".to_owned())
            }
            Some(ConsumerEnd::Lost(error)) => match error.kind() {
                ErrorKind::Broker { .. } => CloseReason::ChannelClosed(error.to_string()),
                _ => CloseReason::Lost,
            },
        };
        if let Some(queue) = queue.upgrade() {
            queue.close_all(&reason);
        }
        return;
    }
}

impl std::fmt::Debug for StreamQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamQueue")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
