//! Consumers (`basic.qos`, `basic.consume`, `basic.cancel`).

use amq_protocol::protocol::{AMQPClass, basic};

use crate::{
    arguments::short,
    core::{
        Core, Now,
        connection::{Channel, Consumer, ReplyConsumer},
        queues::REPLY_TO,
    },
    exception::{Exception, access_refused, not_allowed, not_implemented, precondition_failed},
    id::{ConnectionId, ConsumerId, Name, QueueId},
    queue::{Queue, Subscriber},
    settings::consumer_priority,
};

impl Core {
    pub(super) fn qos(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        qos: &basic::Qos,
    ) -> Result<(), Exception> {
        let Some(channel) = self.channel_mut(id, number) else {
            return Ok(());
        };
        let shared = if qos.global {
            qos.prefetch_count
        } else {
            // RabbitMQ resets the shared prefetch here.
            channel.prefetch = qos.prefetch_count;
            0
        };
        let was_shared = channel.limiter.is_active();
        let unacked = channel.unacked.len();
        channel.limiter.set(shared, unacked);
        self.send(
            id,
            number,
            AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
        );
        if was_shared {
            let queues = self.queues_of_channel(id, number);
            self.dispatch_in_turn(now, id, queues);
        }
        Ok(())
    }

    pub(super) fn consume(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        consume: basic::Consume,
    ) -> Result<(), Exception> {
        let given = consume.consumer_tag.as_str();
        let tag: Name = if given.is_empty() {
            format!("amq.ctag-{}", self.names.token()).into()
        } else {
            given.into()
        };
        let taken = self.channel(id, number).is_some_and(|channel| {
            channel.consumers.contains_key(&tag)
                || channel.reply.as_ref().is_some_and(|reply| reply.tag == tag)
        });
        if taken {
            return Err(not_allowed(format!(
                "attempt to reuse consumer tag '{tag}'"
            )));
        }
        if consume.queue.as_str() == REPLY_TO {
            return self.consume_replies(id, number, tag, &consume);
        }
        let name = self.queue_name(id, number, consume.queue.as_str())?;
        let queue_id = self.find_queue(id, &name)?;
        let priority = self.queues.get(&queue_id).map_or(Ok(0), |queue| {
            let subject = format!("queue '{name}' in vhost '{}'", queue.vhost);
            consumer_priority(&consume.arguments, queue.settings.quorum, &subject)
        })?;
        let quorum = |queue: &Queue| queue.settings.quorum;
        let limited = |channel: &Channel| channel.limiter.is_active();
        if self.queues.get(&queue_id).is_some_and(quorum)
            && self.channel(id, number).is_some_and(limited)
        {
            let vhost = &self.vhost_of(id)?.name;
            return Err(not_implemented(format!(
                "queue '{name}' in vhost '{vhost}' does not support global qos"
            )));
        }
        self.check_exclusive_use(queue_id, Some(consume.exclusive))?;
        let limit = self.config.limits.consumers;
        if self.consumers.len() >= limit {
            return Err(precondition_failed(format!(
                "cannot consume: consumer limit ({limit}) is reached"
            )));
        }
        let consumer_id = ConsumerId(self.next_id());
        let Some(channel) = self
            .connections
            .get_mut(&id)
            .and_then(|c| c.channels.get_mut(&number))
        else {
            return Ok(());
        };
        channel.consumers.insert(tag.clone(), consumer_id);
        self.consumers.insert(
            consumer_id,
            Consumer {
                connection: id,
                channel: number,
                tag: tag.clone(),
                queue: queue_id,
                no_ack: consume.no_ack,
                exclusive: consume.exclusive,
                prefetch: channel.prefetch,
                unacked: 0,
                priority,
                arguments: consume.arguments,
            },
        );
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.subscribe(Subscriber {
                id: consumer_id,
                priority,
            });
            queue.used = now.instant;
            if consume.exclusive {
                queue.exclusive_consumer = Some(consumer_id);
            }
        }
        if !consume.nowait {
            self.send_consume_ok(id, number, &tag);
        }
        self.dispatch(now, queue_id);
        Ok(())
    }

    fn consume_replies(
        &mut self,
        id: ConnectionId,
        number: u16,
        tag: Name,
        consume: &basic::Consume,
    ) -> Result<(), Exception> {
        if !consume.no_ack {
            return Err(precondition_failed("reply consumer cannot acknowledge"));
        }
        let token = self.names.token();
        let Some(channel) = self.channel_mut(id, number) else {
            return Ok(());
        };
        if channel.reply.is_some() {
            return Err(precondition_failed("reply consumer already set"));
        }
        channel.reply = Some(ReplyConsumer {
            tag: tag.clone(),
            token: token.clone(),
        });
        self.replies.insert(token, (id, number));
        if !consume.nowait {
            self.send_consume_ok(id, number, &tag);
        }
        Ok(())
    }

    pub(super) fn cancel(
        &mut self,
        now: Now,
        id: ConnectionId,
        number: u16,
        cancel: basic::Cancel,
    ) {
        let Some(channel) = self.channel_mut(id, number) else {
            return;
        };
        let tag = cancel.consumer_tag.as_str();
        let consumer = channel.consumers.remove(tag);
        let reply = channel.reply.take_if(|reply| *reply.tag == *tag);
        if let Some(reply) = reply {
            self.replies.remove(&reply.token);
        }
        if !cancel.nowait {
            let ok = basic::CancelOk {
                consumer_tag: cancel.consumer_tag,
            };
            self.send(
                id,
                number,
                AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)),
            );
        }
        if let Some(queue) = consumer.and_then(|consumer| self.detach(now, consumer)) {
            self.dispatch(now, queue);
            self.delete_if_unused(now, queue);
        }
    }

    /// Ends a consumer from the broker's side, and sends `basic.cancel` if the client has the capability.
    pub(super) fn end_consumer(&mut self, now: Now, consumer: ConsumerId) {
        let Some(found) = self.consumers.get(&consumer) else {
            return;
        };
        let (id, number, tag) = (found.connection, found.channel, found.tag.clone());
        let queue = self.detach(now, consumer);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some(channel) = connection.channels.get_mut(&number) {
            channel.consumers.remove(&tag);
        }
        if connection.client.supports_cancel_notify {
            let cancel = basic::Cancel {
                consumer_tag: short(&tag),
                nowait: true,
            };
            self.send(
                id,
                number,
                AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)),
            );
        }
        if let Some(queue) = queue {
            self.dispatch(now, queue);
            self.delete_if_unused(now, queue);
        }
    }

    /// Removes a consumer from its queue, and returns the queue. The consumer's unsettled deliveries stay
    /// on the channel.
    pub(super) fn detach(&mut self, now: Now, id: ConsumerId) -> Option<QueueId> {
        let consumer = self.consumers.remove(&id)?;
        let queue = self.queues.get_mut(&consumer.queue)?;
        queue.unsubscribe(id);
        queue.used = now.instant;
        Some(queue.id)
    }

    /// The queues that a channel consumes from, each once.
    pub(super) fn queues_of_channel(&self, id: ConnectionId, number: u16) -> Vec<QueueId> {
        let Some(channel) = self.channel(id, number) else {
            return Vec::new();
        };
        let mut queues: Vec<_> = channel
            .consumers
            .values()
            .filter_map(|consumer| self.consumers.get(consumer).map(|c| c.queue))
            .collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Refuses a consumer of a queue that has an exclusive consumer, and an exclusive consumer of a queue
    /// that has other consumers. `exclusive` is `None` for `basic.get`.
    pub(super) fn check_exclusive_use(
        &self,
        id: QueueId,
        exclusive: Option<bool>,
    ) -> Result<(), Exception> {
        let Some(queue) = self.queues.get(&id) else {
            return Ok(());
        };
        let wants_alone = exclusive == Some(true)
            && (queue.settings.single_active || !queue.consumers.is_empty());
        if queue.exclusive_consumer.is_some() && exclusive.is_some() || wants_alone {
            return Err(access_refused(format!(
                "queue '{}' in vhost '{}' in exclusive use",
                queue.name, queue.vhost
            )));
        }
        Ok(())
    }

    fn send_consume_ok(&mut self, id: ConnectionId, number: u16, tag: &str) {
        let ok = basic::ConsumeOk {
            consumer_tag: short(tag),
        };
        self.send(
            id,
            number,
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)),
        );
    }
}
