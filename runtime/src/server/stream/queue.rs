//! The queue of a connection's streams (`lepus.stream.<id>`), to which clients send items, credit, probes and
//! cancellations, and the channel that the items of methods are published on.
//!
//! The queue is declared with the first stream of a session, and is gone with it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::outlet::{StreamOutlet, StreamTable, stream_key};
use super::sender::{CloseReason, ServerStream, StreamRequest};
use crate::error::{Error, ErrorKind};
use crate::link::{
    self, Channel, ChannelEvent, ChannelHandler, Connection, ConsumeMode, Consumer, ConsumerEnd,
    DeliveryCallback, Flush, Namespace, Session,
};
use crate::random;
use crate::server::limits::BrokerLimits;
use crate::server::sent_replies::ReplyRefusal;
use crate::stats::Counters;
use crate::wire::batch::{decode_cancelled, decode_credit};
use crate::wire::envelope::{
    CancelHead, ReplyForm, ReplyHead, ReplyStatus, StreamHead, StreamMessage,
};
use crate::wire::message::{IncomingMessage, Outgoing};
use crate::wire::name::Name;
use crate::wire::status::{Code, Status};
use crate::wire::topology::{Queue, Topology};
use crate::wire::value::Table;

/// A stream of which nothing was sent between two of these times gets a probe, which is at most 10 s after its last
/// message.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// The current stream queue of a connection. Its task holds it, so that its channels are gone with the session.
#[derive(Debug, Default)]
pub(crate) struct StreamQueues {
    current: tokio::sync::Mutex<Weak<StreamQueue>>,
}

impl StreamQueues {
    /// The stream queue of this session, which is declared if there is none.
    ///
    /// # Errors
    /// The broker refuses, or the session was lost.
    pub(crate) async fn of(
        &self,
        settings: &StreamSettings,
        session: &Arc<Session>,
    ) -> Result<Arc<StreamQueue>, Error> {
        let mut current = self.current.lock().await;
        let usable = current.upgrade().filter(|queue| {
            queue.outlet.session.generation() == session.generation() && queue.is_open()
        });
        if let Some(queue) = usable {
            return Ok(queue);
        }
        let queue = StreamQueue::set_up(settings, session).await?;
        *current = Arc::downgrade(&queue);
        Ok(queue)
    }
}

/// The settings of a connection that its stream queues need.
pub(crate) struct StreamSettings {
    namespace: Namespace,
    limits: Arc<BrokerLimits>,
    counters: Arc<Counters>,
    app_id: Option<String>,
    max_message: usize,
    tasks: Handle,
}

impl StreamSettings {
    pub(crate) fn new(connection: &Connection) -> Self {
        Self {
            namespace: connection.namespace().clone(),
            limits: connection.shared(BrokerLimits::default),
            counters: connection.counters(),
            app_id: connection.given_name().map(str::to_owned),
            max_message: connection.max_message(),
            tasks: connection.tasks().clone(),
        }
    }
}

/// The stream queue of one session, and the way of its streams to their clients.
#[derive(Debug)]
pub(crate) struct StreamQueue {
    pub(super) outlet: Arc<StreamOutlet>,
    pub(super) streams: Arc<StreamTable<ServerStream>>,
    limits: Arc<BrokerLimits>,
    counters: Arc<Counters>,
    /// The largest message of a client, in bytes.
    max_message: usize,
}

impl StreamQueue {
    async fn set_up(settings: &StreamSettings, session: &Arc<Session>) -> Result<Arc<Self>, Error> {
        let name = Name::parse(format!("lepus.stream.{}", random::identity()))?;
        let scoped = settings.namespace.scope(name.as_str());
        // Deleted when nobody reads it any more, so that a message of a client comes back: a client whose end was lost with
        // the channel of the items learns by that of the end of its stream.
        let mut own = Queue::exclusive(name);
        own.auto_delete = true;
        let topology = Topology::queue(own);
        link::declare(session, &topology, &settings.namespace).await?;
        let outlet = StreamOutlet::open(session, scoped.clone(), settings.app_id.clone()).await?;
        let queue = Arc::new(Self {
            outlet: Arc::new(outlet),
            streams: Arc::new(StreamTable::new(Arc::clone(&settings.counters))),
            limits: Arc::clone(&settings.limits),
            counters: Arc::clone(&settings.counters),
            max_message: settings.max_message,
        });
        let handler = ItemsHandler(Arc::downgrade(&queue));
        queue.outlet.channel.set_handler(Arc::new(handler));
        let channel = Channel::open(session).await?;
        channel.limit_bodies(settings.max_message);
        let weak = Arc::downgrade(&queue);
        let sink: DeliveryCallback = Arc::new(move |delivery| {
            if let Some(queue) = weak.upgrade() {
                queue.message_received(delivery.message);
            }
        });
        let consumer = Consumer::start(&channel, &scoped, ConsumeMode::NoAck(sink), None).await?;
        tracing::debug!(queue = scoped, "consuming the queue of streams");
        settings.tasks.spawn(keep(Arc::clone(&queue), consumer));
        Ok(queue)
    }

    /// Registers a stream. `None` if there is one of the same reply queue and correlation id, or if the queue was lost.
    pub(crate) fn register(&self, request: StreamRequest) -> Option<Arc<ServerStream>> {
        ServerStream::register(&self.outlet, &self.streams, request)
    }

    fn is_open(&self) -> bool {
        self.outlet.channel.is_open() && !self.streams.is_lost()
    }

    /// Ends all streams. None can be added after this.
    fn close_all(&self, reason: &CloseReason) {
        for stream in self.streams.take() {
            stream.close(reason.clone());
        }
    }

    /// Handles a message of a client. Runs on the I/O task.
    fn message_received(&self, message: IncomingMessage) {
        let size = message.size as usize;
        let properties = message.properties;
        if CancelHead::is_in(&properties) {
            let head = CancelHead::from_properties(properties);
            let ids = decode_cancelled(&message.body).unwrap_or_default();
            for (head, id) in head
                .iter()
                .flat_map(|head| ids.iter().map(move |id| (head, id)))
            {
                if let Some(stream) = self.streams.get(&stream_key(&head.reply_to, id)) {
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
        let stream = self.streams.get(&key);
        let of_run = stream
            .as_ref()
            .filter(|stream| stream.is_run(&head.position.run));
        match (head.kind, of_run) {
            (StreamMessage::Credit, Some(stream)) => match decode_credit(&message.body) {
                Some(total) => stream.grant(total),
                None => tracing::debug!("credit of a stream does not decode, dropped"),
            },
            // A client that does not know of the stream's end asks for ever.
            (StreamMessage::Probe, None) => self.refuse_probe(head),
            (kind, _) => match stream {
                Some(stream) if message.body.len() < size => {
                    stream.close(CloseReason::Refused(self.too_large(size)));
                }
                Some(stream) => stream.receive(kind, &head.position, message.body),
                // Items that were on their way when the method answered.
                None => {}
            },
        }
    }

    /// The status for an item over the limit. The channel has left its message out.
    fn too_large(&self, size: usize) -> Status {
        let limit = self.max_message;
        let text = format!("a message of items has {size} bytes, the limit is {limit}");
        Status::new(Code::ResourceExhausted, text)
    }

    /// Tells a client that its stream is not open here.
    fn refuse_probe(&self, head: StreamHead) {
        let status = Status::new(Code::Aborted, "the stream is not open any more");
        let reply = ReplyHead {
            status: ReplyStatus::Failed(status),
            form: ReplyForm::Single,
            correlation_id: Some(head.correlation_id),
            content_type: None,
            server: self.outlet.app_id.clone(),
            headers: Table::new(),
        };
        let message = Outgoing {
            exchange: String::new(),
            routing_key: head.reply_to,
            mandatory: false,
            properties: reply.into_properties(),
            body: Bytes::new(),
        };
        if let Err(error) = self.outlet.channel.publish(&message, Flush::IoTask) {
            tracing::debug!(%error, "a client was not told that its stream is not open");
        }
    }

    /// Notes that the broker has closed the channel of the items, or that the session was lost.
    fn channel_closed(&self, reason: &Error) {
        let Some(refusal) = ReplyRefusal::of(reason) else {
            return self.close_all(&CloseReason::Lost);
        };
        tracing::error!(queue = self.outlet.queue, error = %reason, "the broker closed the channel of streams");
        match refusal {
            ReplyRefusal::TooLarge { limit } => self.limits.set_max_body(limit),
            ReplyRefusal::NotPermitted => self.limits.write_refused(Instant::now()),
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
                match queue.streams.get(&stream_key(&message.routing_key, &id)) {
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

/// Keeps a stream queue and its consumer, and sends probes, until the queue or the channel of the items is lost.
async fn keep(queue: Arc<StreamQueue>, mut consumer: Consumer) {
    let mut probes = interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            // Deliveries go to the callback instead.
            next = consumer.next() => next.err(),
            _ = probes.tick() => {
                if !queue.is_open() {
                    return;
                }
                for stream in queue.streams.all() {
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
        queue.close_all(&reason);
        return;
    }
}
