//! Deliveries to a member of a group, handled as jobs: acknowledged, retried and dead-lettered by
//! the same rules.

use std::convert::Infallible;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::super::buffer::EventBuffer;
use super::super::mode::Group;
use super::super::stream::{Mode, sealed};
use super::group_event::GroupEvent;
use crate::cancellation::Cancellation;
use crate::error::Error;
use crate::link::{Channel, Connection, Delivery};
use crate::policy::verdict::Verdict;
use crate::pubsub::event::{Decoded, Event, EventDecoder, Missed};
use crate::queue::{JobHandler, JobRunner, QueueSpec, RawJob};
use crate::service::BoxFuture;
use crate::stats::HandlerKind;
use crate::worker::{Handler, Settlement};

/// An event that waits for the reader of a stream, and the sender of the reader's verdict.
#[derive(Debug)]
pub struct UnsettledEvent<T> {
    content: Result<Event<T>, Missed>,
    verdict: oneshot::Sender<Verdict>,
    cancelled: Cancellation,
}

impl Mode for Group {
    type Event<T> = GroupEvent<T>;
}

impl sealed::Read for Group {
    type Buffered<T> = UnsettledEvent<T>;

    fn read<T: DeserializeOwned>(
        _: &EventDecoder<T>,
        buffered: UnsettledEvent<T>,
    ) -> Option<Result<GroupEvent<T>, Missed>> {
        let UnsettledEvent {
            content,
            verdict,
            cancelled,
        } = buffered;
        // The connection is lost: the broker delivers the event again, here or elsewhere.
        if cancelled.is_lost() {
            return None;
        }
        Some(match content {
            Ok(event) => Ok(GroupEvent::new(event, verdict, cancelled)),
            Err(missed) => {
                // The receiver is gone if the connection is lost.
                let _ = verdict.send(Verdict::reject(&missed));
                Err(missed)
            }
        })
    }
}

/// Puts events into the buffer of a stream, and waits for the reader's verdicts.
pub(in super::super) struct BufferWork<T> {
    buffer: Arc<EventBuffer<UnsettledEvent<T>>>,
    decoder: EventDecoder<T>,
}

impl<T> BufferWork<T> {
    pub(in super::super) fn new(
        buffer: Arc<EventBuffer<UnsettledEvent<T>>>,
        decoder: EventDecoder<T>,
    ) -> Self {
        Self { buffer, decoder }
    }
}

impl<T: DeserializeOwned + Send + 'static> JobRunner for BufferWork<T> {
    fn kind(&self) -> HandlerKind {
        HandlerKind::Event
    }

    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        let cancelled = job.cancellation.clone();
        let content = match self.decoder.decode(job.into()) {
            Decoded::Event(event) => Ok(event),
            Decoded::Missed(missed) => Err(missed),
            Decoded::Skipped => return Box::pin(std::future::ready(Verdict::DONE)),
        };
        let (verdict, given) = oneshot::channel();
        self.buffer.push(UnsettledEvent {
            content,
            verdict,
            cancelled,
        });
        // A reader that takes the event gives a verdict. If the sender is dropped before, nobody
        // has taken the event.
        Box::pin(async move { given.await.unwrap_or(Verdict::REQUEUE) })
    }
}

impl<T> Drop for BufferWork<T> {
    fn drop(&mut self) {
        self.buffer.end();
    }
}

/// Starts jobs in the order of their deliveries, so that events enter the buffer in that order.
pub(in super::super) struct OrderedJobHandler(Arc<JobHandler>);

impl OrderedJobHandler {
    pub(in super::super) fn new<T: DeserializeOwned + Send + 'static>(
        connection: &Connection,
        spec: QueueSpec,
        work: BufferWork<T>,
    ) -> Self {
        let work = Arc::new(work);
        Self(Arc::new(JobHandler::new(connection, spec, work, None)))
    }
}

impl Handler for OrderedJobHandler {
    const IN_ORDER: bool = true;

    fn handle(
        self: Arc<Self>,
        channel: Arc<Channel>,
        delivery: Delivery,
    ) -> impl Future<Output = Settlement> + Send {
        Arc::clone(&self.0).handle(channel, delivery)
    }

    fn drain(&self) {
        self.0.drain();
    }

    fn lost(&self, queue: &str, channel: &Arc<Channel>, error: &Error) {
        self.0.lost(queue, channel, error);
    }

    fn oversee(&self) -> impl Future<Output = Infallible> + Send {
        self.0.oversee()
    }
}
