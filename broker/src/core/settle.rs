//! Deliveries are settled: acknowledged, rejected, given back.

use crate::{
    core::{
        Core, Now,
        connection::{Delivered, Settlement},
        dead_letter::Reason,
    },
    exception::{Exception, not_implemented, precondition_failed},
    id::{ConnectionId, QueueId},
    queue::Queue,
};

impl Core {
    /// Takes deliveries off a channel, and settles them now or, in a transaction, at its commit.
    pub(super) fn settle(
        &mut self,
        now: Now,
        (id, number): (ConnectionId, u16),
        (tag, multiple): (u64, bool),
        how: Settlement,
    ) -> Result<(), Exception> {
        let settled = self.take(id, number, tag, multiple)?;
        let transaction = self
            .channel_mut(id, number)
            .and_then(|channel| channel.transaction.as_mut());
        match transaction {
            Some(transaction) => transaction.settle(how, settled),
            None => self.apply_settlement(now, id, number, how, settled),
        }
        Ok(())
    }

    /// Settles deliveries that were taken off a channel.
    pub(super) fn apply_settlement(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        how: Settlement,
        settled: Vec<Delivered>,
    ) {
        let consumed = settled.iter().filter(|d| d.consumer.is_some()).count();
        let mut queues = Vec::new();
        match how {
            Settlement::Ack => {
                for delivered in &settled {
                    self.release(delivered, &mut queues);
                }
            }
            // The place in a shared prefetch is free only when they are back in their queues,
            // which offer them to others first.
            Settlement::Requeue => self.requeue(now, settled),
            Settlement::Discard => {
                for delivered in settled {
                    self.release(&delivered, &mut queues);
                    self.dead_letter(delivered.queue, delivered.entry.message, Reason::Rejected);
                }
            }
        }
        if let Some(channel) = self.channel_mut(id, number) {
            channel.limiter.note_settled(consumed);
        }
        self.dispatch_after(now, id, number, queues);
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
            self.apply_settlement(now, id, number, Settlement::Requeue, all);
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
            delivered.entry.delivery_count = delivered.entry.delivery_count.saturating_add(1);
            let limit = queue
                .settings
                .delivery_limit
                .filter(|_| queue.settings.quorum);
            if limit.is_some_and(|limit| delivered.entry.delivery_count > limit) {
                self.dead_letter(
                    delivered.queue,
                    delivered.entry.message,
                    Reason::DeliveryLimit,
                );
            } else {
                queue.requeue(delivered.entry);
                self.entries += 1;
            }
        }
        for queue in queues {
            // A classic queue lets go of what is beyond its length before it delivers again, a
            // quorum queue afterwards.
            let quorum = |queue: &Queue| queue.settings.quorum;
            if !self.queues.get(&queue).is_some_and(quorum) {
                self.trim(queue);
            }
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
    fn dispatch_after(&mut self, now: Now, id: ConnectionId, number: u16, queues: Vec<QueueId>) {
        if self
            .channel(id, number)
            .is_some_and(|channel| channel.limiter.is_active())
        {
            let queues = self.queues_of_channel(id, number);
            self.dispatch_in_turn(now, id, queues);
            return;
        }
        for queue in queues {
            self.dispatch(now, queue);
        }
    }
}
