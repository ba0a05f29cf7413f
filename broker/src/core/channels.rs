//! Opening and closing of connections and channels.

use amq_protocol::protocol::{AMQPClass, channel};

use crate::{
    arguments::short,
    core::{
        Action, Core, Now,
        command::Client,
        connection::{Block, Channel, ConfirmFault, Connection},
    },
    exception::Exception,
    id::{ConnectionId, QueueId},
};

pub(super) fn close_method(exception: &Exception) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: exception.code.number(),
        reply_text: short(&exception.reply_text()),
        class_id: exception.class,
        method_id: exception.method,
    }))
}

impl Core {
    pub(super) fn open_connection(&mut self, id: ConnectionId, client: Client) {
        self.connections.insert(
            id,
            Connection {
                client,
                channels: Default::default(),
                in_flight: 0,
                last_served: QueueId(0),
                block: Block::default(),
                confirms: ConfirmFault::default(),
                writes_denied: false,
                queues_denied: false,
            },
        );
    }

    /// Closes the channels of a connection, and then deletes its exclusive queues.
    pub(super) fn close_connection(&mut self, now: Now, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let numbers: Vec<u16> = connection.channels.keys().copied().collect();
        for number in numbers {
            self.empty_channel(now, id, number);
        }
        self.connections.remove(&id);
        let mut owned: Vec<QueueId> = self
            .queues
            .values()
            .filter(|queue| queue.owner == Some(id))
            .map(|queue| queue.id)
            .collect();
        owned.sort_unstable();
        for queue in owned {
            self.remove_queue(now, queue);
        }
    }

    pub(super) fn open_channel(&mut self, id: ConnectionId, number: u16) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.channels.insert(number, Channel::default());
            self.send(
                id,
                number,
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})),
            );
        }
    }

    pub(super) fn close_channel(&mut self, now: Now, id: ConnectionId, number: u16) {
        self.empty_channel(now, id, number);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.channels.remove(&number);
        }
    }

    /// Ends the consumers of a channel, and then requeues its deliveries. In this order, no requeued
    /// message is delivered to the channel itself.
    pub(super) fn empty_channel(&mut self, now: Now, id: ConnectionId, number: u16) {
        let Some(channel) = self.channel_mut(id, number) else {
            return;
        };
        let consumers: Vec<_> = std::mem::take(&mut channel.consumers)
            .into_values()
            .collect();
        channel.confirm = None;
        if let Some(mut transaction) = channel.transaction.take() {
            channel.unacked.put_back(transaction.take_settled());
        }
        let unacked = channel.unacked.take_all();
        if let Some(reply) = channel.reply.take() {
            self.replies.remove(&reply.token);
        }
        let left: Vec<_> = consumers
            .into_iter()
            .filter_map(|consumer| self.detach(now, consumer))
            .collect();
        self.requeue(now, unacked);
        for queue in left {
            self.dispatch(now, queue);
            self.delete_if_unused(now, queue);
        }
    }

    /// Handles that deliveries were written to the client's socket: its consumers may get more.
    pub(super) fn flushed(&mut self, now: Now, id: ConnectionId, bytes: usize) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.in_flight = connection.in_flight.saturating_sub(bytes);
        let mut queues: Vec<QueueId> = connection
            .channels
            .values()
            .flat_map(|channel| channel.consumers.values())
            .filter_map(|consumer| self.consumers.get(consumer).map(|c| c.queue))
            .collect();
        queues.sort_unstable();
        queues.dedup();
        self.dispatch_in_turn(now, id, queues);
    }

    /// Stops reading from a client that publishes while publishers are blocked.
    pub(super) fn pause_if_blocked(&mut self, id: ConnectionId) {
        let alarm = self.alarm;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if (alarm || connection.block.fault.is_some()) && !connection.block.paused {
            connection.block.paused = true;
            let reason = connection
                .block
                .fault
                .clone()
                .unwrap_or_else(|| "low on memory".to_owned());
            self.send_blocked(id, &reason);
            self.act(id, Action::Pause);
        }
    }
}
