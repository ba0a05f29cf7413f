//! The runner that gives events to a closure.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::setup::MissedSink;
use crate::policy::verdict::{IntoVerdict, Verdict};
use crate::pubsub::event::{Decoded, Event, EventDecoder};
use crate::queue::{JobRunner, RawJob};
use crate::service::BoxFuture;
use crate::stats::HandlerKind;

/// Gives events to a closure, whose result is the verdict.
pub(super) struct HandlerRunner<T, H> {
    decoder: EventDecoder<T>,
    handler: Arc<H>,
    on_missed: MissedSink,
    payload: PhantomData<fn(T)>,
}

impl<T, H> HandlerRunner<T, H> {
    pub(super) fn new(decoder: EventDecoder<T>, handler: H, on_missed: MissedSink) -> Self {
        Self {
            decoder,
            handler: Arc::new(handler),
            on_missed,
            payload: PhantomData,
        }
    }
}

impl<T, H, F> JobRunner for HandlerRunner<T, H>
where
    T: DeserializeOwned + Send + 'static,
    H: Fn(Event<T>) -> F + Send + Sync + 'static,
    F: Future<Output: IntoVerdict> + Send + 'static,
{
    fn kind(&self) -> HandlerKind {
        HandlerKind::Event
    }

    fn run(&self, job: RawJob) -> BoxFuture<Verdict> {
        let verdict = match self.decoder.decode(job.into()) {
            Decoded::Event(event) => {
                let handler = Arc::clone(&self.handler);
                return Box::pin(async move { handler(event).await.into_verdict() });
            }
            Decoded::Missed(missed) => {
                let verdict = Verdict::undecodable(&missed);
                (self.on_missed)(missed);
                verdict
            }
            Decoded::Skipped => Verdict::DONE,
        };
        Box::pin(std::future::ready(verdict))
    }
}
