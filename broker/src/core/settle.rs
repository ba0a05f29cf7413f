//! Deliveries are settled: acknowledged, rejected, given back.

use crate::{
    core::{Core, Now, connection::Delivered, deadletter::Reason},
    exception::{Exception, not_implemented, precondition_failed},
    id::{ConnectionId, QueueId},
};

impl Core {
    pub(super) fn ack(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        tag: u64,
        multiple: bool,
    ) -> Result<(), Exception> {
        let settled = self.take(id, number, tag, multiple)?;
        let mut queues = Vec::new();
        for delivered in settled {
            self.release(&delivered, &mut queues);
        }
        self.dispatch_after(now, id, number, queues);
        Ok(())
    }

    pub(super) fn reject(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
    ) -> Result<(), Exception> {
        let settled = self.take(id, number, tag, multiple)?;
        if requeue {
            self.requeue(now, settled);
            self.dispatch_after(now, id, number, Vec::new());
            return Ok(());
        }
        let mut queues = Vec::new();
        for delivered in settled {
            self.release(&delivered, &mut queues);
            self.dead_letter(delivered.queue, delivered.entry.message, Reason::Rejected);
        }
        self.dispatch_after(now, id, number, queues);
        Ok(())
    }

    pub(super) fn recover(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        requeue: bool,
    ) -> Result<(), Exception> {
        if !requeue {
            return Err(not_implemented("requeue=false"));
        }
        if let Some(channel) = self.channel_mut(id, number) {
            let all = channel.unacked.take_all();
            self.requeue(now, all);
        }
        Ok(())
    }

    /// Gives deliveries back to where they came from. A quorum queue that has seen a
    /// message come back too often lets it die.
    pub(super) fn requeue(&mut self, now: Now, deliveries: Vec<Delivered>) {
        let mut queues = Vec::new();
        // The latest first: each then goes in at the front, and nothing is moved.
        for mut delivered in deliveries.into_iter().rev() {
            self.release(&delivered, &mut queues);
            let Some(queue) = self.queues.get_mut(&delivered.queue) else {
                continue;
            };
            delivered.entry.redelivered = true;
            delivered.entry.returns = delivered.entry.returns.saturating_add(1);
            let limit = queue
                .settings
                .delivery_limit
                .filter(|_| queue.settings.quorum);
            if limit.is_some_and(|limit| delivered.entry.returns > limit) {
                self.dead_letter(
                    delivered.queue,
                    delivered.entry.message,
                    Reason::DeliveryLimit,
                );
            } else {
                queue.give_back(delivered.entry);
                self.entries += 1;
            }
        }
        for queue in queues {
            self.dispatch(now, queue);
        }
    }

    fn take(
        &mut self,
        id: ConnectionId,
        number: u16,
        tag: u64,
        multiple: bool,
    ) -> Result<Vec<Delivered>, Exception> {
        let Some(channel) = self.channel_mut(id, number) else {
            return Ok(Vec::new());
        };
        let taken = match (multiple, tag) {
            (true, 0) => Some(channel.unacked.take_all()),
            (true, tag) => channel.unacked.take_until(tag),
            (false, tag) => channel.unacked.take(tag).map(|one| vec![one]),
        };
        taken.ok_or_else(|| precondition_failed(format!("unknown delivery tag {tag}")))
    }

    /// Ends the accounts of a delivery, and notes its queue.
    fn release(&mut self, delivered: &Delivered, queues: &mut Vec<QueueId>) {
        if let Some(consumer) = delivered
            .consumer
            .and_then(|id| self.consumers.get_mut(&id))
        {
            consumer.unacked -= 1;
        }
        if let Some(queue) = self.queues.get_mut(&delivered.queue) {
            queue.unacked -= 1;
            if !queues.contains(&queue.id) {
                queues.push(queue.id);
            }
        }
    }

    /// Fills the room that settling made: in the queues concerned, and where the channel
    /// shares one prefetch, in all it consumes from.
    fn dispatch_after(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        mut queues: Vec<QueueId>,
    ) {
        if self
            .channel(id, number)
            .is_some_and(|channel| channel.shared_prefetch > 0)
        {
            queues = self.queues_of_channel(id, number);
        }
        for queue in queues {
            self.dispatch(now, queue);
        }
    }
}
