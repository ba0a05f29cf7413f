//! Transactions (`tx.select`): publishes and settlements of a channel that wait for `tx.commit`.
//!
//! As in RabbitMQ, a commit is not atomic: it publishes the messages one after the other, and then
//! settles the deliveries. If a queue rejects a message, the other messages stay in their queues, and
//! the channel is closed.

use amq_protocol::protocol::{AMQPClass, tx};

use crate::{
    core::{
        Core, Now, Outcome,
        connection::{Channel, Transaction},
        methods::unexpected,
        publish::Enqueued,
    },
    exception::{Code, Exception, precondition_failed},
    id::{ConnectionId, QueueId},
};

impl Core {
    pub(super) fn transaction_method(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        method: &tx::AMQPMethod,
    ) -> Result<(), Exception> {
        match method {
            tx::AMQPMethod::Select(_) => self.select(id, number),
            tx::AMQPMethod::Commit(_) => self.commit(now, id, number),
            tx::AMQPMethod::Rollback(_) => self.roll_back(id, number),
            _ => Err(unexpected()),
        }
    }

    /// Refuses methods that arrive before the reply to `tx.commit` was sent.
    pub(super) fn check_not_committing(
        &self,
        id: ConnectionId,
        number: u16,
    ) -> Result<(), Exception> {
        let transaction = self
            .channel(id, number)
            .and_then(|channel| channel.transaction.as_ref());
        if transaction.is_some_and(|transaction| transaction.committing.is_some()) {
            return Err(Exception::new(
                Code::ChannelError,
                "unexpected command while processing 'tx.commit'",
            ));
        }
        Ok(())
    }

    fn select(&mut self, id: ConnectionId, number: u16) -> Result<(), Exception> {
        let Some(channel) = self.channel_mut(id, number) else {
            return Ok(());
        };
        if channel.confirm.is_some() {
            return Err(precondition_failed("cannot switch from confirm to tx mode"));
        }
        channel.transaction.get_or_insert_default();
        let ok = tx::AMQPMethod::SelectOk(tx::SelectOk {});
        self.send(id, number, AMQPClass::Tx(ok));
        Ok(())
    }

    fn commit(&mut self, now: Now, id: ConnectionId, number: u16) -> Result<(), Exception> {
        let channel = self.channel_mut(id, number);
        let transaction = std::mem::take(transaction(channel)?);
        let waits = !transaction.published.is_empty();
        let outcome = self.route_published(now, id, number, &transaction);
        let withheld = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.confirms.withheld);
        let is_complete = outcome == Outcome::Ack && !(waits && withheld);
        // Before the settlements, because the reply does not wait for them: deliveries that they make
        // room for are sent after it.
        if is_complete {
            self.complete(now, id, number, outcome);
        }
        for (how, settled) in transaction.settled {
            self.apply_settlement(now, id, number, how, settled);
        }
        if waits && withheld {
            let channel = self.channel_mut(id, number);
            self::transaction(channel)?.committing = Some(outcome);
        } else if !is_complete {
            self.complete(now, id, number, outcome);
        }
        Ok(())
    }

    /// Publishes the messages of a transaction.
    fn route_published(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        transaction: &Transaction,
    ) -> Outcome {
        let mut outcome = Outcome::Ack;
        for published in &transaction.published {
            let vhost = self
                .connections
                .get(&id)
                .and_then(|connection| self.vhosts.get(&connection.client.vhost));
            let find = |name| vhost.and_then(|vhost| vhost.queues.get(name).copied());
            let queues: Vec<QueueId> = published.queues.iter().filter_map(find).collect();
            let message = &published.message;
            let taken = self.distribute(now, (id, number), message, queues, published.mandatory);
            let confirms = self.connections.get_mut(&id).map(|c| &mut c.confirms);
            let nacked = confirms.is_some_and(|confirms| {
                let nacked = confirms.nacks > 0;
                confirms.nacks = confirms.nacks.saturating_sub(1);
                nacked
            });
            if taken == Enqueued::NotByAll || nacked {
                outcome = Outcome::Nack;
            }
        }
        outcome
    }

    /// Sends the reply to a commit.
    pub(super) fn complete(&mut self, now: Now, id: ConnectionId, number: u16, outcome: Outcome) {
        match outcome {
            Outcome::Ack => {
                let ok = tx::AMQPMethod::CommitOk(tx::CommitOk {});
                self.send(id, number, AMQPClass::Tx(ok));
            }
            Outcome::Nack => {
                let exception = precondition_failed("partial tx completion").of(90, 20);
                self.fail(now, id, number, exception);
            }
        }
    }

    /// Drops the published messages. Deliveries that were settled are unsettled again.
    fn roll_back(&mut self, id: ConnectionId, number: u16) -> Result<(), Exception> {
        let channel = self.channel_mut(id, number);
        let mut undone = std::mem::take(transaction(channel)?);
        if let Some(channel) = self.channel_mut(id, number) {
            channel.unacked.put_back(undone.take_settled());
        }
        let ok = tx::AMQPMethod::RollbackOk(tx::RollbackOk {});
        self.send(id, number, AMQPClass::Tx(ok));
        Ok(())
    }
}

/// The transaction of a channel, or an exception if the channel is not transactional.
fn transaction(channel: Option<&mut Channel>) -> Result<&mut Transaction, Exception> {
    channel
        .and_then(|channel| channel.transaction.as_mut())
        .ok_or_else(|| precondition_failed("channel is not transactional"))
}
