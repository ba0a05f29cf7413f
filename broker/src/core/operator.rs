//! Commands of operators and tests: deletion, cancellation, injected faults.

use crate::{
    core::{Action, Core, Now, command::Operator},
    id::{ConnectionId, ConsumerId, Name, QueueId},
};

impl Core {
    pub(super) fn operate(&mut self, now: Now, operator: Operator) {
        match operator {
            Operator::DeleteQueue { vhost, name } => {
                if let Some(queue) = self.lookup(&vhost, &name) {
                    self.remove_queue(now, queue);
                }
            }
            Operator::PurgeQueue { vhost, name } => {
                if let Some(queue) = self.lookup(&vhost, &name) {
                    self.purge_ready(queue);
                }
            }
            Operator::CancelConsumers { vhost, queue } => {
                for consumer in self.consumers_of(&vhost, &queue) {
                    self.end_consumer(now, consumer);
                }
            }
            Operator::ForgetConsumers { vhost, queue } => {
                for consumer in self.consumers_of(&vhost, &queue) {
                    self.detach(now, consumer);
                }
            }
            Operator::CancelConsumer {
                connection,
                channel,
                tag,
            } => {
                let consumer = self
                    .channel(connection, channel)
                    .and_then(|channel| channel.consumers.get(&tag).copied());
                if let Some(consumer) = consumer {
                    self.end_consumer(now, consumer);
                }
            }
            Operator::Close(id, exception) => self.fail(now, id, 0, exception),
            Operator::WithholdConfirms(id) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.confirms.withheld = true;
                }
            }
            Operator::ReleaseConfirms(id) => self.release_confirms(now, id),
            Operator::NackNext(id, count) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.confirms.nacks = count;
                }
            }
            Operator::DenyWrites(id, denied) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.writes_denied = denied;
                }
            }
            Operator::DenyQueues(id, denied) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.queues_denied = denied;
                }
            }
            Operator::Block(id, reason) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.block.fault = Some(reason.clone());
                    self.send_blocked(id, &reason);
                }
            }
            Operator::Unblock(id) => self.unblock(id),
        }
    }

    fn consumers_of(&self, vhost: &Name, queue: &Name) -> Vec<ConsumerId> {
        let found = self
            .lookup(vhost, queue)
            .and_then(|queue| self.queues.get(&queue));
        found
            .iter()
            .flat_map(|queue| &queue.consumers)
            .map(|consumer| consumer.id)
            .collect()
    }

    fn release_confirms(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.confirms.withheld = false;
        let mut withheld = Vec::new();
        let mut commits = Vec::new();
        for (number, channel) in &mut connection.channels {
            if let Some(confirm) = &mut channel.confirm {
                withheld.extend(
                    confirm
                        .withheld
                        .drain(..)
                        .map(|(tag, outcome)| (*number, tag, outcome)),
                );
            }
            let transaction = channel.transaction.as_mut();
            let committing = transaction.and_then(|transaction| transaction.committing.take());
            commits.extend(committing.map(|outcome| (*number, outcome)));
        }
        for (number, outcome) in commits {
            self.complete(now, id, number, outcome);
        }
        for (channel, tag, outcome) in withheld {
            self.act(
                id,
                Action::Confirm {
                    channel,
                    tag,
                    outcome,
                },
            );
        }
    }

    fn lookup(&self, vhost: &Name, name: &Name) -> Option<QueueId> {
        self.vhosts.get(vhost)?.queues.get(name).copied()
    }
}
