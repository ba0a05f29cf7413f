//! Deliveries of a broadcast subscription to a handler with layers.

use std::sync::Arc;

use tokio::sync::watch;

use super::handler::{EventArrival, EventRuns};
use crate::cancellation::{Cancellation, StopSignal};
use crate::error::Error;
use crate::link::{Channel, Connection, Delivery};
use crate::pubsub::event::RawEvent;
use crate::queue::{JobRunner, RawJob};
use crate::worker::{Handler, Settlement, report_loss};

/// Gives events to layers, and to the closure inside them.
pub(in super::super) struct LayeredBroadcastHandler {
    runner: Arc<dyn JobRunner>,
    runs: EventRuns,
    stop: watch::Sender<StopSignal>,
}

impl LayeredBroadcastHandler {
    pub(in super::super) fn new(
        runner: Arc<dyn JobRunner>,
        (connection, exchange): (&Connection, &str),
    ) -> Self {
        Self {
            runner,
            runs: EventRuns::new(connection, exchange),
            stop: watch::Sender::new(StopSignal::default()),
        }
    }
}

impl Handler for LayeredBroadcastHandler {
    async fn handle(self: Arc<Self>, channel: Arc<Channel>, delivery: Delivery) -> Settlement {
        let arrived = EventArrival::of(&delivery);
        let RawEvent { context, body } = delivery.message.into();
        let job = RawJob {
            body,
            context: context.clone(),
            cancellation: Cancellation::new(&channel, self.stop.subscribe()),
        };
        let handler = async { self.runner.run(job).await };
        self.runs.run(context, arrived, handler).await;
        Settlement::Ack
    }

    fn drain(&self) {
        self.stop.send_modify(|stop| stop.is_draining = true);
    }

    fn lost(&self, queue: &str, _: &Arc<Channel>, error: &Error) {
        report_loss(queue, error);
        self.stop.send_modify(|stop| stop.lost_channels += 1);
    }
}
