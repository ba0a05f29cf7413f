//! Delivery of messages: to consumers in turn (`basic.deliver`), or in reply to `basic.get`.

use amq_protocol::protocol::{AMQPClass, basic};

use crate::{
    core::{
        Action, Content, Core, Head, Now,
        connection::{Connection, Consumer, DELIVERY_WINDOW, Delivered},
        dead_letter::Reason,
        queues::count,
    },
    exception::Exception,
    id::{ConnectionId, ConsumerId, QueueId},
    queue::Entry,
};
use std::collections::HashMap;

impl Core {
    /// Delivers from a queue while it has messages and a consumer can take them. Drops expired messages
    /// and, at the end, those that exceed the length limit.
    pub(super) fn dispatch(&mut self, now: Now, id: QueueId) {
        self.expire(now, id);
        while self.deliver_one(id) {
            self.expire(now, id);
        }
        // As in RabbitMQ: the message that is now the first may have expired as well.
        if self.trim(id) {
            self.expire(now, id);
        }
        self.arm(id);
    }

    /// Delivers from queues whose consumers share the limit of a connection or a channel: one message
    /// from each in turn, so that no queue uses up the limit. RabbitMQ chooses at random.
    pub(super) fn dispatch_in_turn(
        &mut self,
        now: Now,
        id: ConnectionId,
        mut queues: Vec<QueueId>,
    ) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let last = connection.last_served;
        queues.sort_unstable();
        let next = queues.partition_point(|queue| *queue <= last);
        queues.rotate_left(next);
        for queue in &queues {
            self.expire(now, *queue);
        }
        let mut waiting = queues.clone();
        while !waiting.is_empty() {
            waiting.retain(|queue| {
                let delivered = self.deliver_one(*queue);
                if delivered {
                    self.expire(now, *queue);
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.last_served = *queue;
                    }
                }
                delivered
            });
        }
        for queue in queues {
            self.dispatch(now, queue);
        }
    }

    /// Delivers the next message of a queue, if there is one and a consumer can take it.
    pub(super) fn deliver_one(&mut self, id: QueueId) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            return false;
        };
        if queue.ready() == 0 || queue.consumers.is_empty() {
            return false;
        }
        let (consumers, connections) = (&self.consumers, &self.connections);
        let quorum = queue.settings.quorum;
        let Some(consumer) = queue.next_consumer(|c| can_take(consumers, connections, c, quorum))
        else {
            return false;
        };
        let Some(entry) = queue.pop() else {
            return false;
        };
        self.entries -= 1;
        self.deliver(id, consumer, entry);
        true
    }

    fn deliver(&mut self, queue: QueueId, id: ConsumerId, entry: Entry) {
        let Some(consumer) = self.consumers.get_mut(&id) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(&consumer.connection) else {
            return;
        };
        let Some(channel) = connection.channels.get_mut(&consumer.channel) else {
            return;
        };
        channel.last_tag += 1;
        let quorum = self.queues.get_mut(&queue).is_some_and(|queue| {
            queue.unacked += usize::from(!consumer.no_ack);
            queue.settings.quorum
        });
        let content = Content {
            head: Head::Deliver {
                consumer: consumer.tag.clone(),
                tag: channel.last_tag,
                redelivered: entry.redelivered,
            },
            message: entry.message.clone(),
            delivery_count: (quorum && entry.delivery_count > 0).then_some(entry.delivery_count),
        };
        if !consumer.no_ack {
            consumer.unacked += 1;
            if !quorum {
                channel.limiter.note_delivered();
            }
            let tag = channel.last_tag;
            channel.unacked.push(Delivered {
                tag,
                queue,
                consumer: Some(id),
                entry,
            });
        }
        let (connection, channel) = (consumer.connection, consumer.channel);
        self.deliver_content(connection, channel, content);
    }

    pub(super) fn deliver_content(&mut self, id: ConnectionId, channel: u16, content: Content) {
        let action = Action::Content(channel, content);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.in_flight += action.cost();
        }
        self.act(id, action);
    }

    pub(super) fn get(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        get: &basic::Get,
    ) -> Result<(), Exception> {
        let name = self.queue_name(id, number, get.queue.as_str())?;
        let queue_id = self.find_queue(id, &name)?;
        self.check_exclusive_use(queue_id, None)?;
        self.expire(now, queue_id);
        let Some(queue) = self.queues.get_mut(&queue_id) else {
            return Ok(());
        };
        queue.used = now.instant;
        let Some(entry) = queue.pop() else {
            self.send(
                id,
                number,
                AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})),
            );
            return Ok(());
        };
        self.entries -= 1;
        let left = count(queue.ready());
        // In contrast to `basic.deliver`, RabbitMQ sends the count also if it is zero.
        let delivery_count = queue.settings.quorum.then_some(entry.delivery_count);
        queue.unacked += usize::from(!get.no_ack);
        let Some(channel) = self
            .connections
            .get_mut(&id)
            .and_then(|c| c.channels.get_mut(&number))
        else {
            return Ok(());
        };
        channel.last_tag += 1;
        let tag = channel.last_tag;
        let head = Head::GetOk {
            tag,
            redelivered: entry.redelivered,
            left,
        };
        let content = Content {
            head,
            message: entry.message.clone(),
            delivery_count,
        };
        if !get.no_ack {
            channel.unacked.push(Delivered {
                tag,
                queue: queue_id,
                consumer: None,
                entry,
            });
        }
        self.act(id, Action::Content(number, content));
        self.arm(queue_id);
        Ok(())
    }

    /// Drops expired messages.
    pub(super) fn expire(&mut self, now: Now, id: QueueId) {
        while let Some(entry) = self
            .queues
            .get_mut(&id)
            .and_then(|q| q.pop_expired(now.instant))
        {
            self.entries -= 1;
            self.dead_letter(id, entry.message, Reason::Expired);
        }
    }

    /// Drops messages that exceed the length limit of the queue. Returns whether there were any.
    pub(super) fn trim(&mut self, id: QueueId) -> bool {
        let mut has_dropped = false;
        while let Some(queue) = self
            .queues
            .get_mut(&id)
            .filter(|queue| queue.drops_head() && queue.is_over_length())
        {
            let Some(entry) = queue.pop_overflow() else {
                break;
            };
            self.entries -= 1;
            self.dead_letter(id, entry.message, Reason::MaxLength);
            has_dropped = true;
        }
        has_dropped
    }
}

/// Whether a consumer can take one more message. `quorum` is the type of its queue.
fn can_take(
    consumers: &HashMap<ConsumerId, Consumer>,
    connections: &HashMap<ConnectionId, Connection>,
    id: ConsumerId,
    quorum: bool,
) -> bool {
    let Some(consumer) = consumers.get(&id) else {
        return false;
    };
    let Some(connection) = connections.get(&consumer.connection) else {
        return false;
    };
    if connection.in_flight >= DELIVERY_WINDOW {
        return false;
    }
    let has_room = consumer.no_ack
        || consumer.prefetch == 0
        || consumer.unacked < usize::from(consumer.prefetch);
    has_room
        && connection
            .channels
            .get(&consumer.channel)
            .is_some_and(|channel| quorum || !channel.limiter.is_full())
}
