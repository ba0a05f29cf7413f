//! A group's deliveries, which are jobs: settled, tried again and buried as those are.

mod held;
mod stream;

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

pub use held::Held;
pub use stream::GroupSubscription;

use super::event::{Event, Missed};
use super::reader::{Read, Reader};
use super::shelf::Shelf;
use super::station::Tell;
use crate::error::Error;
use crate::link::{Channel, Connection, Delivery};
use crate::policy::verdict::{IntoVerdict, Verdict};
use crate::queue::{Cancelled, JobHandler, JobRunner, QueueSpec, RawJob};
use crate::service::BoxFuture;
use crate::worker::{Handler, Settlement};

/// An event that waits for its reader, and the way to say what became of it.
#[derive(Debug)]
pub(super) struct Parcel<T> {
    pub(super) content: Result<Event<T>, Missed>,
    pub(super) verdict: oneshot::Sender<Verdict>,
    pub(super) cancelled: Cancelled,
}

pub(super) fn shelf<T>() -> Arc<Shelf<Parcel<T>>> {
    Arc::new(Shelf::new())
}

/// Presents events to a reader, one after the other, and waits for its verdicts.
pub(super) struct Presenter<T> {
    shelf: Arc<Shelf<Parcel<T>>>,
    reader: Reader<T>,
}

impl<T> Presenter<T> {
    pub(super) fn new(shelf: Arc<Shelf<Parcel<T>>>, reader: Reader<T>) -> Self {
        Self { shelf, reader }
    }
}

impl<T: DeserializeOwned + Send + 'static> JobRunner for Presenter<T> {
    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        let cancelled = job.cancelled.clone();
        let content = match self.reader.read(job.into()) {
            Read::Event(event) => Ok(event),
            Read::Missed(missed) => Err(missed),
            Read::Skipped => return Box::pin(std::future::ready(Verdict::DONE)),
        };
        let (verdict, told) = oneshot::channel();
        self.shelf.push(Parcel {
            content,
            verdict,
            cancelled,
        });
        // Whoever takes the parcel gives a verdict; one that nobody took is untouched.
        Box::pin(async move { told.await.unwrap_or(Verdict::REQUEUE) })
    }
}

impl<T> Drop for Presenter<T> {
    fn drop(&mut self) {
        self.shelf.end();
    }
}

/// Handles jobs in the order of their deliveries, up to the moment when each is presented.
pub(super) struct InOrder(Arc<JobHandler>);

impl InOrder {
    pub(super) fn new<T: DeserializeOwned + Send + 'static>(
        connection: &Connection,
        spec: QueueSpec,
        presenter: Presenter<T>,
    ) -> Self {
        let work = Arc::new(presenter);
        Self(Arc::new(JobHandler::new(connection, spec, work, None)))
    }
}

impl Handler for InOrder {
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

/// Gives events to a closure.
pub(super) struct Each<T, H> {
    reader: Reader<T>,
    handler: Arc<H>,
    tell: Tell,
    takes: PhantomData<fn(T)>,
}

impl<T, H> Each<T, H> {
    pub(super) fn new(reader: Reader<T>, handler: H, tell: Tell) -> Self {
        Self {
            reader,
            handler: Arc::new(handler),
            tell,
            takes: PhantomData,
        }
    }
}

impl<T, H, F> JobRunner for Each<T, H>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Event<T>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoVerdict> + Send + 'static,
{
    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        let verdict = match self.reader.read(job.into()) {
            Read::Event(event) => {
                let handler = Arc::clone(&self.handler);
                return Box::pin(async move { handler(event).await.into_verdict() });
            }
            Read::Missed(missed) => {
                let verdict = Verdict::reject(&missed);
                (self.tell)(missed);
                verdict
            }
            Read::Skipped => Verdict::DONE,
        };
        Box::pin(std::future::ready(verdict))
    }
}
